"""All locks in memory, and the steps that requests are made of. All steps run under the store's mutex."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from celery_locks._runtime import threads
from celery_locks._runtime.clock import Clock
from celery_locks.stores.memory.expiring import Expiring
from celery_locks.stores.memory.lock import Due, DueTickets, MemoryLease, MemoryLock
from celery_locks.stores.tickets import Record
from celery_locks.stores.types import TICKET, Claim, Granted


@dataclass(slots=True)
class StoredValue:
    """A value that is kept with a key."""

    text: str
    deadline: float


class MemoryLocks:
    """The locks, by their full names; a lock without a lease, a waiter or a ticket is forgotten.

    Indexes find tickets and leases without a search. They are written before what they point to, and cleared after it,
    so an exception between two steps leaves too many entries, never too few. Who reads an index checks what it finds.

    Args:
        clock: The store's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.mutex = threads.RLock()
        #: Notified when a ticket is due earlier than before.
        self.tickets_changed = threading.Condition(self.mutex)
        #: The threads that wait, by the tokens that they wait for.
        self.waits: dict[str, threading.Condition] = {}
        self.values = Expiring[str, StoredValue]()
        self.by_name: dict[str, MemoryLock] = {}
        #: Names and owner tokens of leases that were taken at the call of a task, by the task's id.
        self._leases_of_tasks: dict[str, tuple[str, str]] = {}
        #: Names and ids of parked tickets, by the task's id.
        self._tickets_of_tasks: dict[str, dict[tuple[str, str], None]] = {}
        #: Locks by their names, by the prefix and by the broker of their tickets that are due at some time.
        self._due: dict[tuple[str, str], Expiring[str, DueTickets]] = {}
        self._last_fencing_token = 0
        self._last_number = 0

    def __len__(self) -> int:
        return len(self.by_name)

    def now(self) -> float:
        """Return the store's time."""
        return self._clock.now()

    @contextmanager
    def at(self, name: str) -> Iterator[MemoryLock]:
        """Open a lock for one step, without what has expired."""
        with self.mutex:
            lock = self.by_name.get(name)
            if lock is None:
                lock = self.by_name[name] = MemoryLock(name)
            else:
                self.expire(lock)
            yield lock
            if lock.is_empty:
                self.by_name.pop(name, None)

    def expire(self, lock: MemoryLock) -> list[MemoryLease]:
        """Remove what has expired from a lock, and return its expired leases."""
        now = self._clock.now()
        leases = list(lock.expired_leases(now))
        for lease in leases:
            self._forget_task(lease)
        lock.line.expire(now)
        for _ in lock.taken.pop_expired(now):
            pass
        for _, record in lock.tickets.pop_expired(now):
            self._forget_ticket(lock, record)
        return leases

    # --- Leases ---

    def grant(self, lock: MemoryLock, claim: Claim) -> Granted:
        """Give a claim its permits, also where others hold them."""
        now = self._clock.now()
        self._last_fencing_token += 1
        if claim.task_id:
            self._leases_of_tasks[claim.task_id] = claim.name, claim.token
        lease = MemoryLease(claim, claim.permits, self._last_fencing_token, now, now + claim.ttl)
        lock.add_lease(claim.token, lease)
        return Granted(lease.fencing_token)

    def end_lease(self, lock: MemoryLock, token: str) -> MemoryLease | None:
        """Remove a lease, and return it if there was one."""
        lease = lock.pop_lease(token)
        if lease is not None:
            self._forget_task(lease)
        return lease

    def pop_lease_of_task(self, prefix: str, task_id: str) -> tuple[str, str]:
        """Return the name and owner token of the lease that was taken at the call of a task; empty for none."""
        name, token = self._leases_of_tasks.get(task_id, ("", ""))
        if not name.startswith(f"{prefix}:"):
            return "", ""
        del self._leases_of_tasks[task_id]
        return name, token

    def _forget_task(self, lease: MemoryLease) -> None:
        claim = lease.claim
        if claim.task_id and self._leases_of_tasks.get(claim.task_id) == (claim.name, claim.token):
            del self._leases_of_tasks[claim.task_id]

    # --- The line ---

    def next_number(self) -> int:
        """Return the number of a new place in line."""
        self._last_number += 1
        return self._last_number

    def wake_first_waiter(self, lock: MemoryLock) -> None:
        """Wake the first in line, if it is a waiter and no ticket."""
        first = lock.line.first()
        if first is not None and not first.startswith(TICKET):
            lock.line.called.add(first)
            if first in self.waits:
                self.waits[first].notify_all()

    # --- Tickets ---

    def put_ticket(self, lock: MemoryLock, record: Record) -> None:
        """Write a ticket."""
        before = lock.tickets.get(record.id)
        if record.state == "running":
            lock.runs[record.token] = record.id
        if record.state == "parked":
            self._tickets_of_tasks.setdefault(record.task_id, {})[lock.name, record.id] = None
        if record.due is not None:
            due_tickets = lock.due_tickets.setdefault(record.broker, DueTickets())
            due_tickets.add(record.id, Due(record.due))
            place = _prefix_of(lock.name), record.broker
            self._due.setdefault(place, Expiring()).add(lock.name, due_tickets)
            self.tickets_changed.notify_all()
        lock.tickets.add(record.id, record)
        if before is not None and before.token != record.token:
            lock.runs.pop(before.token, None)
        if record.state != "parked":
            self._forget_parked(lock, record)
        if record.due is None:
            self.forget_due(lock, record.broker, record.id)

    def parked_tickets_of(self, prefix: str, task_id: str) -> list[tuple[str, str]]:
        """Return the names and ids of the parked tickets of a task."""
        return [place for place in self._tickets_of_tasks.get(task_id, ()) if place[0].startswith(f"{prefix}:")]

    def next_due(self, prefix: str, brokers: tuple[str, ...]) -> float | None:
        """Return when the next ticket of these brokers is due, ``None`` when none is."""
        due = (self._due[prefix, broker].first_deadline() for broker in brokers if (prefix, broker) in self._due)
        return min((moment for moment in due if moment is not None), default=None)

    def due_locks(self, prefix: str, brokers: tuple[str, ...], count: int) -> list[str]:
        """Return the names of locks in which a ticket of these brokers is due."""
        now, names = self._clock.now(), dict[str, None]()
        for place in [(prefix, broker) for broker in brokers if (prefix, broker) in self._due]:
            due = self._due[place]
            for name in list(due.expired(now, count)):
                lock = self.by_name.get(name)
                if lock is not None and lock.due_tickets.get(place[1]) is due.get(name):
                    names[name] = None
                else:  # an exception came between two steps, and the lock was forgotten since
                    due.pop(name, None)
            if not due:
                del self._due[place]
        return list(names)[:count]

    def _forget_ticket(self, lock: MemoryLock, record: Record) -> None:
        lock.runs.pop(record.token, None)
        self._forget_parked(lock, record)
        self.forget_due(lock, record.broker, record.id)

    def _forget_parked(self, lock: MemoryLock, record: Record) -> None:
        places = self._tickets_of_tasks.get(record.task_id, {})
        places.pop((lock.name, record.id), None)
        if not places:
            self._tickets_of_tasks.pop(record.task_id, None)

    def forget_due(self, lock: MemoryLock, broker: str, id: str) -> None:
        """Remove a ticket from the index of due tickets."""
        due_tickets = lock.due_tickets.get(broker)
        if due_tickets is None:
            return
        due_tickets.pop(id, None)
        if not due_tickets:
            del lock.due_tickets[broker]
            place = _prefix_of(lock.name), broker
            locks = self._due.get(place)
            if locks is not None:
                locks.pop(lock.name, None)
            if not locks:
                self._due.pop(place, None)


def _prefix_of(name: str) -> str:
    return name.partition(":{")[0]
