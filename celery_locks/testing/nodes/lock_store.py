"""The lock store in a pytest-celery suite: a node alongside broker and backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import Celery
from pytest_celery import CeleryTestContainer, CeleryTestNode

from celery_locks.locks import Locks
from celery_locks.renewal import keeper
from celery_locks.tasks import options

POSTGRESQL_IMAGE = "postgres:17"
POSTGRESQL_ENV = {"POSTGRES_USER": "locks", "POSTGRES_PASSWORD": "locks", "POSTGRES_DB": "locks"}


class CeleryLockStore(CeleryTestNode):
    """A node that keeps the locks of the setup."""

    _locks: Locks | None = None

    @property
    def locks(self) -> Locks:
        """`Locks` of this store, for the tests: the same locks that the workers' tasks acquire."""
        if self._locks is None:
            self._locks = Locks(self.config()["host_url"]) if self.app is None else Locks.from_app(self.app)
        return self._locks

    @property
    def volumes(self) -> dict[str, dict[str, str]]:
        """Folders that workers need in order to reach the store, as Docker mounts them."""
        return {}

    def teardown(self) -> None:
        """Close the tests' connections to it, and renew no lease of theirs in a store that is gone."""
        of_calls = {} if self.app is None else options._locks.pop(self.app, {})
        for locks in filter(None, (self._locks, *of_calls.values())):
            keeper().drop(locks.store)
            locks.close()
        self._locks = None
        super().teardown()

    def _use_in(self, app: Celery) -> None:
        self._app = app
        app.conf.locks_url = self.config()["host_url"]


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
        # The image's first start runs a temporary server that creates the database and logs the same line.
        return bool(super().ready()) and self.ready_prompt in self.logs().rpartition("init process complete")[2]


class SQLiteFile:
    """A database file in a folder that the tests and the workers share. Nothing runs, and nothing is logged."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o777)  # workers may run as another user
        self.folder = folder
        self.name = self.id = "sqlite"
        self.status = "running"
        self.attrs: dict[str, Any] = {}

    @property
    def celeryconfig(self) -> dict[str, Any]:
        url = f"sqlite:///{self.folder / 'locks.db'}"
        return {"url": url, "host_url": url, "hostname": "", "port": 0, "vhost": ""}

    def ready(self) -> bool:
        return True

    def logs(self) -> str:
        return ""

    def reload(self) -> None:
        """Do nothing: there is no process."""

    def restart(self, timeout: float = 0) -> None:
        """Do nothing: there is no process, and the file stays."""

    def kill(self, signal: str | int | None = None) -> None:
        raise NotImplementedError("a lock store in a file has no process: kill a Redis or PostgreSQL store instead")

    def teardown(self) -> None:
        """Do nothing: pytest removes its temporary folders."""


class SQLiteLockStore(CeleryLockStore):
    """A lock store in a file."""

    @property
    def volumes(self) -> dict[str, dict[str, str]]:
        """The file's folder, under the same path."""
        folder = str(self.container.folder)
        return {folder: {"bind": folder, "mode": "rw"}}
