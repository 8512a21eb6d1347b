"""The base class of tests of parking."""

from __future__ import annotations

import uuid

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.parking import (
    FIRST_DISPATCH,
    STORE_GRACE,
    Dispatch,
    Parked,
    Parking,
    RunEndName,
    Ticket,
)
from celery_locks.stores.types import Claim, Granted
from celery_locks.testing.compliance.base import StoreTests


class TicketTests(StoreTests):
    """Tools for tests of tasks that park in a lock, under a prefix of its own."""

    #: Seconds of `FIRST_DISPATCH`, to let it pass.
    first_dispatch = FIRST_DISPATCH
    #: Seconds of `STORE_GRACE`, to let it pass.
    store_grace = STORE_GRACE

    @pytest.fixture
    def prefix(self) -> str:
        return f"parking-{uuid.uuid4().hex[:12]}"

    @pytest.fixture
    def name(self, prefix: str) -> str:
        return f"{prefix}:{{key}}"

    @pytest.fixture
    def parking(self, store: Store) -> Parking:
        assert isinstance(store, Parking)
        return store

    def ticket(
        self,
        number: int,
        wait: float | None = None,
        max_waiters: int | None = None,
        broker: str = "",
        late: bool = False,
        count: int = 0,
    ) -> Ticket:
        id, task_id = f"task {number}:0", f"task {number}"
        return Ticket(id, f"message {number}", task_id, wait, max_waiters, broker=broker, late=late, count=count)

    def enter(self, parking: Parking, name: str, number: int, broker: str = "", **claim: float) -> object:
        return parking.enter(self.claim(name, **claim), self.ticket(number, broker=broker))  # type: ignore[arg-type]

    def enter_late(self, parking: Parking, name: str, number: int, count: int, ttl: float | None = None) -> str:
        """Return the owner token of a run that acknowledges late, by the copy that a dispatch published."""
        claim = self.claim(name, ttl)
        assert isinstance(parking.enter(claim, self.ticket(number, late=True, count=count)), Granted)
        return claim.token

    def park(self, parking: Parking, name: str, *numbers: int, broker: str = "", **claim: float) -> None:
        """Park tickets, in this order."""
        for number in numbers:
            assert isinstance(self.enter(parking, name, number, broker, **claim), Parked)

    def end(
        self, parking: Parking, name: str, token: str, end: RunEndName = "final", *, broker: str = ""
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        """End a run."""
        return parking.end_run(name, token, end, broker=broker)

    def hold(self, store: Store, name: str, **claim: float) -> Claim:
        holder = self.claim(name, **claim)  # type: ignore[arg-type]
        self.granted(store, holder)
        return holder

    def ids(self, dispatches: tuple[Dispatch, ...]) -> list[str]:
        return [dispatch.id for dispatch in dispatches]

    def enter_granted(self, parking: Parking, name: str, number: int) -> str:
        """Return the owner token under which a dispatched task runs."""
        claim = self.claim(name)
        assert isinstance(parking.enter(claim, self.ticket(number)), Granted)
        return claim.token

    def run(
        self, store: Store, parking: Parking, name: str, number: int, ttl: float | None = None, broker: str = ""
    ) -> Claim:
        """Return the claim of a task that parked, was dispatched, and runs."""
        holder = self.hold(store, name)
        self.park(parking, name, number, broker=broker)
        self.end(parking, name, holder.token, broker=broker)
        claim = self.claim(name, ttl)
        assert isinstance(parking.enter(claim, self.ticket(number, broker=broker)), Granted)
        return claim
