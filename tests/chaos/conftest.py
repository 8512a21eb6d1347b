"""Chaos tests break what the tests of tasks use."""

from tests.tasks.conftest import databases, open_shop

__all__ = ["databases", "open_shop"]
