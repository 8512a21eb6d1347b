"""Every way to define a locked task, on real workers: forked and spawned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from tests.support.celery_worker import Worker
from tests.support.journal import Journal
from tests.support.servers import RedisServer
from tests.support.waiting import eventually
from tests.tasks.ways import CLASSES, PLAIN, PYDANTIC

SOON = 100


class Ways:
    """A worker of one of the modules, and a sender that knows nothing of it."""

    def __init__(self, url: str) -> None:
        self.sender = Celery("sender", broker=url, backend=url, set_as_current=False)
        self.journal = Journal(url)

    def run_three(self, task: str, key: str, argument: Any = None) -> None:
        if argument is None:
            sent = [self.sender.send_task(task, (key,), {"seconds": 0.1}) for _ in range(3)]
        else:
            sent = [self.sender.send_task(task, (argument,)) for _ in range(3)]
        for result in sent:
            assert result.get(timeout=SOON) == key
        assert len(self.journal.stretches(key)) == 3


@pytest.fixture(scope="module", params=["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def ways(request: pytest.FixtureRequest) -> Iterator[Ways]:
    with RedisServer() as server:
        env = {"SHOP_URL": server.url(), "SHOP_START_METHOD": request.param}
        with Worker("tests.tasks.ways", concurrency=3, env=env, timeout=60):
            yield Ways(server.url())


@pytest.fixture(scope="module")
def whole() -> Iterator[Ways]:
    with RedisServer() as server, Worker("tests.tasks.whole", concurrency=3, env={"SHOP_URL": server.url()}):
        yield Ways(server.url())


@pytest.mark.parametrize("task", PLAIN)
def test_each_way_runs_one_at_a_time(ways: Ways, key: str, task: str) -> None:
    ways.run_three(task, key)
    assert ways.journal.most_at_once(key) == 1
    assert all(stretch.fence for stretch in ways.journal.stretches(key)), "it ran without a lease"


@pytest.mark.parametrize("ways", ["fork"], indirect=True)  # Celery knows no class-based task in a spawned child
@pytest.mark.parametrize("task", CLASSES)
def test_class_based_tasks_run_one_at_a_time(ways: Ways, key: str, task: str) -> None:
    ways.run_three(task, key)
    assert ways.journal.most_at_once(key) == 1
    assert all(stretch.fence for stretch in ways.journal.stretches(key)), "it ran without a lease"


@pytest.mark.parametrize("task", PYDANTIC)
def test_pydantic_tasks_run_one_at_a_time(ways: Ways, key: str, task: str) -> None:
    ways.run_three(task, key, {"key": key, "seconds": 0.1})
    assert ways.journal.most_at_once(key) == 1


@pytest.mark.parametrize("task", PYDANTIC)
def test_a_models_defaults_make_no_other_key(ways: Ways, key: str, task: str) -> None:
    """The dictionary that was sent need not have them, the model has."""
    long = ways.sender.send_task(task, ({"key": key, "seconds": 0.0},))
    short = ways.sender.send_task(task, ({"key": key},))
    long.get(timeout=SOON)
    short.get(timeout=SOON)
    fences = [stretch.fence for stretch in ways.journal.stretches(key)]
    assert len(fences) == 2
    assert all(fences)


def test_task_cls_locks_every_task_of_the_app(whole: Ways, key: str) -> None:
    whole.run_three("tests.tasks.whole.plain", key)
    assert whole.journal.most_at_once(key) == 1
    assert all(stretch.fence for stretch in whole.journal.stretches(key))


def test_a_task_can_be_left_out(whole: Ways, key: str) -> None:
    whole.run_three("tests.tasks.whole.free", key)
    assert not any(stretch.fence for stretch in whole.journal.stretches(key))
    assert eventually(lambda: whole.journal.most_at_once(key) > 1), "it was locked after all"
