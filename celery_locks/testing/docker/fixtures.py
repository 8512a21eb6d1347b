"""Fixtures that take the place of pytest-celery's and of pytest-docker-tools' own, for nodes that are containers."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import (
    ALL_CELERY_BROKERS,
    DEFAULT_WORKER_CONTAINER_TIMEOUT,
    DEFAULT_WORKER_VOLUME,
    CeleryTestBroker,
    CeleryWorkerContainer,
)
from pytest_docker_tools import container, fxtr

from celery_locks.locks import Locks
from celery_locks.testing.docker import image
from celery_locks.testing.docker.engine import Engine, connect
from celery_locks.testing.lock_store import CeleryLockStore, SQLiteFile


@pytest.fixture(scope="session")
def docker_client() -> Iterator[Engine]:
    """Return a client of the Docker engine."""
    engine = connect()
    yield engine
    engine.close()


@pytest.fixture(params=sorted(ALL_CELERY_BROKERS))
def celery_broker(request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    """Return the broker: each, one after the other, in one order for all processes of pytest-xdist."""
    broker: CeleryTestBroker = request.getfixturevalue(request.param)
    yield broker
    broker.teardown()


# --- The workers' image ---


@pytest.fixture(scope="session")
def default_worker_base_image() -> str:
    """Return the image that the workers' image begins with: one with the tests' Python.

    Override it for another Python, or for packages of the system.
    """
    return f"python:{sys.version_info.major}.{sys.version_info.minor}-slim-bookworm"


@pytest.fixture(scope="session")
def default_worker_requirements(default_worker_celery_version: str, default_worker_pytest_celery_pkg: str) -> list[str]:
    """Return what is installed alongside the project, as for pip. Override it for more."""
    return image.default_requirements(default_worker_celery_version, default_worker_pytest_celery_pkg)


@pytest.fixture(scope="session")
def celery_base_worker_image(
    docker_client: Engine,
    pytestconfig: pytest.Config,
    default_worker_base_image: str,
    default_worker_requirements: list[str],
    default_worker_celery_version: str,
) -> Any:
    """Return the workers' image, built from the project once for the session.

    Override it by ``pytest_docker_tools.build`` for a Dockerfile of your own, as pytest-celery documents.
    """
    versions = image.installed_versions()
    if default_worker_celery_version:
        versions["celery"] = default_worker_celery_version
    project = image.WorkerImage(pytestconfig.rootpath, default_worker_base_image, default_worker_requirements, versions)
    # Processes of pytest-xdist build it one after the other: the first for all, the others from the engine's cache.
    locks = Locks(f"sqlite:///{Path(tempfile.gettempdir()) / f'celery-locks-images-{_user() or 0}.db'}")
    with locks.lock("image", ttl=60):
        return project.build(docker_client, os.environ)


# --- The workers' container ---


@pytest.fixture
def default_worker_user() -> str | None:
    """Return the user that workers run as: that of the tests, so that both may write to files that they share."""
    return _user()


def _user() -> str | None:
    return f"{os.getuid()}:{os.getgid()}" if hasattr(os, "getuid") else None


@pytest.fixture
def default_worker_volumes(
    default_worker_volume: Any, celery_locks_store: CeleryLockStore | None
) -> dict[str, dict[str, str]]:
    """Return the folders that workers have: their app's, and that of a lock store in a file, by the same path."""
    volumes = {default_worker_volume.name: dict(DEFAULT_WORKER_VOLUME)}
    if celery_locks_store is not None and isinstance(celery_locks_store.container, SQLiteFile):
        folder = str(celery_locks_store.container.folder)
        volumes[folder] = {"bind": folder, "mode": "rw"}
    return volumes


default_worker_container = container(
    image="{celery_base_worker_image.id}",
    ports=fxtr("default_worker_ports"),
    environment=fxtr("default_worker_env"),
    network="{default_pytest_celery_network.name}",
    volumes=fxtr("default_worker_volumes"),
    user=fxtr("default_worker_user"),
    wrapper_class=CeleryWorkerContainer,
    timeout=DEFAULT_WORKER_CONTAINER_TIMEOUT,
    command=fxtr("default_worker_command"),
)
