"""What tests of parking are written with."""

from __future__ import annotations

import uuid

import pytest

from celery_locks.stores.base import Claim, Granted, Store
from celery_locks.stores.parking import FIRST_CALL, Call, Parked, Parking, Ticket
from celery_locks.testing.store import StoreTests


class TicketTests(StoreTests):
    """A lock of a prefix of its own, and tasks that park in it."""

    #: Seconds of `FIRST_CALL`, to let it pass.
    first_call = FIRST_CALL

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

    def ticket(self, number: int, wait: float | None = None, max_waiters: int | None = None) -> Ticket:
        return Ticket(f"task {number}:0", f"message {number}", f"task {number}", wait, max_waiters)

    def enter(self, parking: Parking, name: str, number: int, **claim: float) -> object:
        return parking.enter(self.claim(name, **claim), self.ticket(number))  # type: ignore[arg-type]

    def park(self, parking: Parking, name: str, *numbers: int, **claim: float) -> None:
        """Lines them up, in this order."""
        for number in numbers:
            assert isinstance(self.enter(parking, name, number, **claim), Parked)

    def hold(self, store: Store, name: str, **claim: float) -> Claim:
        holder = self.claim(name, **claim)  # type: ignore[arg-type]
        self.granted(store, holder)
        return holder

    def ids(self, calls: tuple[Call, ...]) -> list[str]:
        return [call.id for call in calls]

    def enter_granted(self, parking: Parking, name: str, number: int) -> str:
        """The owner token under which a called task runs."""
        claim = self.claim(name)
        assert isinstance(parking.enter(claim, self.ticket(number)), Granted)
        return claim.token

    def run(self, store: Store, parking: Parking, name: str, number: int, ttl: float | None = None) -> Claim:
        """A task that parked, was called, and runs."""
        holder = self.hold(store, name)
        self.park(parking, name, number)
        parking.hand_on(name, holder.token)
        claim = self.claim(name, ttl)
        assert isinstance(parking.enter(claim, self.ticket(number)), Granted)
        return claim
