"""Values, in every store, held against the contract."""

from __future__ import annotations

from celery_locks.testing import ValueCompliance
from tests.stores.compliance_stores import InMemory, OnRedis, OnSQLite


class TestMemory(InMemory, ValueCompliance):
    pass


class TestSQLite(OnSQLite, ValueCompliance):
    pass


class TestRedis(OnRedis, ValueCompliance):
    pass
