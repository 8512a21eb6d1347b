"""The registration of fixtures for nodes with pytest."""

from __future__ import annotations

from types import ModuleType

import pytest


def register(config: pytest.Config, fixtures: ModuleType) -> None:
    """Register the shared fixtures and a plugin's own. pytest-celery's are there by now: these take precedence.

    Args:
        config: pytest's configuration.
        fixtures: The plugin's own.

    Raises:
        pytest.UsageError: pytest-celery's own plugin is not loaded.
    """
    import pytest_celery.plugin
    from pytest_docker_tools.wrappers import container

    from celery_locks.testing.nodes import fixtures as shared

    if not config.pluginmanager.is_registered(pytest_celery.plugin):
        raise pytest.UsageError(
            "pytest-celery's plugin is not loaded: don't switch it off, or add "
            "-p pytest_docker_tools.plugin -p pytest_celery.plugin to the command"
        )
    patch = pytest.MonkeyPatch()
    # Tests that run in a container would reach nodes by addresses of Docker's network. pytest-celery makes addresses at
    # localhost, where only published ports answer; local nodes have no other address.
    patch.setattr(container, "tests_inside_container", lambda: False)
    config.add_cleanup(patch.undo)
    for module in (shared, fixtures):
        if not config.pluginmanager.is_registered(module):
            config.pluginmanager.register(module, module.__name__)
