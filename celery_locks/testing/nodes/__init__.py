"""Nodes of pytest-celery for tests of locked tasks: the parts that processes and containers share."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

if find_spec("pytest_celery") is None:
    raise ImportError(f"{__name__} needs pytest-celery: pip install 'celery-locks[pytest-celery]'")

__all__ = ["worker_container"]

#: Celery takes these before an app's settings: a developer's own broker would get the tests' tasks.
URL_VARIABLES = (
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
    "CELERY_LOCKS_URL",
)
#: How many characters of a log an error shows.
_LOG_SHOWN_CHARACTERS = 4000


def failure(node: str, what: str, command: str, log: str) -> str:
    """Return the message for a node that does not start."""
    end = log[-_LOG_SHOWN_CHARACTERS:].strip() or "(it logged nothing)"
    return f"{node} {what}: correct what its log reports. It ran `{command}`. The end of its log:\n{end}"


def worker_container(**options: Any) -> Any:
    """Make a fixture with one more worker: the container of pytest-celery's default worker.

    Args:
        options: Those of ``pytest_docker_tools.container``, in place of the default worker's.
    """
    from pytest_celery import DEFAULT_WORKER_CONTAINER_TIMEOUT, CeleryWorkerContainer
    from pytest_docker_tools import container, fxtr

    defaults = {
        "image": "{celery_base_worker_image.id}",
        "ports": fxtr("default_worker_ports"),
        "environment": fxtr("default_worker_env"),
        "network": "{default_pytest_celery_network.name}",
        "volumes": fxtr("default_worker_volumes"),
        "user": fxtr("default_worker_user"),
        "wrapper_class": CeleryWorkerContainer,
        "timeout": DEFAULT_WORKER_CONTAINER_TIMEOUT,
        "command": fxtr("default_worker_command"),
    }
    return container(**{**defaults, **options})
