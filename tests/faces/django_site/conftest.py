"""Django for the tests of the shop: one database in memory."""

from __future__ import annotations

import django
import pytest
import shop  # noqa: F401

django.setup()


@pytest.fixture(scope="session", autouse=True)
def database() -> None:
    from django.core.management import call_command
    from django.test.utils import setup_test_environment

    setup_test_environment(debug=False)
    call_command("migrate", verbosity=0)


@pytest.fixture(autouse=True)
def _locks_of_the_test(lock_store: object) -> None:
    """Each test has its own locks."""
