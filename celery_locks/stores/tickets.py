"""The life of tickets, for stores whose steps are made in Python; the Redis scripts do the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, cast

from celery_locks.stores.parking import (
    FIRST_DISPATCH,
    STORE_GRACE,
    TOMBSTONE,
    Dispatch,
    Dropped,
    Full,
    Out,
    OutReason,
    Parked,
    RunEndName,
    Ticket,
    is_trial,
    may_dispatch,
    retention,
)
from celery_locks.stores.types import TICKET, Claim, Granted, Refused

State = Literal["parked", "dispatched", "running", "ended", "out", "done"]

#: How many tickets one step dispatches or looks at, at most.
MOST = 100


@dataclass
class Record:
    """A ticket as it is kept. Moments are those of the store's clock.

    Attributes:
        until: When it has waited for as long as it may.
        count: How often it was dispatched.
        token: Of the run.
        why: It is out.
        due: When to look at it again; ``None`` for a running or ended one that is not owed, and for done ones.
        deadline: When it may be forgotten.
        broker: The one that its message belongs to; empty for tickets of older versions.
    """

    id: str
    state: State
    number: int
    message: str
    task_id: str
    owner: str
    permits: int
    limit: int
    until: float | None
    count: int = 0
    token: str = ""
    why: str = ""
    due: float | None = None
    deadline: float = 0
    broker: str = ""

    @property
    def is_owed(self) -> bool:
        """Whether its run is owed: it is parked again if that run does not end for good."""
        return self.state in ("running", "ended") and self.due is not None


class Table(ABC):
    """One lock at one moment, within one atomic step of its store."""

    name: str
    now: float

    @abstractmethod
    def after(self, seconds: float) -> float:
        """The moment so many seconds from now."""

    @abstractmethod
    def used(self) -> int:
        """Permits held now."""

    @abstractmethod
    def deadline(self, token: str) -> float | None:
        """When a holder's lease ends; ``None`` when it has."""

    @abstractmethod
    def first_deadline(self) -> float | None:
        """When the first holder's lease ends."""

    @abstractmethod
    def grant(self, claim: Claim) -> Granted:
        """Takes permits, whoever holds them; the same as before for a token that holds already."""

    @abstractmethod
    def drop(self, token: str) -> None:
        """Gives a holder's permits back."""

    @abstractmethod
    def head(self) -> tuple[str, int, float] | None:
        """Who stands first in line: token, number, and until when."""

    @abstractmethod
    def stand(self, record: Record) -> None:
        """Puts a ticket in line, at its number, for as long as `retention` states."""

    @abstractmethod
    def leave(self, token: str) -> None:
        """Takes a token out of line."""

    @abstractmethod
    def first_ticket(self) -> str | None:
        """The id of the first ticket in line."""

    @abstractmethod
    def next_number(self) -> int:
        """A number greater than all before it."""

    @abstractmethod
    def waiters(self) -> int:
        """How many stand in line."""

    def has_room(self, most: int) -> bool:
        """Return whether fewer than this stand in line."""
        return self.waiters() < most

    def has_ended(self, token: str) -> bool:
        """Return whether the lease of a token has ended, as far as that is known: an acquire of it arrives late."""
        return False

    @abstractmethod
    def refused(self, token: str) -> Refused:
        """The refusal of a token."""

    @abstractmethod
    def get(self, id: str) -> Record | None:
        """A ticket."""

    @abstractmethod
    def put(self, record: Record) -> None:
        """Writes a ticket."""

    @abstractmethod
    def running(self, token: str) -> Record | None:
        """The ticket that runs under a token."""

    @abstractmethod
    def due(self, broker: str, most: int) -> list[Record]:
        """Return tickets of a broker, and those without one, that are due: the earliest first."""


