"""The tickets of one lock in memory."""

from __future__ import annotations

from celery_locks.stores.memory.lock import MemoryLock
from celery_locks.stores.memory.locks import MemoryLocks
from celery_locks.stores.parking import retention
from celery_locks.stores.tickets import Record, Table
from celery_locks.stores.types import TICKET, Claim, Granted, Refused


class MemoryTable(Table):
    """One lock of the store, under its mutex."""

    def __init__(self, locks: MemoryLocks, lock: MemoryLock) -> None:
        self.name = lock.name
        self.now = locks.now()
        self._locks = locks
        self._lock = lock

    def after(self, seconds: float) -> float:
        return self.now + seconds

    def used(self) -> int:
        return self._lock.used()

    def deadline(self, token: str) -> float | None:
        lease = self._lock.leases.get(token)
        return None if lease is None else lease.deadline

    def first_deadline(self) -> float | None:
        return self._lock.leases.first_deadline()

    def grant(self, claim: Claim) -> Granted:
        lease = self._lock.leases.get(claim.token)
        if lease is None:
            return self._locks.grant(self._lock, claim)
        lease.deadline = max(lease.deadline, self.now + claim.ttl)
        return Granted(lease.fencing_token)

    def drop(self, token: str) -> None:
        self._locks.end_lease(self._lock, token)

    def head(self) -> tuple[str, int, float] | None:
        token = self._lock.line.first()
        if token is None:
            return None
        place = self._lock.line.place_of(token)
        return token, place.number, place.deadline

    def stand(self, record: Record) -> None:
        self._lock.line.enter(TICKET + record.id, record.number, self.now + retention(self.name))

    def leave(self, token: str) -> None:
        self._lock.line.leave(token)

    def first_ticket(self) -> str | None:
        token = self._lock.line.first_ticket()
        return None if token is None else token.removeprefix(TICKET)

    def next_number(self) -> int:
        return self._locks.next_number()

    def waiters(self) -> int:
        return len(self._lock.line)

    def refused(self, token: str) -> Refused:
        return self._lock.refused(token, self.now)

    def get(self, id: str) -> Record | None:
        return self._lock.tickets.get(id)

    def put(self, record: Record) -> None:
        self._locks.put_ticket(self._lock, record)

    def running(self, token: str) -> Record | None:
        record = self._lock.tickets.get(self._lock.runs.get(token, ""))
        return record if record is not None and (record.state, record.token) == ("running", token) else None

    def due(self, broker: str, most: int) -> list[Record]:
        found = list[tuple[float, Record]]()
        for each in {"", broker}:
            tickets = self._lock.due_tickets.get(each)
            for id in [] if tickets is None else list(tickets.expired(self.now, most)):
                record = self._lock.tickets.get(id)
                if record is not None and record.due is not None and record.due <= self.now:
                    found.append((record.due, record))
                elif record is not None:  # an exception came between two steps
                    self.put(record)
                else:
                    self._locks.forget_due(self._lock, each, id)
        return [record for _, record in sorted(found, key=lambda pair: pair[0])[:most]]
