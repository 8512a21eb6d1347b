"""Tests for stores and for code with locks; the only package of ours that needs pytest.

`celery_locks.testing.compliance` is the contract of a store, as tests: subclass `StoreCompliance`, give it a ``store``,
and pytest runs them.

    import pytest

    pytest.register_assert_rewrite("celery_locks.testing")   # before the import: asserts that show their values

    from celery_locks.testing import StoreCompliance

    class TestMyStore(StoreCompliance):
        @pytest.fixture
        def store(self):
            return MyStore(...)

A store in which tasks can park passes `ParkingCompliance` too, one that lists what is held `ListingCompliance`, and one
that keeps values `ValueCompliance`.
"""

from celery_locks.testing.compliance import (
    ListingCompliance,
    MovableClock,
    ParkingCompliance,
    StoreCompliance,
    StoreTests,
    ValueCompliance,
)

__all__ = ["ListingCompliance", "MovableClock", "ParkingCompliance", "StoreCompliance", "StoreTests", "ValueCompliance"]
