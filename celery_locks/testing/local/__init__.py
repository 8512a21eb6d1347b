"""A pytest plugin: pytest-celery's nodes as processes of this machine, without Docker.

    # conftest.py of the project
    pytest_plugins = ("celery_locks.testing.local",)

``celery_setup``, ``celery_worker``, ``celery_broker``, ``celery_backend`` and their clusters work as pytest-celery
documents them, and so do containers that a project makes by ``pytest_docker_tools.container``. `celery_locks_store`
joins them. Needs the extra ``celery-locks[pytest-celery]``, and Linux or macOS.
"""

from __future__ import annotations

import os

import pytest

if os.name == "nt":
    raise ImportError(f"{__name__} runs on Linux and macOS, not on Windows: name celery_locks.testing.docker instead")

from celery_locks.testing.local.engine import LocalEngine
from celery_locks.testing.local.executables import NodeFailed, available_servers
from celery_locks.testing.nodes.registration import register

__all__ = ["LocalEngine", "NodeFailed"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures."""
    from celery_locks.testing.local import fixtures

    register(config, fixtures)


def pytest_report_header() -> list[str]:
    """State which programs the nodes run."""
    return [f"celery nodes: processes of this machine: {available_servers()}"]
