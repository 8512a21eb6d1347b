"""Tools that freeze time in tests, such as freezegun, freeze nothing of the stores in this process."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from celery_locks import Locks
from celery_locks._runtime.clock import monotonic
from celery_locks.errors import LockLost, LockTimeout, StoreUnavailable
from celery_locks.stores import parallel
from celery_locks.stores.base import Store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.parking import Parking
from celery_locks.stores.sharded import Sharded
from celery_locks.stores.sqlite import SQLiteStore
from celery_locks.stores.types import Claim, Granted, Refused
from tests.support.frozen_time import frozen_time

PATIENCE = 30.0
TTL = 0.5
KINDS: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: MemoryStore(),
    "sqlite": lambda folder: SQLiteStore(str(folder / "locks.db"), timeout=0.2),
    "sharded": lambda folder: Sharded({"a": MemoryStore(), "b": MemoryStore()}),
}


@pytest.fixture(params=[False, True], ids=["frozen", "moved"])
def frozen(request: pytest.FixtureRequest) -> Iterator[None]:
    with frozen_time(ticking=request.param):
        yield


def ends(function: Callable[[], object]) -> bool:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("frozen")
class TestStores:
    @pytest.fixture
    def store(self, kind: str, tmp_path: Path) -> Store:
        return KINDS[kind](tmp_path)

    def test_leases_end(self, store: Store) -> None:
        assert isinstance(store.acquire(Claim("p:{k}", "a", "", 0.05)), Granted)
        assert isinstance(store.acquire(Claim("p:{k}", "b", "", 60)), Refused)
        threading.Event().wait(0.06)
        assert isinstance(store.acquire(Claim("p:{k}", "b", "", 60)), Granted)

    def test_waiting_ends(self, store: Store) -> None:
        store.acquire(Claim("p:{k}", "a", "", 60))
        store.acquire(Claim("p:{k}", "b", "", 60), 60.0)
        assert ends(lambda: store.wait("p:{k}", "b", 0.1))
        assert isinstance(store, Parking)
        assert ends(lambda: store.await_due("p", "", 0.1))


@pytest.mark.usefixtures("frozen")
def test_a_busy_file_is_given_up(tmp_path: Path) -> None:
    store = KINDS["sqlite"](tmp_path)
    store.ping()

    def ping() -> None:
        with pytest.raises(StoreUnavailable, match="busy"):
            store.ping()

    with closing(sqlite3.connect(tmp_path / "locks.db", isolation_level=None, check_same_thread=False)) as db:
        db.execute("BEGIN IMMEDIATE")
        assert ends(ping)


@pytest.mark.usefixtures("frozen")
def test_a_store_that_hangs_is_not_waited_for() -> None:
    hang = threading.Event()
    assert ends(lambda: parallel.ask([hang.wait], 0.1))
    hang.set()


@pytest.mark.parametrize("kind", ["memory", "redis"])
@pytest.mark.usefixtures("frozen")
class TestLocks:
    """What users see: every wait ends, and every lease lives and ends, in real time."""

    @pytest.fixture
    def locks(self, kind: str, request: pytest.FixtureRequest) -> Iterator[Locks]:
        locks = Locks(MemoryStore() if kind == "memory" else request.getfixturevalue("redis_url"), prefix="frozen")
        yield locks
        locks.close()

    def test_a_lease_is_renewed(self, locks: Locks) -> None:
        with locks.lock("k", TTL) as lease:
            pause(3 * TTL)
            assert 0 < lease.remaining() <= TTL
            assert locks.lock("k").try_acquire() is None

    def test_a_lease_expires(self, locks: Locks) -> None:
        lease, lost = locks.lock("k", TTL, renew=False).acquire(), threading.Event()
        lease.on_lost(lambda *_: lost.set())
        assert lost.wait(PATIENCE)
        assert lease.lost_reason == "expired"
        with pytest.raises(LockLost):
            lease.check()
        with locks.lock("k").acquire(timeout=PATIENCE):
            pass

    def test_the_longest_holding_ends(self, locks: Locks) -> None:
        lease, lost = locks.lock("k", TTL, max_hold=2 * TTL).acquire(), threading.Event()
        lease.on_lost(lambda *_: lost.set())
        assert lost.wait(PATIENCE)
        assert lease.lost_reason == "max_hold"

    def test_a_wait_times_out(self, locks: Locks) -> None:
        with locks.lock("k"):
            for attempts in (None, 3):
                begun = monotonic()
                with pytest.raises(LockTimeout):
                    locks.lock("k").acquire(timeout=0.3, attempts=attempts)
                assert 0.2 < monotonic() - begun < PATIENCE

    def test_a_wait_is_woken(self, locks: Locks) -> None:
        lease = locks.lock("k").acquire()
        timer = threading.Timer(0.2, lease.release)
        timer.start()
        with locks.lock("k").acquire(timeout=PATIENCE):
            timer.join()

    def test_a_place_in_line_is_kept(self, locks: Locks) -> None:
        lease = locks.lock("k").acquire()
        ticket = locks.lock("k").enqueue()
        with pytest.raises(LockTimeout):
            ticket.wait(timeout=0.2)
        lease.release()
        assert ticket.wait(timeout=PATIENCE).release()


def pause(seconds: float) -> None:
    """Let time pass for what runs in the background."""
    threading.Event().wait(seconds)
