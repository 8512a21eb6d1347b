"""What modules need of a lease that the lease itself is built on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from celery_locks._logging import NamedLease
from celery_locks._runtime.clock import Clock
from celery_locks._runtime.threads import Home
from celery_locks._validation import Terms
from celery_locks.errors import LossReason
from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Renewal


class ReportedLease(NamedLease, Protocol):
    """A lease, as outcomes report it."""

    waited: float
    _claim: Claim
    _store_name: str

    def held_for(self) -> float:
        """Return for how many seconds this process has held it."""


class KeptLease(NamedLease, Protocol):
    """A lease that is watched and renewed."""

    token: str
    ttl: float
    _store: Store
    _claim: Claim
    _clock: Clock
    _home: Home | None
    _forget: Callable[[Any], object]
    _confirmed: float
    _renew_every: float
    _renew_at: float

    @property
    def lost(self) -> bool:
        """Whether it ended before it was released."""

    def release(self) -> bool:
        """Release it."""

    def _lives(self, now: float) -> bool: ...
    def _ends_in(self, now: float) -> float: ...
    def _time_left(self) -> float: ...
    def _is_of_block(self, block: tuple[int, object]) -> bool: ...
    def _renewal_request(self, now: float) -> Renewal: ...
    def _answer(self, sent: float, ttl: float, reason: LossReason | None) -> object: ...
    def _in_forked_child(self) -> object: ...


class LockedKey(Protocol):
    """A lock, as seen by what a wait for it depends on."""

    key: str
    _name: str
    _store: Store
    _terms: Terms
