"""The stores that need no server, held against the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.sqlite import SQLiteStore
from celery_locks.testing import StoreCompliance
from tests.stores.compliance_stores import AnswersOfEachKind, InMemory, OnSQLite


class TestMemory(InMemory, StoreCompliance):
    pass


class TestSQLite(OnSQLite, StoreCompliance):
    pass


@pytest.mark.slow
class TestSQLiteInRealTime(AnswersOfEachKind):
    """By the clock of the machine."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return SQLiteStore(str(tmp_path / "locks.db"))

    @pytest.fixture
    def another(self, store: Store, tmp_path: Path) -> Store:
        return SQLiteStore(str(tmp_path / "locks.db"))
