"""Fixtures that replace those of pytest-celery and pytest-docker-tools, for nodes that are processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pytest_celery import ALL_CELERY_BROKERS, CELERY_RABBITMQ_BROKER, CeleryTestWorker

from celery_locks.testing.local import processes
from celery_locks.testing.local.engine import LocalEngine
from celery_locks.testing.local.executables import NodeFailed, rabbitmq_server
from celery_locks.testing.nodes.fixtures import broker


@pytest.fixture(scope="session")
def docker_client() -> Iterator[LocalEngine]:
    """Return an engine whose containers are processes of this machine."""
    with LocalEngine() as engine:
        yield engine


class LocalWorker(CeleryTestWorker):
    """A worker that is a process of this machine."""

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return psutil's facts on the worker's processes, and no others."""
        main = psutil.Process(self.container.attrs["State"]["Pid"])
        processes = [main, *main.children(recursive=True)]
        rows = [process.as_dict(columns or _COLUMNS) for process in processes]
        return [row for row in rows if all(row.get(name) == value for name, value in (filters or {}).items())]


_COLUMNS = ["pid", "name", "username", "cmdline", "cpu_percent", "memory_percent", "create_time"]


@pytest.fixture
def default_worker_cls() -> type[CeleryTestWorker]:
    """Return the class of the worker's node."""
    return LocalWorker


@pytest.fixture(scope="session")
def _worker_records_folder() -> Iterator[Path]:
    folder = processes.make_folder()
    yield folder
    processes.remove_folder(folder)


@pytest.fixture
def default_worker_env(default_worker_env: dict[str, str], _worker_records_folder: Path) -> dict[str, str]:
    """Return the workers' environment. The folder of their records is removed even when a worker was killed."""
    return {"CELERY_LOCKS_FOLDER": str(_worker_records_folder), **default_worker_env}


def _installed_brokers() -> set[str]:
    try:
        rabbitmq_server()
    except NodeFailed:
        return set(ALL_CELERY_BROKERS) - {CELERY_RABBITMQ_BROKER}
    return set(ALL_CELERY_BROKERS)


celery_broker = broker(_installed_brokers())
