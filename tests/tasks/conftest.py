"""Shops: setups of pytest-celery, each an app with real workers, in an empty database of a real server."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryWorkerCluster,
    RedisContainer,
)

from celery_locks import Lock, Locks
from celery_locks.testing.local import LocalEngine, processes
from celery_locks.testing.local.container import LocalContainer
from celery_locks.testing.nodes.lock_store import CeleryLockStore
from tests.support.celery_worker import Worker
from tests.support.journal import Journal
from tests.support.rabbitmq import RabbitServer
from tests.tasks.rabbit_queues import KINDS, SERVED, declare_queues
from tests.tasks.shop import make_app, task_name


class Database(RedisContainer):
    """One of a server's databases, emptied."""

    def __init__(self, server: LocalContainer, number: int = 0) -> None:
        super().__init__(server)
        self._number = number
        self.client.flushdb()

    @property
    def vhost(self) -> str:
        return str(self._number)

    @property
    def host_url(self) -> str:
        return self.url  # one address for tests and workers: stores and brokers are compared by theirs


class Address:
    """A server that the tests run by themselves, in place of a node's container: they break it, or a way to it."""

    def __init__(self, url: str) -> None:
        self.celeryconfig = {"url": url, "host_url": url}

    def teardown(self) -> None:
        """The tests end it."""


class Shop(CeleryTestSetup):
    """An app, its nodes, and what its workers wrote.

    Args:
        server: Broker, results, lock store and journal, unless the variables name others.
        variables: See `make_app`.
    """

    def __init__(self, server: Database | Address, **variables: str) -> None:
        def container(name: str) -> Database | Address:
            return server if variables.get(name, "none") == "none" else Address(variables[name])

        self.folder = processes.make_folder()  # goes with the tests, whatever becomes of the workers
        url = server.celeryconfig["url"]
        self.variables = {"SHOP_URL": url, "SHOP_FOLDER": str(self.folder), **variables}
        app = make_app(self.variables)
        app.finalize()
        super().__init__(
            worker_cluster=None,
            broker_cluster=CeleryBrokerCluster(CeleryTestBroker(container("SHOP_BROKER"), app)),
            backend_cluster=CeleryBackendCluster(CeleryTestBackend(container("SHOP_RESULTS"), app)),
            app=app,
        )
        self.locks_store = CeleryLockStore(container("SHOP_STORE"), app)
        self.journal = Journal(app.conf.shop_journal)
        self.stack = ExitStack()
        self.stack.callback(processes.remove_folder, self.folder)
        self.stack.callback(self.locks_store.teardown)

    def start_worker(self, **options: Any) -> Worker:
        env = {**self.variables, **options.pop("env", {})}
        worker = self.stack.enter_context(Worker("tests.tasks.shop", self.app, env=env, **options))
        self._worker_cluster = CeleryWorkerCluster(*(self.worker_cluster or ()), worker)
        return worker

    def task(self, body: str = "work", **options: Any) -> Any:
        """Return a task of a body of `tests.tasks.bodies`, or an unlocked one by its name.

        Its workers make the same task when its first message comes.

        Args:
            body: The name of the body.
            options: Those of the lock, without their prefix ``lock_``, and some of Celery's.
        """
        return self.app.tasks[task_name(body, options)]

    def lock(self, key: str, **options: Any) -> Lock:
        """A lock of the store that the tasks use."""
        return self.locks.lock(key, **options)

    @property
    def locks(self) -> Locks:
        """Those of the store that the tasks use."""
        return self.locks_store.locks


@pytest.fixture
def key() -> str:
    """A key that no other test has."""
    return f"key-{uuid.uuid4().hex[:12]}"


@contextmanager
def shared_shop(**variables: str) -> Iterator[Shop]:
    """A shop for more than one test, on a server of its own."""
    with LocalEngine() as engine:
        shop = Shop(Database(engine.containers.run(RedisContainer.image(), RedisContainer.command())), **variables)
        with shop.stack:
            yield shop


def _shared(pool: str, **variables: str) -> Iterator[Shop]:
    with shared_shop(**variables) as shop:
        shop.start_worker(pool=pool, concurrency=4)
        yield shop


@pytest.fixture(scope="package")
def prefork_shop() -> Iterator[Shop]:
    yield from _shared("prefork")


@pytest.fixture(scope="package")
def early_shop() -> Iterator[Shop]:
    """One whose worker parks before the pool."""
    yield from _shared("prefork", SHOP_EARLY="1")


@pytest.fixture(params=["prefork", "early"])
def parking_shop(request: pytest.FixtureRequest) -> Shop:
    """A shop whose tasks park in the pool, and one whose tasks park before it."""
    shop: Shop = request.getfixturevalue(f"{request.param}_shop")
    return shop


@pytest.fixture(scope="package")
def threads_shop() -> Iterator[Shop]:
    yield from _shared("threads")


@pytest.fixture(scope="package")
def solo_shop() -> Iterator[Shop]:
    yield from _shared("solo")


@pytest.fixture(scope="package")
def gevent_shop() -> Iterator[Shop]:
    yield from _shared("gevent")


@pytest.fixture(scope="package")
def eventlet_shop() -> Iterator[Shop]:
    yield from _shared("eventlet")


@pytest.fixture(params=["prefork", "threads", "solo", "gevent", "eventlet"])
def any_shop(request: pytest.FixtureRequest) -> Shop:
    """A shop of each pool."""
    shop: Shop = request.getfixturevalue(f"{request.param}_shop")
    return shop


@pytest.fixture(scope="package", params=KINDS)
def rabbit_shop(request: pytest.FixtureRequest, rabbit_server: RabbitServer) -> Iterator[Shop]:
    """A shop whose broker is RabbitMQ, for each kind of queues. Nobody serves the default one."""
    kind = request.param
    with shared_shop(SHOP_BROKER=rabbit_server.url, SHOP_QUEUES=kind, SHOP_CALL_TTL="600") as shop:
        declare_queues(shop.app)  # all: some releases of Celery prepare countdowns for none if one is not there
        shop.start_worker(concurrency=4, queues=[f"{kind}-{name}" for name in SERVED])
        yield shop


@pytest.fixture(scope="session")
def databases(docker_client: LocalEngine) -> Iterator[Database]:
    """Empty databases of a server that the shops of single tests share."""
    command = RedisContainer.command("--databases", "512")
    server = docker_client.containers.run(RedisContainer.image(), command)
    return (Database(server, number) for number in itertools.cycle(range(512)))


@pytest.fixture
def open_shop(databases: Iterator[Database]) -> Iterator[Callable[..., Shop]]:
    """Opens shops for this test alone, to kill their workers and break their stores."""
    with ExitStack() as stack:

        def open_(**variables: str) -> Shop:
            shop = Shop(Address(variables["SHOP_URL"]) if "SHOP_URL" in variables else next(databases), **variables)
            stack.push(shop.stack)
            return shop

        yield open_


@pytest.fixture
def shop(open_shop: Callable[..., Shop]) -> Shop:
    """A shop for this test alone, without a worker."""
    return open_shop()


@pytest.fixture
def celery_locks(request: pytest.FixtureRequest) -> Locks:
    """The locks of the shop of the test: `held_lock`, `assert_locked` and `assert_free` work on them."""
    names = [name for name in request.fixturenames if name == "shop" or name.endswith("_shop")]
    shop: Shop = request.getfixturevalue(next(name for name in names if name != "open_shop"))
    return shop.locks
