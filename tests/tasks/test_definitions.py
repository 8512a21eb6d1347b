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
from tests.tasks.definitions_app import CLASSES, PLAIN, PYDANTIC

SOON = 100


class Site:
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
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with RedisServer() as server:
        env = {"SHOP_URL": server.url(), "SHOP_START_METHOD": request.param}
        with Worker("tests.tasks.definitions_app", concurrency=3, env=env, timeout=60):
            yield Site(server.url())


@pytest.fixture(scope="module")
def task_cls_site() -> Iterator[Site]:
    with RedisServer() as server, Worker("tests.tasks.task_cls_app", concurrency=3, env={"SHOP_URL": server.url()}):
        yield Site(server.url())


@pytest.mark.parametrize("task", PLAIN)
def test_each_way_runs_one_at_a_time(site: Site, key: str, task: str) -> None:
    site.run_three(task, key)
    assert site.journal.most_at_once(key) == 1
    assert all(stretch.fence for stretch in site.journal.stretches(key)), "it ran without a lease"


@pytest.mark.parametrize("site", ["fork"], indirect=True)  # Celery knows no class-based task in a spawned child
@pytest.mark.parametrize("task", CLASSES)
def test_class_based_tasks_run_one_at_a_time(site: Site, key: str, task: str) -> None:
    site.run_three(task, key)
    assert site.journal.most_at_once(key) == 1
    assert all(stretch.fence for stretch in site.journal.stretches(key)), "it ran without a lease"


@pytest.mark.parametrize("task", PYDANTIC)
def test_pydantic_tasks_run_one_at_a_time(site: Site, key: str, task: str) -> None:
    site.run_three(task, key, {"key": key, "seconds": 0.1})
    assert site.journal.most_at_once(key) == 1


@pytest.mark.parametrize("task", PYDANTIC)
def test_a_models_defaults_make_no_other_key(site: Site, key: str, task: str) -> None:
    """The dictionary that was sent need not have them, the model has."""
    long = site.sender.send_task(task, ({"key": key, "seconds": 0.0},))
    short = site.sender.send_task(task, ({"key": key},))
    long.get(timeout=SOON)
    short.get(timeout=SOON)
    fences = [stretch.fence for stretch in site.journal.stretches(key)]
    assert len(fences) == 2
    assert all(fences)


def test_task_cls_locks_every_task_of_the_app(task_cls_site: Site, key: str) -> None:
    task_cls_site.run_three("tests.tasks.task_cls_app.plain", key)
    assert task_cls_site.journal.most_at_once(key) == 1
    assert all(stretch.fence for stretch in task_cls_site.journal.stretches(key))


def test_a_task_can_be_left_out(task_cls_site: Site, key: str) -> None:
    task_cls_site.run_three("tests.tasks.task_cls_app.free", key)
    assert not any(stretch.fence for stretch in task_cls_site.journal.stretches(key))
    assert eventually(lambda: task_cls_site.journal.most_at_once(key) > 1), "it was locked after all"
