"""Shops: an app with real workers, in an empty database of a real server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult

from celery_locks import Lock, Locks
from celery_locks.testing.local import processes
from tests.support.celery_worker import Worker
from tests.support.journal import Journal
from tests.support.rabbitmq import RabbitServer
from tests.support.servers import RedisServer
from tests.tasks.rabbit_shop import KINDS, SERVED, declare_queues
from tests.tasks.shop import make_app


class Shop:
    """An app, its workers, and what they wrote.

    Args:
        variables: See `make_app`.
    """

    def __init__(self, **variables: str) -> None:
        self.folder = processes.make_folder()  # goes with the tests, whatever becomes of the workers
        self.variables = {"SHOP_FOLDER": str(self.folder), **variables}
        self.app: Celery = make_app(self.variables)
        self.app.finalize()
        self.journal = Journal(self.app.conf.shop_journal)
        self.stack = ExitStack()
        self.stack.callback(processes.remove_folder, self.folder)
        self.workers: list[Worker] = []

    def start_worker(self, **options: Any) -> Worker:
        env = {**self.variables, **options.pop("env", {})}
        worker = self.stack.enter_context(Worker("tests.tasks.shop", env=env, **options))
        self.workers.append(worker)
        return worker

    def send(self, task: str, *args: Any, **kwargs: Any) -> AsyncResult:
        return self.app.tasks[task].delay(*args, **kwargs)

    def task(self, name: str) -> Any:
        return self.app.tasks[name]

    def lock(self, key: str, **options: Any) -> Lock:
        """A lock of the store that the tasks use."""
        return Locks.from_app(self.app).lock(key, **options)


@pytest.fixture
def key() -> str:
    """A key that no other test has."""
    return f"key-{uuid.uuid4().hex[:12]}"


@contextmanager
def shared_shop(**variables: str) -> Iterator[Shop]:
    """A shop for more than one test, on a server of its own."""
    with RedisServer() as server:
        shop = Shop(SHOP_URL=server.url(), **variables)
        with shop.stack:
            yield shop


def _shared(pool: str, **variables: str) -> Iterator[Shop]:
    with shared_shop(**variables) as shop:
        shop.start_worker(pool=pool, concurrency=4)
        yield shop


@pytest.fixture(scope="session")
def prefork_shop() -> Iterator[Shop]:
    yield from _shared("prefork")


@pytest.fixture(scope="session")
def early_shop() -> Iterator[Shop]:
    """One whose worker parks before the pool."""
    yield from _shared("prefork", SHOP_EARLY="1")


@pytest.fixture(params=["prefork", "early"])
def parking_shop(request: pytest.FixtureRequest) -> Shop:
    """A shop whose tasks park in the pool, and one whose tasks park before it."""
    shop: Shop = request.getfixturevalue(f"{request.param}_shop")
    return shop


@pytest.fixture(scope="session")
def threads_shop() -> Iterator[Shop]:
    yield from _shared("threads")


@pytest.fixture(scope="session")
def solo_shop() -> Iterator[Shop]:
    yield from _shared("solo")


@pytest.fixture(scope="session")
def gevent_shop() -> Iterator[Shop]:
    yield from _shared("gevent")


@pytest.fixture(scope="session")
def eventlet_shop() -> Iterator[Shop]:
    yield from _shared("eventlet")


@pytest.fixture(params=["prefork", "threads", "solo", "gevent", "eventlet"])
def any_shop(request: pytest.FixtureRequest) -> Shop:
    """A shop of each pool."""
    shop: Shop = request.getfixturevalue(f"{request.param}_shop")
    return shop


@pytest.fixture(scope="session", params=KINDS)
def rabbit_shop(request: pytest.FixtureRequest, rabbit_server: RabbitServer) -> Iterator[Shop]:
    """A shop whose broker is RabbitMQ, for each kind of queues. Nobody serves the default one."""
    kind, seconds = request.param, {"SHOP_TTL": "2", "SHOP_CALL_TTL": "600"}
    with shared_shop(SHOP_BROKER=rabbit_server.url, SHOP_QUEUES=kind, **seconds) as shop:
        declare_queues(shop.app)  # all: some releases of Celery prepare countdowns for none if one is not there
        shop.start_worker(concurrency=4, queues=[f"{kind}-{name}" for name in SERVED])
        yield shop


@pytest.fixture
def open_shop(redis_url: str) -> Iterator[Callable[..., Shop]]:
    """Opens shops for this test alone, to kill their workers and break their stores."""
    with ExitStack() as stack:

        def open_(**variables: str) -> Shop:
            shop = Shop(**{"SHOP_URL": redis_url, **variables})
            stack.push(shop.stack)
            return shop

        yield open_


@pytest.fixture
def shop(open_shop: Callable[..., Shop]) -> Shop:
    """A shop for this test alone, without a worker."""
    return open_shop()
