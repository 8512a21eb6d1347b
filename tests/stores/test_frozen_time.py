"""Tools that freeze time in tests, such as freezegun, freeze nothing of the stores in this process."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from celery_locks.errors import StoreUnavailable
from celery_locks.stores import together
from celery_locks.stores.base import Claim, Granted, Refused, Store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.parking import Parking
from celery_locks.stores.sharded import Sharded
from celery_locks.stores.sqlite import SQLiteStore

PATIENCE = 30.0
KINDS: dict[str, Callable[[Path], Store]] = {
    "memory": lambda folder: MemoryStore(),
    "sqlite": lambda folder: SQLiteStore(str(folder / "locks.db"), timeout=0.2),
    "sharded": lambda folder: Sharded({"a": MemoryStore(), "b": MemoryStore()}),
}


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As freezegun does it: the functions of `time`, and what any module of ours has imported of them."""
    real = {function: function() for function in (time.time, time.monotonic, time.perf_counter)}
    for module in [time, *(module for name, module in sys.modules.items() if name.startswith("celery_locks"))]:
        for name, value in list(vars(module).items()):
            if callable(value) and any(value is function for function in real):
                monkeypatch.setattr(module, name, lambda now=real[value]: now)


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
    assert ends(lambda: together.ask([hang.wait], 0.1))
    hang.set()
