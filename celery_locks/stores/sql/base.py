"""The base of all stores with tables. Each call is one transaction that applies `Leases` and `Tickets`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import TypeVar

from celery_locks.errors import LockConfigError
from celery_locks.stores.base import Store
from celery_locks.stores.listing import LockInfo, NameRange, Page, Stats
from celery_locks.stores.parking import Dispatch, Dropped, Full, Out, Parked, Parking, RunEndName, Ticket
from celery_locks.stores.sql import listing, values
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.session import Session
from celery_locks.stores.sql.tickets import SQLTable
from celery_locks.stores.tickets import Tickets
from celery_locks.stores.types import Claim, Granted, Holder, Refused, Value

T = TypeVar("T")

#: The greatest limit and number of permits: stores that count in floats are exact up to here.
MOST_PERMITS = 2**53


class TableStore(Parking, Store):
    """A store in tables. Each database adds its way to run a transaction and to wait."""

    waits_for = 100
    #: How long `stats` counts, in seconds.
    _figures_seconds = inf

    @abstractmethod
    def _read(self, name: str, work: Callable[[Session], T]) -> T:
        """Run queries that all see one state of the tables.

        Args:
            name: The lock that the queries are about; empty if they are about several.
            work: Runs the queries. It may be called several times.
        """

    @abstractmethod
    def _write(self, name: str, work: Callable[[Session], T], ttl: float | None = None) -> T:
        """Run a transaction with exclusive access to a lock.

        Args:
            name: The lock; empty if the transaction is about none or several.
            work: Runs the statements. It may be called several times; its last call counts.
            ttl: The ttl of the lease, in seconds. The transaction must fail well before it ends.
        """

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        check_numbers(claim)
        return self._acquire_in_transaction(claim, line_up)

    def _acquire_in_transaction(self, claim: Claim, line_up: float | None, repeated: bool = False) -> Granted | Refused:
        """Acquire by the rules of `Leases`. ``repeated``: whether an earlier try may have been carried out."""

        def work(session: Session) -> Granted | Refused:
            session.repeated |= repeated
            return Leases(session).acquire(claim, line_up)

        return self._write(claim.name, work, claim.ttl)

    def leave(self, name: str, token: str) -> None:
        def work(session: Session) -> None:
            Leases(session).leave(name, token)
            look_at_first(session, name)

        self._write(name, work)

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        return self._write(name, lambda session: release(session, name, token, value))

    def shrink(self, name: str, token: str, permits: int) -> bool:
        def work(session: Session) -> bool:
            held = Leases(session).shrink(name, token, permits)
            look_at_first(session, name)
            return held

        return self._write(name, work)

    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        seen: list[tuple[int, tuple[Holder, ...]]] = []

        def work(session: Session) -> tuple[Holder, ...]:
            leases = Leases(session)
            last, before = seen[0] if seen else (leases.last_fencing_token(name), ())
            holders = leases.force_release(name, token, last)  # a repeat spares holders that came after the first try
            if not seen:
                seen.append((last, holders))
            look_at_first(session, name)
            return holders or before

        return self._write(name, work)

    def holders(self, name: str) -> tuple[Holder, ...]:
        return self._read(name, lambda session: Leases(session).holders(name))

    def held(self, name: str) -> int:
        return self._read(name, lambda session: Leases(session).used(name))

    # --- Listing ---

    lists = True

    def info(self, name: str) -> LockInfo:
        def look(session: Session) -> LockInfo:
            return replace(listing.state(session, name), line=listing.line(session, name))

        return self._read(name, look)

    def page(self, names: NameRange) -> Page:
        return self._read("", lambda session: listing.page(session, names))

    def stats(self, prefix: str, near: float) -> Stats:
        return self._read("", lambda session: listing.figures(session, f"{prefix}:{{", near, self._figures_seconds))

    # --- Values ---

    values = True

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        return self._write(name, lambda session: values.write(session, name, token, text, keep))

    def value(self, name: str) -> str | None:
        return self._read(name, lambda session: values.read(session, name))

    def delete(self, name: str) -> bool:
        seen: list[int] = []

        def work(session: Session) -> bool:
            if not seen and (deadline := values.written(session, name)) is not None:
                seen.append(deadline)
            if seen:  # a repeat spares a later value
                values.delete(session, name, seen[0])
            return bool(seen)

        return self._write(name, work)

    def _forget_trial(self, name: str, ticket_id: str) -> None:
        def work(session: Session) -> None:
            for table in ("value", "ticket"):
                session.execute(f"DELETE FROM celery_locks_{table} WHERE name = ?", (name,))

        self._write(name, work)

    # --- Parking ---

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        check_numbers(claim)
        return self._tickets(claim.name, lambda tickets: tickets.enter(claim, ticket), claim.ttl)

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        check_numbers(claim)
        if not ticket.message:  # it only asks, and writes nothing: the lock's row need not be locked
            return self._read(claim.name, lambda session: Tickets(SQLTable(session, claim.name)).park(claim, ticket))
        return self._tickets(claim.name, lambda tickets: tickets.park(claim, ticket), claim.ttl)

    def end_run(
        self, name: str, token: str, end: RunEndName, *, broker: str, value: Value | None = None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        return self._write(name, lambda session: end_run(session, name, token, end, broker, value))

    def published(self, dispatch: Dispatch, within: float) -> None:
        self._tickets(dispatch.name, lambda tickets: tickets.published(dispatch.id, within))

    def finish(self, name: str, ticket_id: str, token: str = "", *, running: bool = True) -> None:
        self._tickets(name, lambda tickets: tickets.finish(ticket_id, token, running))

    def sweep(self, prefix: str, broker: str, most: int = 100) -> tuple[Dispatch, ...]:
        names = self._names_with_due_tickets(prefix, broker, most)
        swept = (self._tickets(name, lambda tickets: tickets.sweep(broker)) for name in names)
        return tuple(dispatch for dispatches in swept for dispatch in dispatches)

    def withdraw(self, prefix: str, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        kind, name, what = self._find_task(prefix, broker, task_id)
        if kind == "ticket":
            return self._tickets(name, lambda tickets: tickets.withdraw(what, broker))
        return self.end_run(name, what, "again", broker=broker)[1] if kind == "lease" else ()

    def waiting(self, name: str) -> int:
        return self._read(name, lambda session: SQLTable(session, name).waiters())

    def _turns_of(self, places: Sequence[tuple[str, str]]) -> list[str]:
        """Return the tokens whose turn it may be: of each lock, at most the first waiter in line."""

        def look(session: Session) -> list[str]:
            leases = Leases(session)
            heads = {name: leases.head(name) for name in dict(places)}
            first = ((name, token) for name, token in places if (head := heads[name]) is None or head[0] == token)
            return [token for name, token in first if leases.may_go(name, token)]

        return self._read("", look)

    def _names_with_due_tickets(self, prefix: str, broker: str, most: int) -> list[str]:
        """Return the names of locks in which something is due for a broker."""
        query = (
            "SELECT DISTINCT name FROM celery_locks_ticket "
            "WHERE broker IN (?, '') AND due <= ? AND name >= ? AND name < ? LIMIT ?"
        )

        def work(session: Session) -> list[str]:
            values = (broker, session.now, *names_of(prefix), most)
            return [name for (name,) in session.execute(query, values)]

        return self._read("", work)

    def _due_in(self, prefix: str, broker: str) -> float:
        """Return the seconds until something is due for a broker: 0 if it is now, infinity if nothing will be."""
        query = (
            "SELECT due FROM celery_locks_ticket WHERE broker = ? AND due IS NOT NULL AND name >= ? AND name < ? "
            "ORDER BY due LIMIT 1"
        )

        def work(session: Session) -> float:
            rows = [session.execute(query, (each, *names_of(prefix))).fetchone() for each in {broker, ""}]
            return max(0.0, min([(row[0] - session.now) / 1e6 for row in rows if row], default=inf))

        return self._read("", work)

    def _find_task(self, prefix: str, broker: str, task_id: str) -> tuple[str, str, str]:
        """Find the parked ticket or the lease of a task.

        Returns:
            ``"ticket"`` or ``"lease"``, the lock, the ticket's id or lease's token. Empty texts if there is none.
        """
        query = (
            "SELECT 'ticket', name, id FROM celery_locks_ticket "
            "WHERE task = ? AND state = 'parked' AND broker IN (?, '') AND name >= ? AND name < ? "
            "UNION ALL SELECT 'lease', name, token FROM celery_locks_task WHERE task = ? AND name >= ? AND name < ?"
        )
        names = names_of(prefix)
        values = (task_id, broker, *names, task_id, *names)
        row = self._read("", lambda session: session.execute(query, values).fetchone())
        return row or ("", "", "")

    def _tickets(self, name: str, work: Callable[[Tickets], T], ttl: float | None = None) -> T:
        return self._write(name, lambda session: work(Tickets(SQLTable(session, name))), ttl)


def check_numbers(claim: Claim) -> None:
    """Check that every store can count the limit and the permits of a claim exactly.

    Raises:
        LockConfigError: One of them is too large.
    """
    if max(claim.limit, claim.permits) > MOST_PERMITS:
        raise LockConfigError(
            f"limit={claim.limit} with permits={claim.permits} is too many: give at most {MOST_PERMITS} (2^53)"
        )


def names_of(prefix: str) -> tuple[str, str]:
    """Return the first name with a prefix, and the first text that sorts after all of them."""
    return f"{prefix}:", f"{prefix};"  # the next character


def release(session: Session, name: str, token: str, value: Value | None) -> bool:
    """Release a lease within a transaction, as `Store.release` does."""
    Tickets(SQLTable(session, name)).end_run(token, "again")
    released = _release(session, name, token, value)
    look_at_first(session, name)
    return released


def end_run(
    session: Session, name: str, token: str, end: RunEndName, broker: str, value: Value | None
) -> tuple[bool, tuple[Dispatch, ...]]:
    """End a run within a transaction, as `Parking.end_run` does."""
    table = SQLTable(session, name)
    tickets = Tickets(table)
    tickets.end_run(token, end)
    released = _release(session, name, token, value)
    table.forget_leases()
    return released, tickets.dispatch(broker)


def _release(session: Session, name: str, token: str, value: Value | None) -> bool:
    if value is not None:
        values.write(session, name, token, value.text, value.keep)
    leases = Leases(session)
    # A repeat that finds no lease can't know whether the first request released it, unless a reason is on record.
    return leases.release(name, token) or (session.repeated and leases.why_lost(name, token) in ("stolen", "deleted"))


def look_at_first(session: Session, name: str) -> None:
    """Make the first ticket in line due in time for the sweeper, after a change that dispatches no ticket."""
    Tickets(SQLTable(session, name)).look_at_first()
