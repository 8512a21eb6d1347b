"""The stores that need no server, held against the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.sqlite import SQLiteStore
from celery_locks.testing import MovableClock, StoreCompliance


class OnAMovableClock(StoreCompliance):
    @pytest.fixture(autouse=True)
    def clock(self) -> MovableClock:
        self._clock = MovableClock()
        return self._clock

    def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)


class TestMemory(OnAMovableClock):
    @pytest.fixture
    def store(self, clock: MovableClock) -> Store:
        return MemoryStore(clock)


class TestSQLite(OnAMovableClock):
    @pytest.fixture
    def store(self, clock: MovableClock, tmp_path: Path) -> Store:
        return SQLiteStore(str(tmp_path / "locks.db"), clock=clock)

    @pytest.fixture
    def another(self, store: Store, clock: MovableClock, tmp_path: Path) -> Store:
        return SQLiteStore(str(tmp_path / "locks.db"), clock=clock)


@pytest.mark.slow
class TestSQLiteInRealTime(StoreCompliance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return SQLiteStore(str(tmp_path / "locks.db"))

    @pytest.fixture
    def another(self, store: Store, tmp_path: Path) -> Store:
        return SQLiteStore(str(tmp_path / "locks.db"))
