"""The contract of a store, as tests. Each module tests one promise."""

from __future__ import annotations

from celery_locks.testing.compliance.acquire_rule import AcquireRule
from celery_locks.testing.compliance.answers import HoldersAndRefusals
from celery_locks.testing.compliance.base import MovableClock, StoreTests
from celery_locks.testing.compliance.big_numbers import BigNumbers
from celery_locks.testing.compliance.closing import Closing
from celery_locks.testing.compliance.limits import Limits
from celery_locks.testing.compliance.line import Line
from celery_locks.testing.compliance.listing import ListingCompliance
from celery_locks.testing.compliance.losses import Losses
from celery_locks.testing.compliance.max_waiters import MaxWaiters
from celery_locks.testing.compliance.owner_tokens import OwnerTokens
from celery_locks.testing.compliance.parking import ParkingCompliance
from celery_locks.testing.compliance.renewals import Renewals
from celery_locks.testing.compliance.repeats import Repeats
from celery_locks.testing.compliance.semaphores import Semaphores
from celery_locks.testing.compliance.shrinking import Shrinking
from celery_locks.testing.compliance.values import ValueCompliance
from celery_locks.testing.compliance.waking import Waking

__all__ = ["ListingCompliance", "MovableClock", "ParkingCompliance", "StoreCompliance", "StoreTests", "ValueCompliance"]


class StoreCompliance(
    AcquireRule,
    Limits,
    Semaphores,
    OwnerTokens,
    Renewals,
    Losses,
    Line,
    Waking,
    HoldersAndRefusals,
    Repeats,
    BigNumbers,
    Shrinking,
    MaxWaiters,
    Closing,
):
    """Tests of what every store promises."""
