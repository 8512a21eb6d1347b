"""One run at a time for a key: on each pool and each store, with each broker, and with two workers."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from pytest_celery import CELERY_RABBITMQ_BROKER, CeleryTestSetup, CeleryWorkerCluster, CeleryWorkerContainer

from celery_locks import Locks
from tests.acceptance import tasks
from tests.acceptance.runs import SOON, fences_grow, most_at_once, runs_of
from tests.acceptance.tasks import parks, retries


@pytest.fixture
def check_a_key(celery_locks: Locks, held_lock: Any, assert_free: Any, wait_in_line: Any) -> Callable[[str], None]:
    """One run at a time for this key, with tokens that grow, parked ones in order, and no other key in the way."""

    def check(key: str) -> None:
        with held_lock(key) as held:
            results = [retries.delay(key, seconds=0.02) for _ in range(4)]
            other = retries.delay(f"{key}0").get(timeout=SOON)
            assert not any(result.ready() for result in results), "a key that is held was no hindrance"
        runs = runs_of(results)
        assert most_at_once(runs) == 1
        assert fences_grow([{"fence": held.fencing_token}, *runs])
        assert [run["retries"] for run in (*runs, other)] == [0] * 5, "the task's own retries were used"

        with held_lock(key):
            results = wait_in_line(parks, key, 4)
            assert [waiter.task_id for waiter in celery_locks.info(key).line] == [result.id for result in results]
        in_order = [result.get(timeout=SOON) for result in results]
        assert runs_of(results) == in_order
        assert most_at_once(in_order) == 1
        assert fences_grow([*runs, *in_order])
        for name in (key, f"{key}0"):
            assert_free(name)

    return check


@pytest.mark.parametrize("worker_pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
def test_each_pool(worker_pool: str, celery_setup: CeleryTestSetup, check_a_key: Any, key: str) -> None:
    check_a_key(key)


@pytest.mark.parametrize(
    "celery_locks_store", ["celery_locks_postgresql_store", "celery_locks_sqlite_store"], indirect=True
)
def test_each_store(celery_setup: CeleryTestSetup, check_a_key: Any, key: str) -> None:
    check_a_key(key)


@pytest.mark.slow
@pytest.mark.parametrize("celery_broker", [CELERY_RABBITMQ_BROKER], indirect=True)
def test_rabbitmq(celery_setup: CeleryTestSetup, check_a_key: Any, key: str) -> None:
    check_a_key(key)


@pytest.mark.slow
class TestTwoWorkers:
    @pytest.fixture
    def celery_worker_cluster(self, two_workers: CeleryWorkerCluster) -> CeleryWorkerCluster:
        return two_workers

    @pytest.fixture
    def worker_pool(self) -> str:
        return "solo"

    @pytest.fixture
    def worker_program(self) -> list[str]:
        return ["celery"]

    @pytest.fixture
    def default_worker_tasks(self, default_worker_container_cls: type[CeleryWorkerContainer]) -> set[ModuleType]:
        return default_worker_container_cls.tasks_modules() | {tasks}

    def test_two_workers(self, celery_setup: CeleryTestSetup, check_a_key: Any, key: str) -> None:
        assert celery_setup.ready(ping=True, control=True)
        check_a_key(key)
        runs = runs_of([retries.delay(key, seconds=0.05) for _ in range(12)])
        assert most_at_once(runs) == 1
        assert fences_grow(runs)
        assert {run["worker"] for run in runs} == {worker.hostname() for worker in celery_setup.worker_cluster}
