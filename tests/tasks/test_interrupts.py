"""A signal that strikes anywhere in a run: what the run had is released, and the next run of its key works."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.worker.request import Request

from celery_locks import LockedTask, Locks
from celery_locks.renewal import keeper
from celery_locks.stores.memory import MemoryStore
from tests.support.interrupts import Check, Work, failures, within

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

#: Each way in which a run ends, and the state of its result.
OUTCOMES = {
    "succeeds": "SUCCESS",
    "fails": "FAILURE",
    "retries": "RETRY",
    "until_executed": "SUCCESS",
    "parks": "WAITING",
}
WAYS = tuple(OUTCOMES)
numbers = itertools.count()


class Site:
    """An app whose messages are run in this process, as a worker's pool runs them."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.app = app = Celery("interrupted", broker="memory://", backend="cache+memory://", set_as_current=False)
        app.conf.update(locks_url=self.store, task_default_queue="interrupts")
        options: dict[str, Any] = {
            "base": LockedTask,
            "bind": True,
            "shared": False,
            "lock_key": "<key>",
            "lock_ttl": 60,
        }

        @app.task(name="succeeds", **options)
        def succeeds(task: Any, key: str) -> int:
            return 1

        @app.task(name="fails", **options)
        def fails(task: Any, key: str) -> None:
            raise ValueError("the body fails, by itself")

        @app.task(name="retries", **options)
        def retries(task: Any, key: str) -> None:
            task.retry(countdown=0)

        @app.task(name="until_executed", lock_scope="until_executed", **options)
        def until_executed(task: Any, key: str) -> int:
            return 1

        @app.task(name="parks", lock_on_contention="park", **options)
        def parks(task: Any, key: str) -> int:
            return 1

        app.finalize()
        self.locks = Locks(self.store)

    def request(self, name: str, key: str) -> Request:
        """A run's message, taken from the broker as a worker does."""
        task = self.app.tasks[name]
        with self.app.connection_for_read() as connection, connection.SimpleQueue("interrupts") as queue:
            queue.clear()  # of what an interrupted run has sent
            task.delay(key)
            message = queue.get(timeout=10)
            message.ack()
        return Request(message, app=self.app, hostname="w1", task=task)

    def in_use(self, key: str) -> bool:
        return bool(self.locks.lock(key).holders())


def interrupted(way: str, every: int) -> tuple[list[str], int]:
    site = Site()
    for name in ("succeeds", way):  # what is imported and made at the first run alone is not the run's
        site.request(name, "first").execute()
    assert within(3, lambda: not site.in_use("first"))
    return failures(lambda: interruptible(site, way), SoftTimeLimitExceeded, every)


def interruptible(site: Site, way: str) -> tuple[Work, Check]:
    """Return a run to be interrupted, and what then looks at what it left."""
    key = f"key-{next(numbers)}"
    blocker = site.locks.lock(key).acquire() if way == "parks" else None
    request = site.request(way, key)

    def check(error: BaseException | None) -> str:
        ended = site.app.AsyncResult(request.id)
        # Celery takes any `Exception` while a retry is published for a failure of that, and rejects the message.
        rejected = way == "retries" and ended.state == "PENDING"
        if not (rejected or ended.state == OUTCOMES[way] or isinstance(ended.result, SoftTimeLimitExceeded)):
            return f"ended {ended.state}: {ended.result!r}"
        if blocker is not None:
            others = [holder.token for holder in site.locks.lock(key).holders() if holder.token != blocker.token]
            if others or [lease for lease in keeper().leases() if lease.token != blocker.token]:
                return f"holders {others}, renewed {keeper().leases()}"
            blocker.release()
            return ""
        if not within(3, lambda: not site.in_use(key) and not keeper().leases()):
            return f"holders {site.locks.lock(key).holders()}, renewed {keeper().leases()}"
        nxt = site.request("succeeds", key)
        nxt.execute()
        state = site.app.AsyncResult(nxt.id).state
        return "" if state == "SUCCESS" else f"the next run is {state}"

    return request.execute, check


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(100, logger="celery"):
        yield


@pytest.mark.parametrize("way", WAYS)
def test_promise_40_a_run_that_is_interrupted_leaves_nothing_at_some_places(way: str) -> None:
    wrong, total = interrupted(way, 13)
    assert total > 100
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_promise_40_a_run_that_is_interrupted_leaves_nothing_at_any_place(way: str) -> None:
    wrong, _ = interrupted(way, 1)
    assert not wrong, "\n".join(wrong)
