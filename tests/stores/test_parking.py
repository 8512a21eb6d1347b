"""Parking in every store, held against the contract."""

from __future__ import annotations

import pytest

from celery_locks.testing import ParkingCompliance
from tests.stores.compliance_stores import InMemory, OnRedis, OnSQLite, WithShortDelays


class TestMemory(InMemory, ParkingCompliance):
    pass


class TestSQLite(OnSQLite, ParkingCompliance):
    pass


@pytest.mark.slow
class TestRedis(OnRedis, WithShortDelays, ParkingCompliance):
    """In real time."""
