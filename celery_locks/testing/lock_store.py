"""The lock store in a pytest-celery suite: a node alongside broker and backend, and the fixtures that use it.

The plugins `celery_locks.testing.local` and `celery_locks.testing.docker` register this module: its fixtures are the
same with processes and with containers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pytest_celery import (
    ALL_CELERY_WORKERS,
    REDIS_CONTAINER_TIMEOUT,
    CeleryTestContainer,
    CeleryTestNode,
    CeleryTestWorker,
    RedisContainer,
)
from pytest_docker_tools import container

from celery_locks.locks import Locks
from celery_locks.renewal import keeper
from celery_locks.stores.base import Store
from celery_locks.tasks import options
from celery_locks.testing.harness import LockHistory, LockLostAfter
from celery_locks.testing.lost_leases import LeaseLostAfter

POSTGRESQL_IMAGE = "postgres:17"
POSTGRESQL_ENV = {"POSTGRES_USER": "locks", "POSTGRES_PASSWORD": "locks", "POSTGRES_DB": "locks"}


class CeleryLockStore(CeleryTestNode):
    """A node that keeps the locks of the setup."""

    _locks: Locks | None = None

    @property
    def locks(self) -> Locks:
        """`Locks` of this store, for the tests: the same locks that the workers' tasks acquire."""
        if self._locks is None:
            prefix = self.app.conf.get("locks_prefix") if self.app is not None else None
            self._locks = Locks(self.config()["host_url"], **({"prefix": prefix} if prefix else {}))
        return self._locks

    def use_in(self, app: Celery) -> None:
        """Have the calls that the tests make by this app use this store."""
        self._app, self._locks = app, None
        app.conf.locks_url = self.config()["host_url"]
        options._locks.pop(app, None)  # made once a process, by the address that it had

    def restart(self, reload_container: bool = True, force: bool = False) -> None:
        """Restart it, and tell the tests' app its address: a container gets a new port."""
        super().restart(reload_container, force)
        if self.app is not None:
            self.use_in(self.app)

    def teardown(self) -> None:
        """Close the tests' connections to it, and renew no lease of theirs in a store that is gone."""
        of_calls = options._locks.pop(self.app, None) if self.app is not None else None
        for locks in (self._locks, of_calls):
            if locks is not None:
                keeper().drop(locks.store)
                locks.close()
        super().teardown()


class PostgreSQLContainer(CeleryTestContainer):
    """A PostgreSQL server."""

    @property
    def celeryconfig(self) -> dict[str, Any]:
        login = f"{POSTGRESQL_ENV['POSTGRES_USER']}:{POSTGRESQL_ENV['POSTGRES_PASSWORD']}"
        hostname, port, vhost = self.attrs["Config"]["Hostname"], self.port, POSTGRESQL_ENV["POSTGRES_DB"]
        return {
            "url": f"postgresql://{login}@{hostname}/{vhost}",
            "host_url": f"postgresql://{login}@localhost:{port}/{vhost}",
            "hostname": hostname,
            "port": port,
            "vhost": vhost,
        }

    @property
    def port(self) -> int:
        """The port by which the tests reach it."""
        return int(self._wait_port("5432/tcp"))

    @property
    def ready_prompt(self) -> str:
        return "ready to accept connections"

    def ready(self) -> bool:
        # The image's first start runs another server before, one that only makes the database, and logs this of it too.
        return bool(super().ready()) and self.ready_prompt in self.logs().rpartition("init process complete")[2]


class SQLiteFile:
    """A database file in a folder that the tests and the workers share. Nothing runs, and nothing is logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = self.id = "sqlite"
        self.status = "running"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        url = f"sqlite:///{self.folder / 'locks.db'}"
        return {"url": url, "host_url": url, "hostname": "", "port": 0, "vhost": ""}

    def ready(self) -> bool:
        return True

    def logs(self) -> str:
        return ""

    def teardown(self) -> None:
        """The folder goes with pytest's temporary folders."""


# --- The node: which store, and its container ---


