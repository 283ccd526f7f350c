"""How a run and the launcher that waits for it know of each other: the launcher renews one small object in the store.

The training measures with its own clock how long the object's ETag has stayed the same, so that no two clocks need to agree.
The object also says who holds the run, so that no second launcher starts what another one still watches.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextvars import copy_context
from types import TracebackType
from typing import Self

from drrho_clip.errors import LaunchError, ObjectMissing, StorageError
from drrho_clip.observe import get_logger
from drrho_clip.storage import Store, layout

RENEWED_SECONDS = 20.0
LOOKED_SECONDS = 15.0


class Heartbeat:
    """The launcher's side: while the context is open, the object is renewed and `holder` has the run.

    LaunchError where another holder lives. A holder that ended without a word is waited for over two renewals.
    """

    def __init__(self, store: Store, run: str, holder: str, *, every: float = RENEWED_SECONDS) -> None:
        self.store, self.run, self.holder, self.every = store, run, holder, every
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._refuse_second()
        self._write(ended=False)
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._closed.set()
        self._thread.join()
        try:
            self._write(ended=True)
        except StorageError as error:
            get_logger().warning("heartbeat_failed", reason=str(error))

    def _refuse_second(self) -> None:
        key = layout.run_launcher(self.run)
        found = self.store.head(key)
        try:
            known = json.loads(self.store.read(key)) if found else {"ended": True}
        except ObjectMissing:
            return
        if found is None or known["ended"] or known["holder"] == self.holder:
            return
        get_logger().info("launcher_waits", reason=f"'{known['holder']}' held the run: does it still live?")
        until = time.monotonic() + 2 * self.every
        while time.monotonic() < until:
            time.sleep(self.every / 10)
            now = self.store.head(key)
            if now is not None and now.etag != found.etag:
                raise LaunchError(
                    f"Run '{self.run}' is being trained by '{known['holder']}'",
                    where=self.store.uri_of(key),
                    fix="Wait for it, stop it, or choose another run name.",
                )

    def _beat(self) -> None:
        while not self._closed.wait(self.every):
            try:
                self._write(ended=False)
            except StorageError as error:
                get_logger().warning("heartbeat_failed", reason=str(error))

    def _write(self, *, ended: bool) -> None:
        content = {"holder": self.holder, "renewed": time.time(), "ended": ended}
        self.store.write(layout.run_launcher(self.run), json.dumps(content).encode())


class LauncherWatch:
    """The training's side: looks at the object while the context is open; `timeout` 0 = nobody is expected to watch.

    Until training starts, a lost launcher ends the process at once with exit code 0, so that nothing starts it again: there is
    nothing to save yet, and processes that wait for each other look at no flag. From then on rank 0 says so in `lost`.
    """

    def __init__(self, store: Store, run: str, timeout: float) -> None:
        self.store, self.run, self.timeout = store, run, timeout
        self.lost = False
        self._training = False
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        if self.timeout:
            in_context = copy_context().run  # what every line of this process says: run and rank
            threading.Thread(target=in_context, args=(self._look,), name="launcher-watch", daemon=True).start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._closed.set()

    def training(self, rank: int) -> None:
        """From here on rank 0 looks for all."""
        self._training = True
        if rank != 0:
            self._closed.set()

    def _look(self) -> None:
        etag, changed = None, time.monotonic()
        while not self._closed.wait(min(LOOKED_SECONDS, self.timeout / 4)):
            seen = self._etag()
            if seen is not None and seen != etag:
                etag, changed = seen, time.monotonic()
            elif time.monotonic() - changed > self.timeout:
                self._give_up()
                return

    def _etag(self) -> str | None:
        try:
            found = self.store.head(layout.run_launcher(self.run))
            return found.etag if found else None
        except StorageError:  # what cannot be asked was not heard of either
            return None

    def _give_up(self) -> None:
        then = "stopping after a checkpoint" if self._training else "ending before the first step"
        get_logger().error("abandoned", reason=f"the launcher was not heard of for {self.timeout:g} s; {then}")
        self.lost = True
        if not self._training:
            os._exit(0)
