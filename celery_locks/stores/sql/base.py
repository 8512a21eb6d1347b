"""What the stores with tables have in common: each call is a transaction of `Leases` and `Tickets`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from celery_locks.stores.base import Claim, Granted, Holder, Refused, Store
from celery_locks.stores.listing import Figures, Names, State
from celery_locks.stores.parking import Call, Dropped, Full, Out, Parked, Parking, Ticket
from celery_locks.stores.sql import listing, values
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.session import Session
from celery_locks.stores.sql.tickets import SQLTable
from celery_locks.stores.tickets import Tickets

T = TypeVar("T")


class TableStore(Parking, Store):
    """A store in tables. What is special to a database: how a transaction is made, and how somebody waits."""

    waits_for = 100

    @abstractmethod
    def _read(self, name: str, work: Callable[[Session], T]) -> T:
        """Runs queries that all see one state of the tables.

        Args:
            name: The lock that they are about; empty where they are about all.
            work: What is run, perhaps several times.
        """

    @abstractmethod
    def _write(self, name: str, work: Callable[[Session], T], ttl: float | None = None) -> T:
        """Runs a transaction that has a lock to itself. The work may run several times; its last run counts.

        Args:
            name: The lock; empty where the transaction is about none or several.
            work: What is run.
            ttl: Of the lease that it is about, in seconds: it must fail well before that.
        """

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        return self._write(claim.name, lambda session: Leases(session).acquire(claim, line_up), claim.ttl)

    def leave(self, name: str, token: str) -> None:
        def work(session: Session) -> None:
            Leases(session).leave(name, token)
            tidy_up(session, name, "")  # a run that was granted meanwhile goes on

        self._write(name, work)

    def release(self, name: str, token: str) -> bool:
        return self._write(name, lambda session: give_back(session, name, token))

    def force_release(self, name: str) -> tuple[Holder, ...]:
        def work(session: Session) -> tuple[Holder, ...]:
            holders = Leases(session).force_release(name)
            tidy_up(session, name, "")
            return holders

        return self._write(name, work)

    def holders(self, name: str) -> tuple[Holder, ...]:
        return self._read(name, lambda session: Leases(session).holders(name))

    def held(self, name: str) -> int:
        return self._read(name, lambda session: Leases(session).used(name))

    # --- What is held ---

    lists = True

    def info(self, name: str) -> State:
        def look(session: Session) -> State:
            return replace(listing.state(session, name), line=listing.line(session, name))

        return self._read(name, look)

    def page(self, names: Names) -> tuple[tuple[State, ...], str | None]:
        return self._read("", lambda session: listing.page(session, names))

    def stats(self, prefix: str, near: float) -> Figures:
        return self._read("", lambda session: listing.figures(session, f"{prefix}:{{", near))

    # --- Values ---

    values = True

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        return self._write(name, lambda session: values.write(session, name, token, text, keep))

    def value(self, name: str) -> str | None:
        return self._read(name, lambda session: values.read(session, name))

    def delete(self, name: str) -> bool:
        return self._write(name, lambda session: values.delete(session, name))

    def _forget_trial(self, name: str, ticket_id: str) -> None:
        def work(session: Session) -> None:
            for table in ("value", "ticket"):
                session.execute(f"DELETE FROM celery_locks_{table} WHERE name = ?", (name,))

        self._write(name, work)

    # --- Parking ---

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        return self._tickets(claim.name, lambda tickets: tickets.enter(claim, ticket), claim.ttl)

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        return self._tickets(claim.name, lambda tickets: tickets.park(claim, ticket), claim.ttl)

    def hand_on(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        return self._write(name, lambda session: give_back_and_call(session, name, token))

    def died(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        return self._write(name, lambda session: take_back_and_call(session, name, token))

    def sent(self, call: Call, within: float) -> None:
        self._tickets(call.name, lambda tickets: tickets.sent(call.id, within))

    def settle(self, name: str, ticket_id: str) -> None:
        self._tickets(name, lambda tickets: tickets.settle(ticket_id))

    def sweep(self, prefix: str, most: int = 100) -> tuple[Call, ...]:
        names = self._look(prefix, most)
        return tuple(call for name in names for call in self._tickets(name, lambda tickets: tickets.sweep()))

    def withdraw(self, prefix: str, task_id: str) -> tuple[Call, ...]:
        kind, name, what = self._find_task(prefix, task_id)
        if kind == "ticket":
            return self._tickets(name, lambda tickets: tickets.withdraw(what))
        return self.hand_on(name, what)[1] if kind == "lease" else ()

    def waiting(self, name: str) -> int:
        return self._read(name, lambda session: SQLTable(session, name).waiters())

    def _turns_of(self, places: Sequence[tuple[str, str]]) -> list[str]:
        """The tokens whose turn it may be. However many wait for a lock, only the first in line may go."""

        def look(session: Session) -> list[str]:
            leases = Leases(session)
            heads = {name: leases.head(name) for name in dict(places)}
            first = ((name, token) for name, token in places if (head := heads[name]) is None or head[0] == token)
            return [token for name, token in first if leases.may_go(name, token)]

        return self._read("", look)

    def _look(self, prefix: str, most: int) -> list[str]:
        """The names of locks in which something is due."""
        query = "SELECT DISTINCT name FROM celery_locks_ticket WHERE due <= ? AND substr(name, 1, ?) = ? LIMIT ?"

        def work(session: Session) -> list[str]:
            values = (session.now, len(prefix) + 1, f"{prefix}:", most)
            return [name for (name,) in session.execute(query, values)]

        return self._read("", work)

    def _find_task(self, prefix: str, task_id: str) -> tuple[str, str, str]:
        """Whether a task has a parked ticket or a lease, in which lock, and the ticket's id or the lease's token."""
        query = (
            "SELECT 'ticket', name, id FROM celery_locks_ticket "
            "WHERE task = ? AND state = 'parked' AND substr(name, 1, ?) = ? "
            "UNION ALL SELECT 'lease', name, token FROM celery_locks_task WHERE task = ? AND substr(name, 1, ?) = ?"
        )
        values = (task_id, len(prefix) + 1, f"{prefix}:") * 2
        row = self._read("", lambda session: session.execute(query, values).fetchone())
        return row or ("", "", "")

    def _tickets(self, name: str, work: Callable[[Tickets], T], ttl: float | None = None) -> T:
        return self._write(name, lambda session: work(Tickets(SQLTable(session, name))), ttl)


def give_back(session: Session, name: str, token: str) -> bool:
    """`Store.release` within a transaction."""
    released = Leases(session).release(name, token)
    tidy_up(session, name, token)
    return released


def give_back_and_call(session: Session, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
    """`Parking.hand_on` within a transaction."""
    tickets = Tickets(SQLTable(session, name))
    tickets.released(token)
    return Leases(session).release(name, token), tickets.hand_on()


def take_back_and_call(session: Session, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
    """`Parking.died` within a transaction."""
    tickets = Tickets(SQLTable(session, name))
    tickets.died(token)
    return Leases(session).release(name, token), tickets.hand_on()


def tidy_up(session: Session, name: str, token: str) -> None:
    """What a release means to tickets, when it is made by somebody who can't send."""
    tickets = Tickets(SQLTable(session, name))
    if token:  # a ticket whose run has died has none
        tickets.released(token)
    tickets.look_at_first()
