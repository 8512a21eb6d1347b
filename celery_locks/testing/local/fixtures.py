"""Fixtures that take the place of pytest-celery's and of pytest-docker-tools' own, for nodes that are processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery
from pytest_celery import ALL_CELERY_BROKERS, CELERY_RABBITMQ_BROKER, CeleryTestBroker, CeleryTestWorker

from celery_locks.testing.local import processes
from celery_locks.testing.local.engine import LocalEngine
from celery_locks.testing.local.programs import NodeFailed, rabbitmq_server


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
        """Return what psutil knows of the worker's processes. A container would list all of its own, and no others."""
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
def local_workers_folder() -> Iterator[Path]:
    """Return the folder in which the workers write down what they hold: their usual one outlives a killed worker."""
    folder = processes.make_folder()
    yield folder
    processes.remove_folder(folder)


@pytest.fixture
def default_worker_initial_content(
    default_worker_initial_content: dict[str, bytes], default_worker_app: Celery, local_workers_folder: Path
) -> dict[str, bytes]:
    """Return the workers' files. Their app has `local_workers_folder`, unless the project has set another one."""
    if default_worker_app.conf.get("locks_folder") is None:
        default_worker_initial_content["app.py"] += (
            f"\napp.conf.locks_folder = {str(local_workers_folder)!r}\n".encode()
        )
    return default_worker_initial_content


def _brokers() -> list[str]:
    """Return the brokers that tests run with unless they choose: those whose server is on this machine."""
    try:
        rabbitmq_server()
    except NodeFailed:
        return sorted(ALL_CELERY_BROKERS - {CELERY_RABBITMQ_BROKER})
    return sorted(ALL_CELERY_BROKERS)


@pytest.fixture(params=_brokers())
def celery_broker(request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    """Return the broker: each whose server this machine has, one after the other."""
    broker: CeleryTestBroker = request.getfixturevalue(request.param)
    yield broker
    broker.teardown()
