"""Tickets of parked tasks in a SQLite file."""

from __future__ import annotations

import sqlite3
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import astuple, fields
from time import monotonic, sleep
from typing import Any, TypeVar, cast

from celery_locks.stores.base import Claim, Granted, Refused
from celery_locks.stores.parking import RETENTION, TICKET, Call, Dropped, Full, Out, Parked, Parking, Ticket
from celery_locks.stores.sqlite_clock import microseconds
from celery_locks.stores.sqlite_leases import Leases
from celery_locks.stores.tickets import Record, Table, Tickets

T = TypeVar("T")

#: Seconds between two looks for something due: the first, and the longest.
FIRST_LOOK, LONGEST_LOOK = 0.02, 0.25

SCHEMA = """
CREATE TABLE IF NOT EXISTS celery_locks_ticket (
    name TEXT NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    number INTEGER NOT NULL,
    message TEXT NOT NULL,
    task TEXT NOT NULL,
    owner TEXT NOT NULL,
    permits INTEGER NOT NULL,
    most INTEGER NOT NULL,
    until INTEGER,
    calls INTEGER NOT NULL,
    token TEXT NOT NULL,
    why TEXT NOT NULL,
    due INTEGER,
    deadline INTEGER NOT NULL,
    PRIMARY KEY (name, id)
);
CREATE INDEX IF NOT EXISTS celery_locks_ticket_due ON celery_locks_ticket (due) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS celery_locks_ticket_running ON celery_locks_ticket (token) WHERE state = 'running';
CREATE INDEX IF NOT EXISTS celery_locks_ticket_number ON celery_locks_ticket (number);
CREATE INDEX IF NOT EXISTS celery_locks_ticket_task ON celery_locks_ticket (task);
CREATE INDEX IF NOT EXISTS celery_locks_ticket_deadline ON celery_locks_ticket (deadline);
"""

_COLUMNS = "id, state, number, message, task, owner, permits, most, until, calls, token, why, due, deadline"
assert len(fields(Record)) == _COLUMNS.count(",") + 1


class SQLiteTable(Table):
    """One lock of the file, within one transaction."""

    def __init__(self, db: sqlite3.Connection, leases: Leases, now: int, name: str) -> None:
        self.name = name
        self.now = now
        self._db = db
        self._leases = leases

    def after(self, seconds: float) -> float:
        return self.now + microseconds(seconds)

    def used(self) -> int:
        return self._leases.used(self.name)

    def deadline(self, token: str) -> float | None:
        query = "SELECT deadline FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?"
        return cast("float | None", self._one(query, token))

    def first_deadline(self) -> float | None:
        query = "SELECT min(deadline) FROM celery_locks_holder WHERE name = ? AND deadline > ?"
        return cast("float | None", self._one(query))

    def grant(self, claim: Claim) -> Granted:
        held = self._leases.held_already(claim)
        return self._leases.grant(claim) if held is None else Granted(held)

    def drop(self, token: str) -> None:
        self._db.execute("DELETE FROM celery_locks_holder WHERE name = ? AND token = ?", (self.name, token))

    def head(self) -> tuple[str, int, float] | None:
        query = (
            "SELECT token, id, deadline FROM celery_locks_waiter WHERE name = ? AND deadline > ? ORDER BY id LIMIT 1"
        )
        head: tuple[str, int, float] | None = self._db.execute(query, (self.name, self.now)).fetchone()
        return head

    def stand(self, record: Record) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO celery_locks_waiter (id, name, token, permits, most, deadline) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (record.number, self.name, TICKET + record.id, record.permits, record.limit, self.after(RETENTION)),
        )

    def leave(self, token: str) -> None:
        self._leases.leave(self.name, token)

    def first_ticket(self) -> str | None:
        query = (
            "SELECT token FROM celery_locks_waiter WHERE name = ? AND deadline > ? "
            f"AND substr(token, 1, {len(TICKET)}) = '{TICKET}' ORDER BY id LIMIT 1"
        )
        token = self._one(query)
        return None if token is None else str(token).removeprefix(TICKET)

    def next_number(self) -> int:
        return self._leases.next_number()

    def waiters(self) -> int:
        return int(self._one("SELECT count(*) FROM celery_locks_waiter WHERE name = ? AND deadline > ?"))

    def refused(self, token: str) -> Refused:
        return self._leases.refused(self.name, token, 1.0)

    def get(self, id: str) -> Record | None:
        query = f"SELECT {_COLUMNS} FROM celery_locks_ticket WHERE name = ? AND id = ? AND deadline > ?"
        return _record(self._db.execute(query, (self.name, id, self.now)).fetchone())

    def put(self, record: Record) -> None:
        values = (self.name, *astuple(record))
        marks = ", ".join("?" * len(values))
        self._db.execute(f"INSERT OR REPLACE INTO celery_locks_ticket (name, {_COLUMNS}) VALUES ({marks})", values)

    def running(self, token: str) -> Record | None:
        query = f"SELECT {_COLUMNS} FROM celery_locks_ticket WHERE token = ? AND state = 'running' AND name = ?"
        return _record(self._db.execute(query, (token, self.name)).fetchone())

    def due(self, most: int) -> list[Record]:
        query = f"SELECT {_COLUMNS} FROM celery_locks_ticket WHERE name = ? AND due <= ? ORDER BY due LIMIT ?"
        return [Record(*row) for row in self._db.execute(query, (self.name, self.now, most))]

    def _one(self, query: str, *more: Any) -> Any:
        """The one value of a query for this lock, what has ended left out."""
        row = self._db.execute(query, (self.name, *more, self.now)).fetchone()
        return None if row is None else row[0]


