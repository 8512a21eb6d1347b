"""Tests for the store in memory alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.parking import Parked, Ticket
from celery_locks.stores.types import Claim, Granted, Refused

NAME = "prefix:{key}"


def claim(token: str, permits: int = 1, limit: int = 1, adopts: str = "") -> Claim:
    return Claim(NAME, token, "me", 30.0, limit, permits, adopts=adopts)


def test_an_interrupt_while_a_ticket_is_written_leaves_nothing_due(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    store.acquire(claim("holder"))

    def interrupt() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store._locks.tickets_changed, "notify_all", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.enter(claim("run"), Ticket("ticket", "message", "task", 0.0, broker="broker"))
    assert store.release(NAME, "holder")
    assert store._locks.next_due("prefix", ("", "broker")) is not None
    assert store.sweep("prefix", "broker") == ()
    assert store._locks.next_due("prefix", ("", "broker")) is None, "a sweeper would go on sweeping without a pause"


def finish_a_dispatched_ticket(store: MemoryStore) -> str:
    store.acquire(claim("holder"))
    assert isinstance(store.enter(claim("run"), Ticket("ticket", "message", "task")), Parked)
    line_up(store, claim("waiter"))
    store.end_run(NAME, "holder", "final", broker="")
    store.finish(NAME, "ticket")
    return "waiter"


def run_a_ticket_that_leaves_a_permit(store: MemoryStore) -> str:
    store.acquire(claim("holder", 3, 3))
    assert isinstance(store.enter(claim("run", 2, 3), Ticket("ticket", "message", "task")), Parked)
    line_up(store, claim("waiter", 1, 3))
    store.shrink(NAME, "holder", 1)
    store.sweep("prefix", "")
    assert isinstance(store.enter(claim("run", 2, 3), Ticket("ticket", "message", "task")), Granted)
    store.release(NAME, "holder")
    return "waiter"


def withdraw_the_first_ticket(store: MemoryStore) -> str:
    store.acquire(claim("holder", 2, 2))
    assert isinstance(store.enter(claim("run", 2, 2), Ticket("ticket", "message", "task", broker="other")), Parked)
    line_up(store, claim("waiter", 1, 2))
    store.shrink(NAME, "holder", 1)
    store.withdraw("prefix", "other", "task")
    return "waiter"


def adopt_from_the_head_of_the_line(store: MemoryStore) -> str:
    store.acquire(claim("big", 2, 3))
    store.acquire(claim("adopted", 1, 3))
    line_up(store, claim("adopter", 2, 3))
    line_up(store, claim("waiter", 1, 3))
    store.shrink(NAME, "big", 1)
    assert isinstance(store.acquire(claim("adopter", 1, 3, adopts="adopted")), Granted)
    return "waiter"


def line_up(store: MemoryStore, claimed: Claim) -> None:
    assert isinstance(store.acquire(claimed, line_up=30.0), Refused)


@pytest.mark.parametrize(
    "step",
    [
        finish_a_dispatched_ticket,
        run_a_ticket_that_leaves_a_permit,
        withdraw_the_first_ticket,
        adopt_from_the_head_of_the_line,
    ],
)
def test_a_step_that_makes_room_wakes_the_waiter(step: Callable[[MemoryStore], str]) -> None:
    store = MemoryStore()
    waiter = step(store)
    assert list(store.wait_any([(NAME, waiter)], 0.0)) == [waiter]
