"""A lease: one small object in the store that says who works, and until when that is believed without a sign of life.

Whoever holds it renews it while working and gives it back at the end. After a crash it expires. Every write has a condition, so
of several that try to take it one gets it. Expiry compares clocks of different machines: it should be minutes, not seconds.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pydantic import Field

from drrho_clip.errors import ConfigError, DataError, LeaseLost, ObjectChanged, StorageError
from drrho_clip.observe import get_logger
from drrho_clip.schema import Config

if TYPE_CHECKING:
    from drrho_clip.storage import Store

RENEWALS = 3
"""How often a lease is renewed while it lasts."""


class Lease(Config):
    """Who holds it (nobody: empty), for how long after each sign of life, and until when as things stand (UNIX time)."""

    holder: str
    seconds: float = Field(gt=0)
    expires: float

    def held(self, now: float) -> bool:
        """Whether somebody holds it."""
        return bool(self.holder) and now < self.expires


def take_lease(store: Store, key: str, holder: str, seconds: float) -> Lease:
    """Take the lease at `key` for `holder`, who may have it already; return it as it then is: where it was taken, another's."""
    if not holder:
        raise ConfigError("A lease needs a holder", fix="Give the name of the run that takes it.")
    while True:
        now = time.time()
        lease, etag = _read(store, key)
        if lease is not None and lease.held(now) and lease.holder != holder:
            return lease
        mine = Lease(holder=holder, seconds=seconds, expires=now + seconds)
        if _write(store, key, mine, etag):
            return mine


def renew_lease(store: Store, key: str, holder: str) -> Lease:
    """Extend the lease by its time, also one that ran out unnoticed; LeaseLost where somebody else has it or nobody does."""
    while True:
        lease, etag = _read(store, key)
        if lease is None or lease.holder != holder:
            raise LeaseLost(
                f"'{holder}' no longer holds the lease: "
                + (f"'{lease.holder}' does" if lease and lease.holder else "nobody does"),
                where=store.uri_of(key),
                fix="It ran out while its holder did nothing. Start again; that of a schedule lasts lease_minutes.",
            )
        renewed = lease.model_copy(update={"expires": time.time() + lease.seconds})
        if _write(store, key, renewed, etag):
            return renewed


def release_lease(store: Store, key: str, holder: str) -> None:
    """Give the lease back; what somebody else holds stays as it is."""
    while True:
        lease, etag = _read(store, key)
        if lease is None or lease.holder != holder:
            return
        if _write(store, key, lease.model_copy(update={"holder": "", "expires": 0.0}), etag):
            return


class KeptLease:
    """A lease that is renewed in a thread as long as the `with` block runs; given back where that fails, or was `finished`.

    Entering takes it up again where the step before failed and gave it back; LeaseLost where somebody else has it.
    """

    def __init__(self, store: Store, key: str, holder: str, seconds: float) -> None:
        self._store, self._key, self._holder, self._seconds = store, key, holder, seconds
        self._finished = False
        self._lost: LeaseLost | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def finished(self) -> None:
        """The work that the lease is for ends with this block."""
        self._finished = True

    def check(self) -> None:
        """LeaseLost where somebody else has it: to be called before what only its holder may do."""
        if self._lost is not None:
            raise self._lost

    def __enter__(self) -> Self:
        """See the class."""
        lease = take_lease(self._store, self._key, self._holder, self._seconds)
        if lease.holder != self._holder:
            renew_lease(self._store, self._key, self._holder)  # raises, and says who has it
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """See the class."""
        self._end.set()
        self._thread.join()
        if self._finished or kind is not None:
            try:
                release_lease(self._store, self._key, self._holder)
            except StorageError as failure:  # it expires by itself; the error that ended the block is the one to show
                get_logger().warning("lease_not_released", lease=self._key, reason=str(failure))

    def _renew(self) -> None:
        while not self._end.wait(self._seconds / RENEWALS):
            try:
                renew_lease(self._store, self._key, self._holder)
            except LeaseLost as error:
                self._lost = error
                get_logger().error("lease_lost", lease=self._key, reason=str(error))
                return
            except StorageError as error:
                get_logger().warning("lease_not_renewed", lease=self._key, reason=str(error))


def _read(store: Store, key: str) -> tuple[Lease | None, str | None]:
    while True:
        info = store.head(key)
        if info is None:
            return None, None
        try:
            return Lease.model_validate_json(store.read(key, etag=info.etag)), info.etag
        except ObjectChanged:
            continue
        except ValueError:
            raise DataError("This is no lease", where=store.uri_of(key), fix="Delete it.") from None


def _write(store: Store, key: str, lease: Lease, etag: str | None) -> bool:
    """Whether it was written: False where another was faster."""
    try:
        store.write(key, lease.model_dump_json().encode(), if_absent=etag is None, if_match=etag)
    except ObjectChanged:
        return False
    return True
