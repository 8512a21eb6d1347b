"""Tickets of parked tasks in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery_locks._runtime.clock import system_clock
from celery_locks.stores.memory.state import Lock, MemoryLocks
from celery_locks.stores.parking import (
    Dispatch,
    Dropped,
    Full,
    Out,
    Parked,
    Parking,
    RunEndName,
    Ticket,
    may_dispatch,
    retention,
)
from celery_locks.stores.tickets import Record, Table, Tickets
from celery_locks.stores.types import TICKET, Claim, Granted, Refused, Value


class MemoryTable(Table):
    """One lock of the store, under its mutex."""

    def __init__(self, store: MemoryLocks, lock: Lock, name: str, now: float) -> None:
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
        if record.due is not None:
            self._store.wake_sweepers()

    def running(self, token: str) -> Record | None:
        records = self._lock.tickets.values()
        return next((record for record in records if record.state == "running" and record.token == token), None)

    def due(self, broker: str, most: int) -> list[Record]:
        mine = (record for record in self._lock.tickets.values() if may_dispatch(record.broker, broker))
        due = [record for record in mine if record.due is not None and record.due <= self.now]
        return sorted(due, key=lambda record: record.due or 0.0)[:most]


class MemoryParking(MemoryLocks, Parking):
    """The part of `MemoryStore` that parks tasks."""

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        with self._at(claim.name) as (_, tickets):
            return tickets.enter(claim, ticket)

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        with self._at(claim.name) as (_, tickets):
            return tickets.park(claim, ticket)

    def end_run(
        self, name: str, token: str, end: RunEndName, *, broker: str, value: Value | None = None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        with self._at(name) as (lock, tickets):
            released = self.end_lease(lock, name, token, end, value)
            dispatches = tickets.dispatch(broker)
            self.call_waiter(lock)
            return released, dispatches

    def published(self, dispatch: Dispatch, within: float) -> None:
        with self._at(dispatch.name) as (_, tickets):
            tickets.published(dispatch.id, within)

    def finish(self, name: str, ticket_id: str, token: str = "", *, running: bool = True) -> None:
        with self._at(name) as (_, tickets):
            tickets.finish(ticket_id, token, running)

    def sweep(self, prefix: str, broker: str, most: int = 100) -> tuple[Dispatch, ...]:
        with self._changed:
            dispatches: list[Dispatch] = []
            for name in self._due(prefix, broker)[:most]:
                with self._at(name) as (lock, tickets):
                    dispatches += tickets.sweep(broker)
                    self.call_waiter(lock)
            return tuple(dispatches)

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        give_up = system_clock.now() + timeout
        with self._changed:
            while not self._due(prefix, broker) and (left := give_up - system_clock.now()) > 0:
                records = self._records(prefix, broker)
                moments = [record.due - self._clock.now() for record in records if record.due is not None]
                self._changed.wait(max(0.001, min([left, *moments])))

    def withdraw(self, prefix: str, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        with self._changed:
            for name, lock in list(self._locks.items()):
                for record in list(lock.tickets.values()):
                    if record.task_id == task_id and record.state == "parked" and name.startswith(f"{prefix}:"):
                        with self._at(name) as (_, tickets):
                            if dispatches := tickets.withdraw(record.id, broker):
                                return dispatches
            name, token = self._tasks.pop(task_id, ("", ""))
            return self.end_run(name, token, "again", broker=broker)[1] if name.startswith(f"{prefix}:") else ()

    def waiting(self, name: str) -> int:
        with self._at(name) as (lock, _):
            return len(lock.line)

    def _records(self, prefix: str, broker: str) -> list[Record]:
        locks = (lock for name, lock in self._locks.items() if name.startswith(f"{prefix}:"))
        records = (record for lock in locks for record in lock.tickets.values())
        return [record for record in records if may_dispatch(record.broker, broker)]

    def _due(self, prefix: str, broker: str) -> list[str]:
        """Return the names of locks in which something is due for a broker."""
        now = self._clock.now()
        return [
            name
            for name, lock in self._locks.items()
            if name.startswith(f"{prefix}:")
            and any(
                record.due is not None and record.due <= now and may_dispatch(record.broker, broker)
                for record in lock.tickets.values()
            )
        ]

    def _tickets_of(self, lock: Lock, name: str) -> Tickets:
        return Tickets(MemoryTable(self, lock, name, self._clock.now()))

    @contextmanager
    def _at(self, name: str) -> Iterator[tuple[Lock, Tickets]]:
        """A lock as it is now, and its tickets."""
        with self._changed:
            lock = self.current(name)
            yield lock, self._tickets_of(lock, name)
            self.forget(name)

    def end_lease(self, lock: Lock, name: str, token: str, end: RunEndName, value: Value | None) -> bool:
        """Release a lease, keep its holder's value, and settle the ticket that ran under it."""
        self._tickets_of(lock, name).end_run(token, end)
        held = lock.held.pop(token, None)
        if held is not None and value is not None:
            self._values[name] = value.text, self._clock.now() + value.keep
        return held is not None

    def _call_next(self, lock: Lock) -> None:
        """Tells the first in line that it may be its turn."""
        if lock.line and next(iter(lock.line)).startswith(TICKET):
            name = next(name for name, each in self._locks.items() if each is lock)
            self._tickets_of(lock, name).look_at_first()
            self._changed.notify_all()
        self.call_waiter(lock)
