"""What the plugins for pytest-celery need beside pytest."""

from __future__ import annotations

from importlib.util import find_spec


def require_pytest_celery(plugin: str) -> None:
    """Check that pytest-celery is installed.

    Args:
        plugin: The plugin that needs it.

    Raises:
        ImportError: It is not.
    """
    if find_spec("pytest_celery") is None:
        raise ImportError(f"{plugin} needs pytest-celery: pip install 'celery-locks[pytest-celery]'")
