"""A pytest plugin: pytest-celery's nodes as processes of this machine, without Docker.

    # conftest.py of the project
    pytest_plugins = ("celery_locks.testing.local",)

``celery_setup``, ``celery_worker``, ``celery_broker``, ``celery_backend`` and their clusters work as pytest-celery
documents them, and so do containers that a project makes by ``pytest_docker_tools.container``. `celery_locks_store`
joins them. Needs the extra ``celery-locks[pytest-celery]``.
"""

from __future__ import annotations

import pytest

from celery_locks.testing.extra import require_pytest_celery

require_pytest_celery(__name__)

from celery_locks.testing.local.engine import Container, LocalEngine  # noqa: E402
from celery_locks.testing.local.programs import NodeFailed  # noqa: E402

__all__ = ["Container", "LocalEngine", "NodeFailed"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures: now that pytest-celery's are there, these come before them."""
    from pytest_docker_tools.wrappers import container

    from celery_locks.testing import lock_store
    from celery_locks.testing.local import fixtures

    patch = pytest.MonkeyPatch()
    # pytest-docker-tools finds out whether the tests run in a container, to reach others by their own addresses. Local
    # nodes have the address of this machine, wherever it is.
    patch.setattr(container, "tests_inside_container", lambda: False)
    config.add_cleanup(patch.undo)
    for module in (lock_store, fixtures):
        if not config.pluginmanager.is_registered(module):
            config.pluginmanager.register(module, module.__name__)


def pytest_report_header() -> list[str]:
    """State which programs the nodes run."""
    from celery_locks.testing.local.programs import found

    return [f"celery nodes: processes of this machine: {found()}"]
