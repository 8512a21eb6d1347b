"""Fixtures that are the same for nodes that are processes and for nodes that are containers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from celery import Celery
from pytest_celery import (
    ALL_CELERY_WORKERS,
    CONTAINER_TIMEOUT,
    DEFAULT_WORKER_VOLUME,
    REDIS_IMAGE,
    CeleryTestBroker,
    CeleryTestWorker,
    RedisContainer,
)
from pytest_docker_tools import container

from celery_locks.locks import Locks
from celery_locks.stores.base import Store
from celery_locks.testing.harness import LockHistory, LockLostAfter
from celery_locks.testing.nodes import URL_VARIABLES, worker_container
from celery_locks.testing.nodes.lock_store import (
    POSTGRESQL_ENV,
    POSTGRESQL_IMAGE,
    CeleryLockStore,
    PostgreSQLContainer,
    SQLiteFile,
    SQLiteLockStore,
)
from celery_locks.testing.nodes.lost_leases import LeaseDeletedAfter
from celery_locks.testing.nodes.ports import free_port

# --- The lock store ---


@pytest.fixture(params=["celery_locks_redis_store"])
def celery_locks_store(request: pytest.FixtureRequest) -> CeleryLockStore | None:
    """Return the node that keeps the locks: a Redis of its own by default.

    Override it to choose: return `celery_locks_postgresql_store` or `celery_locks_sqlite_store`, have ``params`` name
    several of them, or return ``None`` for locks in the result backend.
    """
    store: CeleryLockStore = request.getfixturevalue(request.param)
    return store


@pytest.fixture
def celery_locks_redis_store(default_locks_redis_store: RedisContainer) -> Iterator[CeleryLockStore]:
    """Return a lock store in a Redis server of its own."""
    store = CeleryLockStore(default_locks_redis_store)
    yield store
    store.teardown()


@pytest.fixture
def celery_locks_postgresql_store(default_locks_postgresql_store: PostgreSQLContainer) -> Iterator[CeleryLockStore]:
    """Return a lock store in a PostgreSQL server of its own."""
    store = CeleryLockStore(default_locks_postgresql_store)
    yield store
    store.teardown()


@pytest.fixture
def celery_locks_sqlite_store(default_locks_sqlite_store: SQLiteFile) -> Iterator[CeleryLockStore]:
    """Return a lock store in a file that the tests and the workers share."""
    store = SQLiteLockStore(default_locks_sqlite_store)
    yield store
    store.teardown()


# Each publishes a port that it keeps over a restart: a published port that the engine chooses is another one then.
# pytest-docker-tools makes None of an empty text in a list, but not in what a function returns.
default_locks_redis_store = container(
    image=REDIS_IMAGE,
    ports=lambda: {"6379/tcp": free_port()},
    command=lambda: RedisContainer.command(),
    network="{default_pytest_celery_network.name}",
    wrapper_class=RedisContainer,
    timeout=CONTAINER_TIMEOUT,
)
"""The container of `celery_locks_redis_store`, a Redis without persistence."""

default_locks_postgresql_store = container(
    image=POSTGRESQL_IMAGE,
    ports=lambda: {"5432/tcp": free_port()},
    environment=POSTGRESQL_ENV,
    network="{default_pytest_celery_network.name}",
    wrapper_class=PostgreSQLContainer,
    timeout=CONTAINER_TIMEOUT,
)
"""The container of `celery_locks_postgresql_store`, a PostgreSQL with a database for the locks."""


@pytest.fixture
def default_locks_sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> SQLiteFile:
    """Return a file in a folder of its own."""
    return SQLiteFile(tmp_path_factory.mktemp("locks"))


# --- Its settings, for the tests and for the workers ---


@pytest.fixture
def celery_setup_app(celery_setup_app: Celery, celery_locks_store: CeleryLockStore | None) -> Iterator[Celery]:
    """Return the tests' app. It has its locks in the store of the setup, and no address from this environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in URL_VARIABLES:
            patch.delenv(name, raising=False)
        if celery_locks_store is not None:
            celery_locks_store._use_in(celery_setup_app)
        yield celery_setup_app
        # Each test has an app: the connections of those before would stay open until pytest ends.
        celery_setup_app.amqp.producer_pool.force_close_all()
        celery_setup_app.pool.force_close_all()


@pytest.fixture
def default_worker_env(
    default_worker_env: dict[str, str], celery_locks_store: CeleryLockStore | None
) -> dict[str, str]:
    """Return the workers' environment, with the variable that names the store."""
    if celery_locks_store is not None:
        default_worker_env["CELERY_LOCKS_URL"] = celery_locks_store.config()["url"]
    return default_worker_env


