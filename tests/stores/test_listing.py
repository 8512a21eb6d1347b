"""The list of what is held, in every store, held against the contract."""

from __future__ import annotations

from celery_locks.testing import ListingCompliance
from tests.stores.compliance_stores import InMemory, OnRedis, OnSQLite


class TestMemory(InMemory, ListingCompliance):
    pass


class TestSQLite(OnSQLite, ListingCompliance):
    pass


class TestRedis(OnRedis, ListingCompliance):
    pass
