"""Each test has a lock store and a database of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("SHOP_FOLDER", tempfile.mkdtemp(prefix="shop-tests-"))


@pytest.fixture(autouse=True)
def locks_of_the_test(lock_store: object) -> None:
    """Put all locks of a test into a store in memory, which ends with the test."""


@pytest.fixture(autouse=True)
def database_of_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.db"))