@pytest.fixture(params=["celery_locks_redis_store"])
def celery_locks_store(request: pytest.FixtureRequest) -> Iterator[CeleryLockStore | None]:
    """Return the node that keeps the locks: a Redis of its own, unless a project says otherwise.

    Override it to choose: return `celery_locks_postgresql_store` or `celery_locks_sqlite_store`, have ``params`` name
    several of them, or return ``None`` for locks in the result backend.
    """
    store: CeleryLockStore = request.getfixturevalue(request.param)
    yield store
    store.teardown()


@pytest.fixture
def celery_locks_redis_store(default_locks_redis_store: RedisContainer) -> CeleryLockStore:
    """Return a lock store in a Redis server of its own."""
    return CeleryLockStore(default_locks_redis_store)


@pytest.fixture
def celery_locks_postgresql_store(default_locks_postgresql_store: PostgreSQLContainer) -> CeleryLockStore:
    """Return a lock store in a PostgreSQL server of its own."""
    return CeleryLockStore(default_locks_postgresql_store)


@pytest.fixture
def celery_locks_sqlite_store(default_locks_sqlite_store: SQLiteFile) -> CeleryLockStore:
    """Return a lock store in a file that the tests and the workers share."""
    return CeleryLockStore(default_locks_sqlite_store)


@pytest.fixture
def default_locks_redis_store_cls() -> Any:
    """Return the class of the container. Override it for another image or command."""
    return RedisContainer


default_locks_redis_store = container(
    image=lambda default_locks_redis_store_cls: default_locks_redis_store_cls.image(),
    ports=lambda default_locks_redis_store_cls: default_locks_redis_store_cls.ports(),
    environment=lambda default_locks_redis_store_cls: default_locks_redis_store_cls.initial_env(),
    command=lambda default_locks_redis_store_cls: default_locks_redis_store_cls.command(),
    network="{default_pytest_celery_network.name}",
    wrapper_class=RedisContainer,
    timeout=REDIS_CONTAINER_TIMEOUT,
)

default_locks_postgresql_store = container(
    image=POSTGRESQL_IMAGE,
    ports={"5432/tcp": None},
    environment=POSTGRESQL_ENV,
    network="{default_pytest_celery_network.name}",
    wrapper_class=PostgreSQLContainer,
    timeout=REDIS_CONTAINER_TIMEOUT,
)


@pytest.fixture
def default_locks_sqlite_store(celery_locks_folder: Path) -> SQLiteFile:
    """Return a file in `celery_locks_folder`."""
    return SQLiteFile(celery_locks_folder)


@pytest.fixture
def celery_locks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the workers have under the same path, and may write to."""
    folder = tmp_path_factory.mktemp("locks")
    folder.chmod(0o777)
    return folder


# --- Its settings, for the tests and for the workers ---


@pytest.fixture
def celery_setup_app(celery_setup_app: Celery, celery_locks_store: CeleryLockStore | None) -> Celery:
    """Return the tests' app, with its locks in the store of the setup."""
    if celery_locks_store is not None:
        celery_locks_store.use_in(celery_setup_app)
    return celery_setup_app


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


@pytest.fixture(params=ALL_CELERY_WORKERS)
def celery_worker(
    request: pytest.FixtureRequest, celery_locks_store: CeleryLockStore | None
) -> Iterator[CeleryTestWorker]:
    """Return pytest-celery's worker, with the store of the setup."""
    worker: CeleryTestWorker = request.getfixturevalue(request.param)
    yield worker
    worker.teardown()


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
def lock_lost_after(request: pytest.FixtureRequest) -> Iterator[LockLostAfter | LeaseLostAfter]:
    """``lock_lost_after(seconds=…, key=…)``: the next run of the key loses its lease, in whatever process it is."""
    locks = _locks_of_setup(request)
    if locks is None:
        yield request.getfixturevalue("lock_lost_after")
        return
    losses = LeaseLostAfter(locks)
    yield losses
    losses.close()


@pytest.fixture
def lock_history(request: pytest.FixtureRequest) -> LockHistory:
    """Return what became of locks, in a test whose tasks run in this process.

    Raises:
        pytest.fail.Exception: The test has a setup.
    """
    if _locks_of_setup(request) is not None:
        pytest.fail(
            "lock_history records what happens in the process of the tests, and these workers are others: "
            "look at results, or use assert_locked and assert_free",
            pytrace=False,
        )
    history: LockHistory = request.getfixturevalue("lock_history")
    return history
