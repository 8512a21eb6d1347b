"""The leases of a SQLite file: who holds what, who stands in line, by which rules."""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from celery_locks.errors import LossReason
from celery_locks.stores import sqlite_clock
from celery_locks.stores.base import MOST_HOLDERS, Claim, Granted, Holder, Refused, Renewal
from celery_locks.stores.sqlite_clock import FileClock, microseconds

#: How many expired rows of each table a write takes away.
SWEEP = 20
#: Microseconds that it is known, beyond its deadline, that a lease was replaced.
REPLACED_KNOWN = 3_900_000_000
#: Microseconds that an expired holder's row is kept, so that a late renewal hears why it failed.
REMEMBERED = 60_000_000

# Times are integer microseconds of the file's clock. A waiter's id is its place in line.
SCHEMA = (
    sqlite_clock.SCHEMA
    + """
CREATE TABLE IF NOT EXISTS celery_locks_holder (
    name TEXT NOT NULL,
    token TEXT NOT NULL,
    owner TEXT NOT NULL,
    permits INTEGER NOT NULL,
    most INTEGER NOT NULL,
    fencing_token INTEGER NOT NULL,
    since INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    PRIMARY KEY (name, token)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS celery_locks_holder_deadline ON celery_locks_holder (deadline);
CREATE TABLE IF NOT EXISTS celery_locks_waiter (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    token TEXT NOT NULL,
    permits INTEGER NOT NULL,
    most INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    UNIQUE (name, token)
);
CREATE INDEX IF NOT EXISTS celery_locks_waiter_line ON celery_locks_waiter (name, id);
CREATE INDEX IF NOT EXISTS celery_locks_waiter_deadline ON celery_locks_waiter (deadline);
CREATE TABLE IF NOT EXISTS celery_locks_replaced (
    name TEXT NOT NULL,
    token TEXT NOT NULL,
    deadline INTEGER NOT NULL,
    PRIMARY KEY (name, token)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS celery_locks_replaced_deadline ON celery_locks_replaced (deadline);
CREATE TABLE IF NOT EXISTS celery_locks_task (
    task TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    token TEXT NOT NULL,
    deadline INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS celery_locks_task_deadline ON celery_locks_task (deadline);
"""
)