class SQLiteParking(Parking):
    """The part of `SQLiteStore` that parks tasks."""

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        return self._tickets(claim.name, lambda tickets, _: tickets.enter(claim, ticket))

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        return self._tickets(claim.name, lambda tickets, _: tickets.park(claim, ticket))

    def hand_on(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        def work(tickets: Tickets, leases: Leases) -> tuple[bool, tuple[Call, ...]]:
            tickets.released(token)
            return leases.release(name, token), tickets.hand_on()

        return self._tickets(name, work)

    def died(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        def work(tickets: Tickets, leases: Leases) -> tuple[bool, tuple[Call, ...]]:
            tickets.died(token)
            return leases.release(name, token), tickets.hand_on()

        return self._tickets(name, work)

    def sent(self, call: Call, within: float) -> None:
        self._tickets(call.name, lambda tickets, _: tickets.sent(call.id, within))

    def settle(self, name: str, ticket_id: str) -> None:
        self._tickets(name, lambda tickets, _: tickets.settle(ticket_id))

    def sweep(self, prefix: str, most: int = 100) -> tuple[Call, ...]:
        names = self._look(prefix, most)
        return tuple(call for name in names for call in self._tickets(name, lambda tickets, _: tickets.sweep()))

    def await_due(self, prefix: str, timeout: float) -> None:
        give_up, pause = monotonic() + timeout, FIRST_LOOK
        while not self._look(prefix, 1):
            left = give_up - monotonic()
            if left <= 0:
                return
            sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_LOOK)

    def withdraw(self, prefix: str, task_id: str) -> tuple[Call, ...]:
        kind, name, what = self._find_task(prefix, task_id)
        if kind == "ticket":
            return self._tickets(name, lambda tickets, _: tickets.withdraw(what))
        return self.hand_on(name, what)[1] if kind == "lease" else ()

    def waiting(self, name: str) -> int:
        return self._read_at(lambda db, leases, now: SQLiteTable(db, leases, now, name).waiters())

    def _look(self, prefix: str, most: int) -> list[str]:
        """The names of locks in which something is due."""
        query = "SELECT DISTINCT name FROM celery_locks_ticket WHERE due <= ? AND substr(name, 1, ?) = ? LIMIT ?"
        values = (len(prefix) + 1, f"{prefix}:", most)
        return self._read_at(lambda db, _, now: [row[0] for row in db.execute(query, (now, *values))])

    def _find_task(self, prefix: str, task_id: str) -> tuple[str, str, str]:
        """Whether a task has a parked ticket or a lease, in which lock, and the ticket's id or the lease's token."""
        query = (
            "SELECT 'ticket', name, id FROM celery_locks_ticket "
            "WHERE task = ? AND state = 'parked' AND substr(name, 1, ?) = ? "
            "UNION ALL SELECT 'lease', name, token FROM celery_locks_task WHERE task = ? AND substr(name, 1, ?) = ?"
        )
        values = (task_id, len(prefix) + 1, f"{prefix}:") * 2
        row = self._read_at(lambda db, _, now: db.execute(query, values).fetchone())
        return row or ("", "", "")

    def _tickets(self, name: str, work: Callable[[Tickets, Leases], T]) -> T:
        return self._write_at(lambda db, leases, now: work(Tickets(SQLiteTable(db, leases, now, name)), leases))

    @abstractmethod
    def _read_at(self, work: Callable[[sqlite3.Connection, Leases, int], T]) -> T: ...

    @abstractmethod
    def _write_at(self, work: Callable[[sqlite3.Connection, Leases, int], T]) -> T: ...


def tidy_up(db: sqlite3.Connection, leases: Leases, now: int, name: str, token: str) -> None:
    """What a release means to tickets, when it is made by somebody who can't send."""
    tickets = Tickets(SQLiteTable(db, leases, now, name))
    tickets.released(token)
    tickets.look_at_first()


def _record(row: tuple[Any, ...] | None) -> Record | None:
    return None if row is None else Record(*row)
