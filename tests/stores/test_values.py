"""Values, in every store, held against the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.sqlite import SQLiteStore
from celery_locks.testing import MovableClock, ValueCompliance


class OnAMovableClock(ValueCompliance):
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


class TestRedis(ValueCompliance):
    @pytest.fixture
    def store(self, each_redis_url: str) -> Store:
        return RedisStore(each_redis_url)

    @pytest.fixture
    def another(self, store: Store, each_redis_url: str) -> Store:
        return RedisStore(each_redis_url)
