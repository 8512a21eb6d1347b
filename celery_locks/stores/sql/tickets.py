"""Tickets of parked tasks in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields, replace
from typing import Any, NamedTuple, TypeVar, cast

from celery_locks.stores.parking import retention
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.session import Session
from celery_locks.stores.tickets import Record, Table
from celery_locks.stores.types import TICKET, Claim, Granted, Refused

T = TypeVar("T")

_COLUMNS = "id, state, number, message, task, owner, permits, most, until, calls, token, why, due, deadline, broker"
_ROW = ("name", *_COLUMNS.split(", "))
#: The first text that sorts after all texts beginning with `TICKET`.
_AFTER = TICKET[:-1] + chr(ord(TICKET[-1]) + 1)
assert len(fields(Record)) == len(_ROW) - 1


class _Facts(NamedTuple):
    """What a step asks for again and again.

    Attributes:
        used: How many permits are held.
        first_deadline: The earliest deadline of the leases.
        head: The first in line: token, number, and deadline of the place.
    """

    used: int
    first_deadline: float | None
    head: tuple[str, int, float] | None


class SQLTable(Table):
    """The tickets of one lock within one transaction.

    Nothing else changes the lock meanwhile. So what was read once is kept, and the own writes keep it current.
    """

    def __init__(self, session: Session, name: str) -> None:
        self.name = name
        self.now = session.now
        self._db = session
        self._leases = Leases(session)
        self._records: dict[str, Record | None] = {}
        self._facts: _Facts | None = None
        #: Tokens that hold nothing.
        self._without_lease: set[str] = set()

    def after(self, seconds: float) -> float:
        return self._db.after(seconds)

    def used(self) -> int:
        return self._known().used

    def deadline(self, token: str) -> float | None:
        query = "SELECT deadline FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?"
        deadline = None if token in self._without_lease else cast("float | None", self._one(query, token))
        if deadline is None:
            self._without_lease.add(token)
        return deadline

    def first_deadline(self) -> float | None:
        return self._known().first_deadline

    def grant(self, claim: Claim) -> Granted:
        held = None if claim.token in self._without_lease else self._leases.held_already(claim)
        self._without_lease.discard(claim.token)
        if held is not None:
            self.forget_leases()  # it may have the first deadline
            return Granted(held)
        granted = self._leases.grant(claim)
        if (facts := self._facts) is not None:
            deadline = self._db.after(claim.ttl)
            first = deadline if facts.first_deadline is None else min(facts.first_deadline, deadline)
            self._facts = facts._replace(used=facts.used + claim.permits, first_deadline=first)
        return granted

    def drop(self, token: str) -> None:
        if token in self._without_lease:
            return
        self.forget_leases()
        self._without_lease.add(token)
        self._db.execute("DELETE FROM celery_locks_holder WHERE name = ? AND token = ?", (self.name, token))

    def head(self) -> tuple[str, int, float] | None:
        return self._known().head

    def stand(self, record: Record) -> None:
        claim = Claim(self.name, TICKET + record.id, record.owner, 0.0, record.limit, record.permits)
        self._facts = None
        self._leases.stand(record.number, claim, self._db.after(retention(self.name)))

    def leave(self, token: str) -> None:
        head = None if self._facts is None else self._facts.head
        if head is None or head[0] == token:
            self._facts = None
        self._leases.leave(self.name, token)

    def first_ticket(self) -> str | None:
        query = (
            f"SELECT token FROM celery_locks_waiter WHERE name = ? AND token >= '{TICKET}' AND token < '{_AFTER}' "
            "AND deadline > ? ORDER BY id + 0 LIMIT 1"  # `+ 0`: it uses the primary key
        )
        token = self._one(query)
        return None if token is None else str(token).removeprefix(TICKET)

    def next_number(self) -> int:
        return self._leases.next_number(self.name)

    def waiters(self) -> int:
        return int(self._one("SELECT count(*) FROM celery_locks_waiter WHERE name = ? AND deadline > ?"))

    def has_room(self, most: int) -> bool:
        return self._leases.waiters(self.name, most) < most

    def has_ended(self, token: str) -> bool:
        return token == self._db.released and not self._db.repeated

    def refused(self, token: str) -> Refused:
        return self._leases.refused(self.name, token, 1.0)

    def get(self, id: str) -> Record | None:
        if id not in self._records:
            query = f"SELECT {_COLUMNS} FROM celery_locks_ticket WHERE name = ? AND id = ? AND deadline > ?"
            self._records[id] = self._first(query, (self.name, id, self.now))
        record = self._records[id]
        return record if record is not None and record.deadline > self.now else None

    def put(self, record: Record) -> None:
        if record.due is not None:
            self._db.note_due(record.broker, int(record.due))
        self._db.put("ticket", ("name", "id"), dict(zip(_ROW, (self.name, *astuple(record)), strict=True)))
        self._records[record.id] = record

    def running(self, token: str) -> Record | None:
        query = f"SELECT {_COLUMNS} FROM celery_locks_ticket WHERE token = ? AND state = 'running' AND name = ?"
        return self._first(query, (token, self.name))

    def due(self, broker: str, most: int) -> list[Record]:
        query = (
            f"SELECT {_COLUMNS} FROM celery_locks_ticket "
            "WHERE name = ? AND broker IN (?, '') AND due <= ? ORDER BY due LIMIT ?"
        )
        rows = self._db.execute(query, (self.name, broker, self.now, most))
        return [_record(row) for row in rows]

    def forget_leases(self) -> None:
        """Read the leases again before the next decision, after a change that this table did not make."""
        self._facts = None
        self._without_lease.clear()

    def _known(self) -> _Facts:
        """Return the facts that decide about a claim, read in one statement."""
        if self._facts is None:
            leases, values = self._db.leases_of(self.name)
            query = (
                "SELECT h.used, h.ends, w.token, w.id, w.deadline "
                f"FROM (SELECT coalesce(sum(permits), 0) AS used, min(deadline) AS ends FROM {leases} "
                "AND deadline > ?) h LEFT JOIN (SELECT token, id, deadline FROM celery_locks_waiter "
                "WHERE name = ? AND deadline > ? ORDER BY id LIMIT 1) w ON 1 = 1"
            )
            row = self._db.execute(query, (*values, self.now, self.name, self.now)).fetchone()
            used, ends, *head = row
            self._facts = _Facts(int(used), ends, None if head[0] is None else (head[0], head[1], head[2]))
        return self._facts

    def _first(self, query: str, values: Sequence[Any]) -> Record | None:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else _record(row)

    def _one(self, query: str, *more: Any) -> Any:
        """Return the only value of a query for this lock, without expired rows."""
        row = self._db.execute(query, (self.name, *more, self.now)).fetchone()
        return None if row is None else row[0]


def _record(row: Sequence[Any]) -> Record:
    record = Record(*row)
    # The previous version had another word for this state.
    return replace(record, state="dispatched") if record.state == "called" else record  # type: ignore[comparison-overlap]
