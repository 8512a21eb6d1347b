"""Stores that the compliance suites are held against: each a mixin with the fixtures that they ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.parking import FIRST_DISPATCH, STORE_GRACE
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.sqlite import SQLiteStore
from celery_locks.testing import MovableClock, ValueCompliance
from celery_locks.testing.compliance.adoption import HandedOver
from celery_locks.testing.compliance.answers import HoldersAndRefusals
from celery_locks.testing.compliance.brokers import Brokers
from celery_locks.testing.compliance.early_parking import EarlyParking
from celery_locks.testing.compliance.renewals import Renewals
from celery_locks.testing.compliance.waking import Waking
from tests.support.proxy import Proxy

#: How every script computes the time, in microseconds.
NOW = "local now = time[1] * 1000000 + time[2]"


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


class WithShortDelays:
    """Parking in Redis in real time, where `FIRST_DISPATCH` and `STORE_GRACE` last this many seconds."""

    first_dispatch = store_grace = 1.5

    @pytest.fixture(autouse=True)
    def _short_delays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def line(constant: str, seconds: float) -> str:
            return f"local {constant} = {seconds * 1e6:.0f}\n"

        shorter = {
            line("FIRST_DISPATCH", FIRST_DISPATCH): line("FIRST_DISPATCH", self.first_dispatch),
            line("STORE_GRACE", STORE_GRACE): line("STORE_GRACE", self.store_grace),
        }
        assert all(long in scripts.END_RUN.text for long in shorter)
        for name, script in list(vars(scripts).items()):
            if isinstance(script, Script) and any(long in script.text for long in shorter):
                text = script.text
                for long, short in shorter.items():
                    text = text.replace(long, short)
                monkeypatch.setattr(scripts, name, Script(text))


class OnAMovedServerClock:
    """On Redis, with scripts that add to the server's time what a test has let pass.

    Keys still expire by the server's own clock. Classes in real time test that.
    """

    @pytest.fixture(autouse=True)
    def _moved_scripts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch, self._passed = monkeypatch, 0
        self._texts = {name: script.text for name, script in vars(scripts).items() if isinstance(script, Script)}

    def pass_time(self, seconds: float) -> None:
        self._passed += round(seconds * 1e6) + 20_000
        for name, text in self._texts.items():
            moved = text.replace(NOW, f"{NOW} + {self._passed}")
            assert moved != text or "'TIME'" not in text, f"{name} reads the time in another way"
            self._monkeypatch.setattr(scripts, name, Script(moved))


class AnswersOfEachKind(Renewals, Waking, HoldersAndRefusals, ValueCompliance):
    """The part of the compliance suite that gets every form of answer, for settings of a client."""


class ParkingAnswersOfEachKind(EarlyParking, HandedOver, Brokers):
    """The same part of what is promised about parking."""


class OnRedis:
    """In real time, on the flavour that the cluster does not run on, where there are two."""

    short = 0.5  # the server has half of it to answer, also on a busy machine

    @pytest.fixture
    def store(self, second_flavour_url: str) -> Store:
        return RedisStore(second_flavour_url)

    @pytest.fixture
    def another(self, store: Store, second_flavour_url: str) -> Store:
        return RedisStore(second_flavour_url)

    @contextmanager
    def losing_a_reply(self, store: RedisStore) -> Iterator[Store]:
        place = store._connections.settings
        with Proxy(place["port"]) as proxy:
            proxy.drop_reply(1, command="EVALSHA")
            with closing(RedisStore(f"redis://127.0.0.1:{proxy.port}/{place['db']}")) as unlucky:
                yield unlucky
            assert proxy.drops_left == 0
