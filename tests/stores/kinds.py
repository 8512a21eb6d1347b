"""Stores that the compliance suites are held against: each a mixin with the fixtures that they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.parking import STORE_GRACE
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.sqlite import SQLiteStore
from celery_locks.testing import MovableClock, ValueCompliance
from celery_locks.testing.renewals import Renewals
from celery_locks.testing.told import Told
from celery_locks.testing.waking import Waking
from tests.support.proxy import Proxy


class OnAMovableClock:
    """Time passes when a test says so."""

    @pytest.fixture(autouse=True)
    def clock(self) -> MovableClock:
        self._clock = MovableClock()
        return self._clock

    def pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)


class InMemory(OnAMovableClock):
    @pytest.fixture
    def store(self, clock: MovableClock) -> Store:
        return MemoryStore(clock)


class OnSQLite(OnAMovableClock):
    @pytest.fixture
    def store(self, clock: MovableClock, tmp_path: Path) -> Store:
        return SQLiteStore(str(tmp_path / "locks.db"), clock=clock)

    @pytest.fixture
    def another(self, store: Store, clock: MovableClock, tmp_path: Path) -> Store:
        return SQLiteStore(str(tmp_path / "locks.db"), clock=clock)


class WithShortGrace:
    """Parking in Redis in real time, where `STORE_GRACE` lasts this many seconds."""

    store_grace = 1.5

    @pytest.fixture(autouse=True)
    def _short_grace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        long, short = (f"local STORE_GRACE = {seconds * 1e6:.0f}" for seconds in (STORE_GRACE, self.store_grace))
        assert long in scripts.END_RUN.text
        for name, script in vars(scripts).items():
            if isinstance(script, Script) and long in script.text:
                monkeypatch.setattr(scripts, name, Script(script.text.replace(long, short)))


class AnswersOfEachKind(Renewals, Waking, Told, ValueCompliance):
    """The part of the compliance suite that gets every form of answer, for settings of a client."""


class OnRedis:
    """In real time, on each flavour that there is."""

    @pytest.fixture
    def store(self, each_redis_url: str) -> Store:
        return RedisStore(each_redis_url)

    @pytest.fixture
    def another(self, store: Store, each_redis_url: str) -> Store:
        return RedisStore(each_redis_url)

    @contextmanager
    def losing_a_reply(self, store: RedisStore) -> Iterator[Store]:
        place = store._connections.settings
        with Proxy(place["port"]) as proxy:
            proxy.drop_reply(1, command="EVALSHA")
            with closing(RedisStore(f"redis://127.0.0.1:{proxy.port}/{place['db']}")) as unlucky:
                yield unlucky
            assert proxy.drops_left == 0