class Tickets:
    """What happens to the tickets of one lock."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._trial, self._retention = is_trial(table.name), retention(table.name)

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        table, me = self._table, TICKET + ticket.id
        record = table.get(ticket.id)
        if record is not None and (answer := self._not_needed(claim, record)):
            return answer
        if table.deadline(claim.token) is not None:
            return table.grant(claim)._replace(has_ticket=record is not None)  # the same once more: its reply was lost
        if table.has_ended(claim.token):
            return Parked(table.refused(me))
        table.drop(me)  # what is kept for it, it takes or gives back now
        head = table.head()
        first = head is None or head[0] == me or (record is not None and record.number < head[1])
        if first and table.used() + claim.permits <= claim.limit:
            granted = table.grant(claim)
            if record is not None:
                table.leave(me)
                due = table.after(claim.ttl) if self._will_be_owed(record, ticket) else None
                self._put(replace(record, state="running", token=claim.token, due=due, deadline=self._kept()))
                self._look_at_first()
            return granted._replace(has_ticket=record is not None)
        return self._line_up(claim, ticket, record)

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        table = self._table
        free = table.head() is None and table.used() + claim.permits <= claim.limit
        if free or table.get(ticket.id) is not None:
            return None
        answer = self._line_up(claim, ticket, None)
        return answer if isinstance(answer, Parked) else None

    def dispatch(self, broker: str) -> tuple[Dispatch, ...]:
        """Dispatch the tickets of a broker whose turn it is; see that the next one is looked at in time."""
        dispatches = self._dispatch(broker)
        self._look_at_first()
        return dispatches

    def end_run(self, token: str, end: RunEndName) -> None:
        """Settle the ticket that ran under a token; its lease is released next."""
        table, record = self._table, self._table.running(token)
        if record is None:
            return
        if end == "final":
            self._finish(record)
        elif end == "rejected" or not record.is_owed:
            deadline = table.after(min(TOMBSTONE, self._retention))
            self._put(replace(record, state="ended", due=None, deadline=deadline))
        elif end == "stored":
            self._put(replace(record, state="ended", due=table.after(STORE_GRACE), deadline=self._kept()))
        else:
            self._park(record)

    def look_at_first(self) -> None:
        """See that the first ticket in line is looked at in time, after a change by a process that does not publish."""
        self._look_at_first()

    def published(self, id: str, within: float) -> None:
        table, record = self._table, self._table.get(id)
        if record is None:
            return
        deadline = table.after(within)
        if record.state == "dispatched" and table.deadline(TICKET + id) is not None:
            table.grant(self._own_claim(record, within))
            self._put(replace(record, due=deadline))
        elif record.state == "out":
            self._put(replace(record, due=deadline))

    def finish(self, id: str, token: str, running: bool) -> None:
        record = self._table.get(id)
        if record is None or record.state == "done":
            return
        lives = record.state == "running" and self._table.deadline(record.token) is not None
        if not token and (running or not lives):
            self._table.leave(TICKET + id)
            self._table.drop(TICKET + id)
            self._finish(record)
            self._look_at_first()
        elif token and record.state in ("running", "ended") and record.token == token:
            self._finish(record)

    def withdraw(self, id: str, broker: str) -> tuple[Dispatch, ...]:
        record = self._table.get(id)
        if record is None or record.state != "parked" or not may_dispatch(record.broker, broker):
            return ()
        dispatches = (self._put_out(record, "revoked"), *self._dispatch(broker))
        self._look_at_first()
        return dispatches

    def sweep(self, broker: str) -> tuple[Dispatch, ...]:
        table, dispatches = self._table, []
        for record in table.due(broker, MOST):
            if record.state == "parked" and record.until is not None and record.until <= table.now:
                dispatches.append(self._put_out(record, "timeout"))
            elif record.state in ("parked", "dispatched"):  # kept for longer in line; or its message did not arrive
                table.drop(TICKET + record.id)
                self._park(record)
            elif record.state == "out":
                dispatches.append(self._publish(record))
            elif record.state == "running" and (deadline := table.deadline(record.token)) is not None:
                self._put(replace(record, due=deadline))
            else:  # it is owed, and its lease has expired, or its result was not stored in time
                self._park(record)
        dispatches += self._dispatch(broker)
        self._look_at_first()
        return tuple(dispatches)

    # ------------------------------------------------------------------ steps

    def _put(self, record: Record) -> None:
        """Write a ticket. One of a tried write is never due, so no sweeper dispatches it, even if the trial dies."""
        self._table.put(replace(record, due=None) if self._trial else record)

    def _line_up(self, claim: Claim, ticket: Ticket, record: Record | None) -> Parked | Full:
        table, me = self._table, TICKET + ticket.id
        if record is None:
            if not ticket.message:
                return Parked(table.refused(me))
            if ticket.max_waiters is not None and not table.has_room(ticket.max_waiters):
                return Full(ticket.max_waiters)
            record = self._new(claim, ticket)
        self._park(record)
        dispatches = self._dispatch(ticket.broker)
        self._look_at_first()
        return Parked(table.refused(me), dispatches)

    @staticmethod
    def _will_be_owed(record: Record, ticket: Ticket) -> bool:
        """Return whether the run that a copy of a ticket's message begins is owed from its start."""
        # A copy that came by the last dispatch comes again by the broker, unless it was acknowledged for another one.
        last_dispatch = record.state != "parked" and record.count == ticket.count
        return record.is_owed or (ticket.late and not last_dispatch)

    def _not_needed(self, claim: Claim, record: Record) -> Dropped | Out | None:
        table = self._table
        if record.state == "done":
            return Dropped("done")
        if record.state == "out":
            return Out(cast(OutReason, record.why), table.refused(TICKET + record.id))
        if record.state == "running" and record.token != claim.token:
            deadline = table.deadline(record.token)
            if deadline is not None:
                self._put(replace(record, due=deadline))
                return Dropped("running")
        return None

    def _new(self, claim: Claim, ticket: Ticket) -> Record:
        table = self._table
        return Record(
            ticket.id,
            "parked",
            table.next_number(),
            ticket.message,
            ticket.task_id,
            ticket.owner or claim.owner,
            claim.permits,
            claim.limit,
            None if ticket.wait is None else table.after(ticket.wait),
            broker=ticket.broker,
        )

    def _kept(self) -> float:
        return self._table.after(2 * self._retention)

    def _park(self, record: Record) -> None:
        due = self._table.after(self._retention / 2)
        due = due if record.until is None else min(due, record.until)
        record = replace(record, state="parked", due=due, deadline=self._kept())
        self._put(record)
        self._table.stand(record)

    def _own_claim(self, record: Record, within: float) -> Claim:
        return Claim(self._table.name, TICKET + record.id, record.owner, within, record.limit, record.permits)

    def _dispatch(self, broker: str) -> tuple[Dispatch, ...]:
        """Dispatch tickets for as long as the first in line is one of this broker and finds room."""
        table, dispatches = self._table, []
        for _ in range(MOST):
            head = table.head()
            if head is None or not head[0].startswith(TICKET):
                break
            record = table.get(head[0].removeprefix(TICKET))
            if record is not None and table.used() + record.permits > record.limit:
                break
            if record is not None and not may_dispatch(record.broker, broker):
                break
            table.leave(head[0])
            if record is not None:
                table.grant(self._own_claim(record, FIRST_DISPATCH))
                dispatches.append(self._publish(replace(record, state="dispatched")))
        return tuple(dispatches)

    def _publish(self, record: Record) -> Dispatch:
        record = replace(record, count=record.count + 1, due=self._table.after(FIRST_DISPATCH))
        self._put(record)
        return Dispatch(self._table.name, record.id, record.message, record.count)

    def _put_out(self, record: Record, why: OutReason) -> Dispatch:
        self._table.leave(TICKET + record.id)
        return self._publish(replace(record, state="out", why=why))

    def _finish(self, record: Record) -> None:
        deadline = self._table.after(min(TOMBSTONE, self._retention))
        self._put(replace(record, state="done", message="", why="", token="", due=None, deadline=deadline))

    def _look_at_first(self) -> None:
        """Have the first ticket in line looked at in time: its broker's sweeper finds it due.

        A step that makes room dispatches the first in line. The process that should make room may die, a waiter before
        the first ticket may die, and the step may be of another broker.
        """
        table, head = self._table, self._table.head()
        if head is None:
            return
        is_ticket = head[0].startswith(TICKET)
        id = head[0].removeprefix(TICKET) if is_ticket else table.first_ticket()
        record = None if id is None else table.get(id)
        if record is None:
            return
        if is_ticket:
            free = table.used() + record.permits <= record.limit
            moment = table.now if free else (table.first_deadline() or table.now)
        else:  # to a waiter room means nothing here: it looks for itself
            moment = head[2]
        if record.due is None or moment < record.due:
            self._put(replace(record, due=moment))
