"""Tickets of parked tasks in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields, replace
from typing import Any, TypeVar, cast

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


class SQLTable(Table):
    """The tickets of one lock within one transaction."""

    def __init__(self, session: Session, name: str) -> None:
        self.name = name
        self.now = session.now
        self._db = session
        self._leases = Leases(session)

    def after(self, seconds: float) -> float:
        return self._db.after(seconds)

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
        claim = Claim(self.name, TICKET + record.id, record.owner, 0.0, record.limit, record.permits)
        self._leases.stand(record.number, claim, self._db.after(retention(self.name)))

    def leave(self, token: str) -> None:
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
        query = f"SELECT {_COLUMNS} FROM celery_locks_ticket WHERE name = ? AND id = ? AND deadline > ?"
        return self._first(query, (self.name, id, self.now))

    def put(self, record: Record) -> None:
        if record.due is not None:
            self._db.note_due(record.broker, int(record.due))
        self._db.put("ticket", ("name", "id"), dict(zip(_ROW, (self.name, *astuple(record)), strict=True)))

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
