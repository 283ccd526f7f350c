from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from drrho_clip.errors import ConfigError, DataError, LeaseLost
from drrho_clip.storage import Store
from drrho_clip.storage.lease import KeptLease, Lease, release_lease, renew_lease, take_lease

HOUR = 3600.0
KEY = "leases/nightly.json"


def held(store: Store, key: str = KEY) -> Lease:
    return Lease.model_validate_json(store.read(key))


def expire(store: Store) -> None:
    store.write(KEY, held(store).model_copy(update={"expires": time.time() - 1}).model_dump_json().encode())


def test_one_holds_it_until_it_is_given_back(folder_store: Store):
    assert take_lease(folder_store, KEY, "first", HOUR).holder == "first"
    assert take_lease(folder_store, KEY, "second", HOUR).holder == "first"
    assert take_lease(folder_store, KEY, "first", HOUR).holder == "first"  # a step that is tried again
    assert take_lease(folder_store, "leases/weekly.json", "second", HOUR).holder == "second"
    release_lease(folder_store, KEY, "second")
    assert held(folder_store).holder == "first"
    release_lease(folder_store, KEY, "first")
    assert take_lease(folder_store, KEY, "second", HOUR).holder == "second"


def test_one_that_expired_is_taken_by_the_next_and_lost_for_the_first(folder_store: Store):
    take_lease(folder_store, KEY, "first", HOUR)
    expire(folder_store)
    assert renew_lease(folder_store, KEY, "first").expires > time.time()  # nobody wanted it meanwhile
    expire(folder_store)
    assert take_lease(folder_store, KEY, "second", HOUR).holder == "second"
    with pytest.raises(LeaseLost, match=r"'first' no longer holds the lease: 'second' does.*lease_minutes"):
        renew_lease(folder_store, KEY, "first")
    with pytest.raises(LeaseLost), KeptLease(folder_store, KEY, "first", HOUR):
        raise AssertionError("the step must not start")
    assert held(folder_store).holder == "second"


@pytest.mark.parametrize("expired", [False, True], ids=["free", "expired"])
def test_of_several_one_gets_it(store: Store, expired: bool):
    if expired:
        take_lease(store, KEY, "crashed", HOUR)
        expire(store)
    together = threading.Barrier(4)

    def take(holder: str) -> str:
        together.wait()
        return take_lease(store, KEY, holder, HOUR).holder

    holders = ["a", "b", "c", "d"]
    with ThreadPoolExecutor(4) as pool:
        winners = set(pool.map(take, holders))
    assert len(winners) == 1
    assert winners == {held(store).holder} <= set(holders)


def test_it_is_renewed_while_the_work_goes_on(folder_store: Store):
    with KeptLease(folder_store, KEY, "me", 0.3):
        first = held(folder_store).expires
        deadline = time.monotonic() + 30
        while held(folder_store).expires == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert held(folder_store).expires > first
    assert held(folder_store).holder == "me"  # for the next step


def test_it_is_given_back_at_the_end_of_the_work_and_by_a_step_that_fails(folder_store: Store):
    with KeptLease(folder_store, KEY, "me", HOUR) as lease:
        lease.finished()
    assert not held(folder_store).held(time.time())
    with pytest.raises(ZeroDivisionError), KeptLease(folder_store, KEY, "me", HOUR):
        _ = 1 / 0
    assert not held(folder_store).held(time.time())
    with KeptLease(folder_store, KEY, "me", HOUR):  # tried again
        assert held(folder_store).held(time.time())


def test_what_is_no_lease_is_said(folder_store: Store):
    folder_store.write(KEY, b"{}")
    with pytest.raises(DataError, match="This is no lease"):
        take_lease(folder_store, KEY, "me", HOUR)
    with pytest.raises(ConfigError, match="needs a holder"):
        take_lease(folder_store, "leases/other.json", "", HOUR)
