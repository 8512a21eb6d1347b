"""Chaos tests break what the tests of tasks use."""

from tests.tasks.conftest import open_shop

__all__ = ["open_shop"]
