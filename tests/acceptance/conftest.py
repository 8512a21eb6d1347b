"""Locked tasks on real workers, by pytest-celery: as processes here, and unchanged in containers.

pytest tests/acceptance
pytest tests/acceptance -p no:celery_locks.testing.local -p celery_locks.testing.docker
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from celery.result import AsyncResult
from pytest_celery import (
    CELERY_REDIS_BROKER,
    CeleryTestBroker,
    CeleryTestWorker,
    CeleryWorkerCluster,
    CeleryWorkerContainer,
)

from celery_locks import Locks
from celery_locks.testing.nodes import worker_container
from tests.acceptance import tasks
from tests.acceptance.runs import SOON
from tests.support import start_celery
from tests.support.waiting import eventually


@pytest.fixture
def key() -> str:
    """A key. Each test has a store of its own: they may all have the same."""
    return "shop-7"


@pytest.fixture
def worker_pool() -> str:
    """The pool of the workers; a test that is for others has it as a parameter."""
    return "prefork"


@pytest.fixture
def worker_concurrency() -> int:
    """How many tasks a worker runs at a time."""
    return 3


@pytest.fixture
def default_worker_tasks() -> set[ModuleType]:
    """The tasks of these tests. pytest-celery's own, which the worker would import it for, are only for its ping."""
    return {tasks}


@pytest.fixture
def worker_program(pytestconfig: pytest.Config) -> list[str]:
    """``celery``; as a process of this machine, without what takes it a second to import and no test here needs."""
    local = pytestconfig.pluginmanager.has_plugin("celery_locks.testing.local")
    return ["python", start_celery.__file__] if local else ["celery"]


@pytest.fixture
def default_worker_command(
    default_worker_command: list[str], worker_program: list[str], worker_pool: str, worker_concurrency: int
) -> list[str]:
    pool = ["--pool", worker_pool, "--concurrency", str(worker_concurrency)]
    return [*worker_program, *default_worker_command[1:], *pool, "--without-mingle", "--without-gossip"]


@pytest.fixture(params=[CELERY_REDIS_BROKER])
def celery_broker(request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    """The broker: Redis, in tests that don't choose."""
    broker: CeleryTestBroker = request.getfixturevalue(request.param)
    yield broker
    broker.teardown()


other_worker_container = worker_container()


@pytest.fixture
def two_workers(
    celery_worker: CeleryTestWorker,
    other_worker_container: CeleryWorkerContainer,
    default_worker_cls: type[CeleryTestWorker],
) -> Iterator[CeleryWorkerCluster]:
    """Two workers that serve the same queue."""
    other = default_worker_cls(other_worker_container, celery_worker.app)
    cluster = CeleryWorkerCluster(celery_worker, other)
    yield cluster
    other.teardown()
    cluster.teardown()


@pytest.fixture
def wait_in_line(celery_locks: Locks) -> Callable[..., list[AsyncResult]]:
    """``wait_in_line(task, key, count)`` calls a task whose key is held, one call after the other waiting in line."""

    def in_line(key: str, count: int) -> bool:
        return celery_locks.info(key).waiting == count

    def call(task: Any, key: str, count: int, **arguments: Any) -> list[AsyncResult]:
        results = []
        for number in range(1, count + 1):
            results.append(task.delay(key, **arguments))
            eventually(partial(in_line, key, number), SOON)
        return results

    return call
