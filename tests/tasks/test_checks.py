"""What a worker warns of when it starts."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_locks import Backoff, LockedTask
from celery_locks.stores.memory import MemoryStore
from celery_locks.tasks.worker import checks
from tests.support.servers import RedisServer
from tests.tasks.conftest import Shop


def nothing() -> None:
    """Does nothing."""


def warned(visibility: int | None, broker: str = "redis://", acks_late: bool = False, **options: Any) -> list[str]:
    """The warnings of an app with one task."""
    app = Celery(broker=broker, set_as_current=False)
    app.conf.broker_transport_options = {} if visibility is None else {"visibility_timeout": visibility}
    app.task(nothing, name="one", base=LockedTask, shared=False, acks_late=acks_late, **options)
    app.finalize()
    own = [task for task in checks.locked_tasks(app) if task.name == "one"]  # every app has shared tasks, too
    return checks.warnings(app, MemoryStore(), own)


@pytest.mark.parametrize(
    ("visibility", "options", "remedy"),
    [
        (30, {}, "Set it in broker_transport_options to 60 or more, or lower the backoff's cap"),
        (3600, {"lock_backoff": Backoff(cap=7200)}, "to 14400 or more"),
        (None, {"lock_backoff": Backoff(cap=7200)}, "to 14400 or more"),
        (600, {"lock_on_contention": "park", "lock_park_safety_copy": True}, "to 1200 or more"),
        (60, {"lock_on_contention": "wait", "acks_late": True, "lock_max_wait": 90}, "Set lock_max_wait below it"),
        (60, {"lock_on_contention": "wait", "acks_late": True}, "in its slot for an unlimited time"),
    ],
)
def test_a_visibility_timeout_that_is_too_short(visibility: int, options: dict[str, Any], remedy: str) -> None:
    [warning] = warned(visibility, **options)
    assert "one" in warning
    assert remedy in warning


@pytest.mark.parametrize(
    ("visibility", "options"),
    [
        (60, {}),
        (None, {}),
        (None, {"broker": "filesystem://", "lock_backoff": Backoff(cap=7200)}),
        (30, {"lock_enabled": False}),
        (30, {"lock_on_contention": "park"}),
        (30, {"lock_on_contention": "skip"}),
        (60, {"lock_on_contention": "wait"}),
        (60, {"lock_on_contention": "wait", "acks_late": True, "lock_max_wait": 50}),
    ],
)
def test_one_that_is_long_enough(visibility: int | None, options: dict[str, Any]) -> None:
    assert warned(visibility, **options) == []


@pytest.mark.slow
def test_promise_22_a_worker_warns_when_it_starts(start_redis: Any, open_shop: Any) -> None:
    server: RedisServer = start_redis(maxmemory_policy="volatile-lru", options={"maxmemory": "100mb", "save": '""'})
    shop: Shop = open_shop(SHOP_URL=server.url(), SHOP_VISIBILITY="30")
    log = shop.start_worker(pool="solo").logs()
    for part in ("maxmemory-policy volatile-lru", "keeps nothing on disk", "visibility_timeout of 30 s is too short"):
        assert part in log
    assert "clock" not in log
