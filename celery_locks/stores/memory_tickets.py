"""Tickets of parked tasks in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from celery_locks.clock import Clock
from celery_locks.stores.base import TICKET, Claim, Granted, Refused
from celery_locks.stores.parking import Call, Dropped, Full, Out, Parked, Parking, Ticket, retention
from celery_locks.stores.tickets import Record, Table, Tickets

if TYPE_CHECKING:
    from celery_locks.stores.memory import Lock, MemoryStore


class MemoryTable(Table):
    """One lock of the store, under its mutex."""

    def __init__(self, store: MemoryStore, lock: Lock, name: str, now: float) -> None:
        self.name = name
        self.now = now
        self._store = store
        self._lock = lock

    def after(self, seconds: float) -> float:
        return self.now + seconds

    def used(self) -> int:
        return self._lock.used()

    def deadline(self, token: str) -> float | None:
        held = self._lock.held.get(token)
        return None if held is None else held.deadline

    def first_deadline(self) -> float | None:
        return min((held.deadline for held in self._lock.held.values()), default=None)

    def grant(self, claim: Claim) -> Granted:
        held = self._lock.held.get(claim.token)
        if held is None:
            return self._store.grant(self._lock, claim)
        held.deadline = max(held.deadline, self.now + claim.ttl)
        return Granted(held.fencing_token)

    def drop(self, token: str) -> None:
        self._lock.held.pop(token, None)

    def head(self) -> tuple[str, int, float] | None:
        token = next(iter(self._lock.line), None)
        return None if token is None else (token, self._lock.numbers[token], self._lock.line[token])

    def stand(self, record: Record) -> None:
        self._store.stand(self._lock, TICKET + record.id, record.number, self.now + retention(self.name))

    def leave(self, token: str) -> None:
        self._lock.leave(token)

    def first_ticket(self) -> str | None:
        tickets = (token.removeprefix(TICKET) for token in self._lock.line if token.startswith(TICKET))
        return next(tickets, None)

    def next_number(self) -> int:
        return self._store.next_number()

    def waiters(self) -> int:
        return len(self._lock.line)

    def refused(self, token: str) -> Refused:
        return self._store.refused(self._lock, token, self.now)

    def get(self, id: str) -> Record | None:
        return self._lock.tickets.get(id)

    def put(self, record: Record) -> None:
        self._lock.tickets[record.id] = record

    def running(self, token: str) -> Record | None:
        records = self._lock.tickets.values()
        return next((record for record in records if record.state == "running" and record.token == token), None)

    def due(self, most: int) -> list[Record]:
        due = [record for record in self._lock.tickets.values() if record.due is not None and record.due <= self.now]
        return sorted(due, key=lambda record: record.due or 0.0)[:most]


class MemoryParking(Parking):
    """The part of `MemoryStore` that parks tasks."""

    _changed: threading.Condition
    _clock: Clock
    _locks: dict[str, Lock]
    _tasks: dict[str, tuple[str, str]]

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        with self._at(claim.name) as (_, tickets):
            return tickets.enter(claim, ticket)

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        with self._at(claim.name) as (_, tickets):
            return tickets.park(claim, ticket)

    def hand_on(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        with self._at(name) as (lock, tickets):
            released = self._store.give_back(lock, name, token)
            calls = tickets.hand_on()
            self._store.call_waiter(lock)
            return released, calls

    def died(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        with self._at(name) as (_, tickets):
            tickets.died(token)
            return self.hand_on(name, token)

    def sent(self, call: Call, within: float) -> None:
        with self._at(call.name) as (_, tickets):
            tickets.sent(call.id, within)

    def settle(self, name: str, ticket_id: str) -> None:
        with self._at(name) as (_, tickets):
            tickets.settle(ticket_id)

    def sweep(self, prefix: str, most: int = 100) -> tuple[Call, ...]:
        with self._changed:
            calls: list[Call] = []
            for name in self._due(prefix)[:most]:
                with self._at(name) as (lock, tickets):
                    calls += tickets.sweep()
                    self._store.call_waiter(lock)
            return tuple(calls)

    def await_due(self, prefix: str, timeout: float) -> None:
        with self._changed:
            moments = [record.due - self._clock.now() for record in self._records(prefix) if record.due is not None]
            self._changed.wait_for(lambda: self._due(prefix), max(0.0, min([timeout, *moments])))

    def withdraw(self, prefix: str, task_id: str) -> tuple[Call, ...]:
        with self._changed:
            for name, lock in list(self._locks.items()):
                for record in list(lock.tickets.values()):
                    if record.task_id == task_id and record.state == "parked" and name.startswith(f"{prefix}:"):
                        with self._at(name) as (_, tickets):
                            return tickets.withdraw(record.id)
            name, token = self._tasks.pop(task_id, ("", ""))
            return self.hand_on(name, token)[1] if name.startswith(f"{prefix}:") else ()

    def waiting(self, name: str) -> int:
        with self._at(name) as (lock, _):
            return len(lock.line)

    @property
    def _store(self) -> MemoryStore:
        return self  # type: ignore[return-value]

    def _records(self, prefix: str) -> list[Record]:
        locks = (lock for name, lock in self._locks.items() if name.startswith(f"{prefix}:"))
        return [record for lock in locks for record in lock.tickets.values()]

    def _due(self, prefix: str) -> list[str]:
        now = self._clock.now()
        return [
            name
            for name, lock in self._locks.items()
            if name.startswith(f"{prefix}:")
            and any(record.due is not None and record.due <= now for record in lock.tickets.values())
        ]

    def _tickets_of(self, lock: Lock, name: str) -> Tickets:
        return Tickets(MemoryTable(self._store, lock, name, self._clock.now()))

    @contextmanager
    def _at(self, name: str) -> Iterator[tuple[Lock, Tickets]]:
        """A lock as it is now, and its tickets."""
        with self._changed:
            lock = self._store.current(name)
            yield lock, self._tickets_of(lock, name)
            self._store.forget(name)
