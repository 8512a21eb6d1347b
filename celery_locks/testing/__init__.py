"""Tests for stores of your own: subclass `StoreCompliance`, give it a ``store``, and pytest runs the contract.

    import pytest

    pytest.register_assert_rewrite("celery_locks.testing")   # before the import: asserts that show their values

    from celery_locks.testing import StoreCompliance

    class TestMyStore(StoreCompliance):
        @pytest.fixture
        def store(self):
            return MyStore(...)

A store in which tasks can park passes `ParkingCompliance` too, one that lists what is held `ListingCompliance`, and one
that keeps values `ValueCompliance`. The only package of ours that needs pytest.
"""

from __future__ import annotations

from celery_locks.testing.acquire_rule import AcquireRule
from celery_locks.testing.big_numbers import BigNumbers
from celery_locks.testing.closing import Closing
from celery_locks.testing.limits import Limits
from celery_locks.testing.line import Line
from celery_locks.testing.listing import ListingCompliance
from celery_locks.testing.losses import Losses
from celery_locks.testing.max_waiters import MaxWaiters
from celery_locks.testing.owners import Owners
from celery_locks.testing.parking import ParkingCompliance
from celery_locks.testing.renewals import Renewals
from celery_locks.testing.repeats import Repeats
from celery_locks.testing.semaphores import Semaphores
from celery_locks.testing.shrinking import Shrinking
from celery_locks.testing.store import MovableClock, StoreTests
from celery_locks.testing.told import Told
from celery_locks.testing.values import ValueCompliance
from celery_locks.testing.waking import Waking

__all__ = ["ListingCompliance", "MovableClock", "ParkingCompliance", "StoreCompliance", "StoreTests", "ValueCompliance"]


class StoreCompliance(
    AcquireRule,
    Limits,
    Semaphores,
    Owners,
    Renewals,
    Losses,
    Line,
    Waking,
    Told,
    Repeats,
    BigNumbers,
    Shrinking,
    MaxWaiters,
    Closing,
):
    """What every store promises, as tests."""