@pytest.fixture
def default_worker_initial_content(
    default_worker_initial_content: dict[str, bytes],
    default_worker_app: Celery,
    celery_locks_store: CeleryLockStore | None,
) -> dict[str, bytes]:
    """Return the workers' files. Their app reaches the store by the workers' address, and not by the tests'."""
    if celery_locks_store is not None:
        config = celery_locks_store.config()
        if default_worker_app.conf.get("locks_url") == config["host_url"] != config["url"]:
            default_worker_initial_content["app.py"] += f"\napp.conf.locks_url = {config['url']!r}\n".encode()
    return default_worker_initial_content


# --- Brokers and workers ---


def broker(names: Iterable[str]) -> Any:
    """Make the fixture ``celery_broker``, which tests have once for each of these brokers unless they choose.

    pytest-celery's own has a set of parameters: processes of pytest-xdist then have them in different orders.
    """

    @pytest.fixture(params=sorted(names))
    def celery_broker(request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
        """Return the broker: each that there is, one after the other."""
        broker: CeleryTestBroker = request.getfixturevalue(request.param)
        yield broker
        broker.teardown()

    return celery_broker


# pytest applies the parameters of `celery_locks_store` only where a fixture names it; pytest-celery's own worker asks
# for it too late.
@pytest.fixture(params=ALL_CELERY_WORKERS)
def celery_worker(
    request: pytest.FixtureRequest, celery_locks_store: CeleryLockStore | None
) -> Iterator[CeleryTestWorker]:
    """Return pytest-celery's worker, with the store of the setup."""
    worker: CeleryTestWorker = request.getfixturevalue(request.param)
    yield worker
    worker.teardown()


default_worker_container = worker_container()


@pytest.fixture
def default_worker_user() -> str | None:
    """Return the user that workers in containers run as: that of the tests, so that both can write to shared files."""
    return f"{os.getuid()}:{os.getgid()}" if hasattr(os, "getuid") else None


@pytest.fixture
def default_worker_volumes(
    default_worker_volume: Any, celery_locks_store: CeleryLockStore | None
) -> dict[str, dict[str, str]]:
    """Return the folders that workers have: their app's, and those of the lock store."""
    volumes = {default_worker_volume.name: dict(DEFAULT_WORKER_VOLUME)}
    return volumes if celery_locks_store is None else {**volumes, **celery_locks_store.volumes}


# --- Our fixtures for tests, in a test with a setup. Each asks for what it overrides only in a test without one. ---


def _locks_of_setup(request: pytest.FixtureRequest) -> Locks | None:
    """Return the locks of a test's setup; ``None`` for a test that has none."""
    if "celery_locks_store" not in request.fixturenames:
        return None
    store: CeleryLockStore | None = request.getfixturevalue("celery_locks_store")
    return Locks.from_app(request.getfixturevalue("celery_setup_app")) if store is None else store.locks


@pytest.fixture
def celery_locks(request: pytest.FixtureRequest) -> Locks:
    """Return `Locks` in the store of the setup; in a test without one, in the store in memory."""
    locks: Locks = _locks_of_setup(request) or request.getfixturevalue("celery_locks")
    return locks


@pytest.fixture
def lock_store(request: pytest.FixtureRequest) -> Store:
    """Return the store of the setup; in a test without one, an empty store in memory."""
    locks = _locks_of_setup(request)
    store: Store = request.getfixturevalue("lock_store") if locks is None else locks.store
    return store


@pytest.fixture
def lock_lost_after(request: pytest.FixtureRequest) -> Iterator[LockLostAfter | LeaseDeletedAfter]:
    """Return a function that makes the next run of a key lose its lease: ``lock_lost_after(seconds=…, key=…)``."""
    locks = _locks_of_setup(request)
    if locks is None:
        yield request.getfixturevalue("lock_lost_after")
        return
    losses = LeaseDeletedAfter(locks)
    yield losses
    losses.close()


@pytest.fixture
def lock_history(request: pytest.FixtureRequest) -> LockHistory:
    """Return what became of locks, in a test whose tasks run in this process.

    Raises:
        pytest.fail.Exception: The test has a setup.
    """
    if "celery_locks_store" in request.fixturenames:
        pytest.fail(
            "lock_history sees only this process, and the workers of this setup run in others: "
            "check results, or use assert_locked and assert_free",
            pytrace=False,
        )
    history: LockHistory = request.getfixturevalue("lock_history")
    return history
