"""Fixtures that replace those of pytest-celery and pytest-docker-tools, for nodes that are containers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from docker.models.images import Image
from pytest_celery import ALL_CELERY_BROKERS

from celery_locks.locks import Locks
from celery_locks.testing.docker import image
from celery_locks.testing.docker.engine import DockerEngine, connect
from celery_locks.testing.nodes.fixtures import broker


@pytest.fixture(scope="session")
def docker_client() -> Iterator[DockerEngine]:
    """Return a client of the Docker engine."""
    engine = connect()
    yield engine
    engine.close()


celery_broker = broker(ALL_CELERY_BROKERS)


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
    docker_client: DockerEngine,
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
    default_worker_base_image: str,
    default_worker_requirements: list[str],
    default_worker_celery_version: str,
) -> Image:
    """Return the workers' image, built from the project once for the session.

    Override it by ``pytest_docker_tools.build`` for a Dockerfile of your own, as pytest-celery documents.
    """
    versions = image.installed_versions()
    if default_worker_celery_version:
        versions["celery"] = default_worker_celery_version
    project = image.WorkerImage(pytestconfig.rootpath, default_worker_base_image, default_worker_requirements, versions)
    # Processes of pytest-xdist build it one after the other: the first for all, the others from the engine's cache.
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with closing(Locks(f"sqlite:///{folder / 'locks.db'}")) as locks, locks.lock("workers' image", ttl=60):
        return project.build(docker_client, os.environ)