class Leases:
    """All leases at one moment, within one transaction."""

    def __init__(self, db: sqlite3.Connection, now: int, last_fencing_token: int) -> None:
        self._db = db
        self._now = now
        self._last_fencing_token = last_fencing_token

    def acquire(self, claim: Claim, line_up: float | None) -> Granted | Refused:
        if (fencing_token := self.held_already(claim)) is not None:
            return Granted(fencing_token)
        if claim.adopts or claim.replaces or claim.task_id:
            return self._take(claim, line_up)
        return self._acquire(claim, line_up)

    def _acquire(self, claim: Claim, line_up: float | None) -> Granted | Refused:
        head = self.head(claim.name)
        if self.used(claim.name) + claim.permits <= claim.limit and (head is None or head[0] == claim.token):
            if head is not None:
                self.leave(claim.name, claim.token)
            return self.grant(claim)
        if line_up is not None:
            self._line_up(claim, line_up)
        return self.refused(claim.name, claim.token, claim.ttl)

    def _take(self, claim: Claim, line_up: float | None) -> Granted | Refused:
        """For a claim that adopts a lease, replaces the holders, or can be withdrawn by its task."""
        name = claim.name
        if claim.adopts and self._was_replaced(name, claim.adopts):
            return replace(self.refused(name, claim.token, claim.ttl), replaced=True)
        query = "DELETE FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?"
        if claim.adopts and self._db.execute(query, (name, claim.adopts, self._now)).rowcount:
            answer: Granted | Refused = self.grant(claim)
        elif claim.replaces and claim.permits <= claim.limit:
            self._replace(claim)
            answer = self.grant(claim)
        else:
            answer = self._acquire(claim, line_up)
        if claim.task_id and isinstance(answer, Granted):
            self._db.execute(
                "INSERT OR REPLACE INTO celery_locks_task VALUES (?, ?, ?, ?)",
                (claim.task_id, name, claim.token, self._now + microseconds(claim.ttl)),
            )
        return answer

    def _replace(self, claim: Claim) -> None:
        """Takes permits from the earliest holders, until there are enough."""
        query = (
            "SELECT token, permits, deadline FROM celery_locks_holder "
            "WHERE name = ? AND deadline > ? ORDER BY fencing_token LIMIT 1000"
        )
        for token, _, deadline in self._db.execute(query, (claim.name, self._now)).fetchall():
            if self.used(claim.name) + claim.permits <= claim.limit:
                return
            self._db.execute("DELETE FROM celery_locks_holder WHERE name = ? AND token = ?", (claim.name, token))
            self._db.execute(
                "INSERT OR REPLACE INTO celery_locks_replaced VALUES (?, ?, ?)",
                (claim.name, token, deadline + REPLACED_KNOWN),
            )

    def _was_replaced(self, name: str, token: str) -> bool:
        query = "SELECT 1 FROM celery_locks_replaced WHERE name = ? AND token = ? AND deadline > ?"
        return self._db.execute(query, (name, token, self._now)).fetchone() is not None

    def leave(self, name: str, token: str) -> None:
        self._db.execute("DELETE FROM celery_locks_waiter WHERE name = ? AND token = ?", (name, token))

    def may_go(self, name: str, token: str) -> bool:
        """Whether this token heads the line and finds room; without a line, whether nobody holds the lock."""
        head, used = self.head(name), self.used(name)
        if head is None:
            return used == 0
        first, permits, limit = head
        return first == token and used + permits <= limit

    def renew(self, renewal: Renewal) -> LossReason | None:
        name, token = renewal.name, renewal.token
        deadline = self._now + microseconds(renewal.ttl)
        query = (
            "UPDATE celery_locks_holder SET deadline = max(deadline, ?) WHERE name = ? AND token = ? AND deadline > ?"
        )
        if self._db.execute(query, (deadline, name, token, self._now)).rowcount:
            return None
        query = "SELECT 1 FROM celery_locks_holder WHERE name = ? AND token = ?"
        if self._db.execute(query, (name, token)).fetchone():
            return "expired"
        if self._was_replaced(name, token):
            return "replaced"
        return "stolen" if self.used(name) else "deleted"

    def release(self, name: str, token: str) -> bool:
        query = "DELETE FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?"
        return self._db.execute(query, (name, token, self._now)).rowcount > 0

    def force_release(self, name: str) -> tuple[Holder, ...]:
        holders = self.holders(name)
        self._db.execute("DELETE FROM celery_locks_holder WHERE name = ?", (name,))
        return holders

    def holders(self, name: str) -> tuple[Holder, ...]:
        query = (
            "SELECT owner, fencing_token, permits, (? - since) / 1e6, (deadline - ?) / 1e6, token, most "
            "FROM celery_locks_holder WHERE name = ? AND deadline > ? ORDER BY fencing_token LIMIT ?"
        )
        values = (self._now, self._now, name, self._now, MOST_HOLDERS)
        return tuple(Holder(*row) for row in self._db.execute(query, values))

    def sweep(self) -> None:
        """Takes away a few rows whose time is over."""
        self._sweep("holder", "name, token", self._now - REMEMBERED)
        self._sweep("waiter", "id", self._now)
        self._sweep("replaced", "name, token", self._now)
        self._sweep("task", "task", self._now)
        self._sweep("ticket", "name, id", self._now)

    def _sweep(self, table: str, key: str, before: int) -> None:
        self._db.execute(
            f"DELETE FROM celery_locks_{table} WHERE ({key}) IN "
            f"(SELECT {key} FROM celery_locks_{table} WHERE deadline <= ? ORDER BY deadline LIMIT ?)",
            (before, SWEEP),
        )

    def held_already(self, claim: Claim) -> int | None:
        query = "SELECT fencing_token, deadline FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?"
        row = self._db.execute(query, (claim.name, claim.token, self._now)).fetchone()
        if row is None:
            return None
        self.renew(Renewal(claim.name, claim.token, claim.ttl))
        return int(row[0])

    def used(self, name: str) -> int:
        query = "SELECT coalesce(sum(permits), 0) FROM celery_locks_holder WHERE name = ? AND deadline > ?"
        return int(self._db.execute(query, (name, self._now)).fetchone()[0])

    def head(self, name: str) -> tuple[str, int, int] | None:
        """Who stands first in line: token, permits, limit."""
        query = (
            "SELECT token, permits, most FROM celery_locks_waiter WHERE name = ? AND deadline > ? ORDER BY id LIMIT 1"
        )
        head: tuple[str, int, int] | None = self._db.execute(query, (name, self._now)).fetchone()
        return head

    def grant(self, claim: Claim) -> Granted:
        fencing_token = FileClock.next_fencing_token(self._db, self._now, self._last_fencing_token)
        self._last_fencing_token = fencing_token  # one transaction may grant more than once
        deadline = self._now + microseconds(claim.ttl)
        self._db.execute(  # an expired row of the same token may still be there
            "INSERT OR REPLACE INTO celery_locks_holder VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (claim.name, claim.token, claim.owner, claim.permits, claim.limit, fencing_token, self._now, deadline),
        )
        return Granted(fencing_token)

    def _line_up(self, claim: Claim, seconds: float) -> None:
        deadline = self._now + microseconds(seconds)
        self._db.execute(  # a place that has ended is lost: the token comes in anew, at the end
            "DELETE FROM celery_locks_waiter WHERE name = ? AND token = ? AND deadline <= ?",
            (claim.name, claim.token, self._now),
        )
        self._db.execute(
            "INSERT INTO celery_locks_waiter (id, name, token, permits, most, deadline) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (name, token) DO UPDATE "
            "SET permits = excluded.permits, most = excluded.most, deadline = max(deadline, excluded.deadline)",
            (self.next_number(), claim.name, claim.token, claim.permits, claim.limit, deadline),
        )

    def next_number(self) -> int:
        """A place in line behind all before it, also behind those of tickets that are not in line now."""
        query = "SELECT max(id) FROM celery_locks_waiter UNION ALL SELECT max(number) FROM celery_locks_ticket"
        last = max(row[0] or 0 for row in self._db.execute(query))
        return max(last + 1, self._now)

    def refused(self, name: str, token: str, otherwise: float) -> Refused:
        """The refusal of a token; ``otherwise`` is when to try again where no moment is better than another."""
        position, before = self._place(name, token)
        deadline = before or self._next_deadline(name) or self._now + microseconds(otherwise)
        return Refused(self.holders(name), (deadline - self._now) / 1e6, position)

    def _place(self, name: str, token: str) -> tuple[int | None, int | None]:
        """How many stand before this token in line, and when the place right before it ends."""
        line = "FROM celery_locks_waiter WHERE name = ? AND deadline > ?"
        mine = self._db.execute(f"SELECT id {line} AND token = ?", (name, self._now, token)).fetchone()
        if mine is None:
            return None, None
        before = (name, self._now, mine[0])
        position = self._db.execute(f"SELECT count(*) {line} AND id < ?", before).fetchone()[0]
        last = self._db.execute(f"SELECT deadline {line} AND id < ? ORDER BY id DESC LIMIT 1", before).fetchone()
        return position, last and last[0]

    def _next_deadline(self, name: str) -> int | None:
        """When the first holder ends; without holders, when the first place in line does."""
        for table in ("holder", "waiter"):
            query = f"SELECT min(deadline) FROM celery_locks_{table} WHERE name = ? AND deadline > ?"
            deadline: int | None = self._db.execute(query, (name, self._now)).fetchone()[0]
            if deadline is not None:
                return deadline
        return None
