"""A pytest plugin: pytest-celery's nodes as containers, with a worker image built from the project under test.

    # conftest.py of the project
    pytest_plugins = ("celery_locks.testing.docker",)

A suite that names `celery_locks.testing.local` there runs in containers by the command line alone:

    pytest -p no:celery_locks.testing.local -p celery_locks.testing.docker

`celery_locks_store` joins pytest-celery's components. Needs the extra ``celery-locks[pytest-celery]``, and a Docker
engine, or another with its API.
"""

from __future__ import annotations

import pytest

from celery_locks.testing.nodes.registration import register

__all__: list[str] = []

_LOCAL = "celery_locks.testing.local"


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures."""
    if config.pluginmanager.has_plugin(_LOCAL):
        raise pytest.UsageError(
            f"{_LOCAL} and {__name__} are both loaded, and a node is either a process or a container: "
            f"name one of them in pytest_plugins, or add -p no:{_LOCAL} to the command"
        )
    from pytest_celery import CeleryTestContainer

    from celery_locks.testing.docker import engine, fixtures

    patch = pytest.MonkeyPatch()
    # pytest-celery's goes on to look for a log line of a container that has ended, for up to two minutes.
    patch.setattr(CeleryTestContainer, "ready", engine.ready)
    config.add_cleanup(patch.undo)
    register(config, fixtures)


def pytest_report_header() -> list[str]:
    """State where the nodes run."""
    from celery_locks.testing.docker.engine import address

    return [f"celery nodes: containers of the engine at {address()}"]
