"""The lease as renewal sees it. The lease itself is built on renewal, so renewal can't import it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from celery_locks._logging import NamedLease
from celery_locks._runtime.clock import Clock
from celery_locks._runtime.threads import Hub
from celery_locks.errors import LossReason
from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Renewal


class WatchedLease(NamedLease, Protocol):
    """A lease that is watched and renewed; see `celery_locks.lease.Lease`."""

    token: str
    ttl: float
    _store: Store
    _claim: Claim
    _clock: Clock
    _hub: Hub | None
    _forget: Callable[[Any], object]
    _confirmed: float
    _renew_every: float
    _renew_at: float

    @property
    def lost(self) -> bool:
        """Whether it ended before it was released."""

    def release(self) -> bool:
        """Release it."""

    def _is_held_at(self, now: float) -> bool: ...
    def _ends_in(self, now: float) -> float: ...
    def _time_left(self) -> float: ...
    def _is_of_block(self, block: tuple[int, object]) -> bool: ...
    def _renewal_request(self, now: float) -> Renewal: ...
    def _apply_renewal(self, sent: float, ttl: float, reason: LossReason | None) -> object: ...
    def _in_forked_child(self) -> object: ...
