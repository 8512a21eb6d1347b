"""The life of tickets, for stores whose steps run in Python. The scripts of Redis do the same."""

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

#: How many tickets one step dispatches, or finds due, at most.
MOST = 100


@dataclass
class Record:
    """The record of a ticket. Moments are those of the store's clock.

    Attributes:
        number: The number of its place in line.
        until: The moment at which its longest wait ends, ``None`` for no bound.
        count: How often it was dispatched.
        token: The owner token of its run.
        why: The reason for which it is out.
        due: The moment at which a sweeper handles it. ``None`` when it is done, and while its run is not owed.
        deadline: The moment at which the record expires.
        broker: The broker of its message; empty for tickets of older versions.
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
        """Whether its run is owed: the ticket is parked again if that run does not end for good."""
        return self.state in ("running", "ended") and self.due is not None


class Table(ABC):
    """One lock at one moment, within one atomic step of its store."""

    name: str
    now: float

    @abstractmethod
    def after(self, seconds: float) -> float:
        """Return the moment that is this many seconds from now."""

    @abstractmethod
    def used(self) -> int:
        """Return how many permits are held."""

    @abstractmethod
    def deadline(self, token: str) -> float | None:
        """Return the deadline of a live lease, ``None`` when there is none."""

    @abstractmethod
    def first_deadline(self) -> float | None:
        """Return the earliest deadline of the leases."""

    @abstractmethod
    def grant(self, claim: Claim) -> Granted:
        """Grant a claim, also when others hold its permits. A token that holds already keeps its lease."""

    @abstractmethod
    def drop(self, token: str) -> None:
        """Release the lease of a token, if it has one."""

    @abstractmethod
    def head(self) -> tuple[str, int, float] | None:
        """Return the first in line: token, number, and deadline of the place."""

    @abstractmethod
    def stand(self, record: Record) -> None:
        """Give a ticket its place in line, by its number, for as long as `retention` states."""

    @abstractmethod
    def leave(self, token: str) -> None:
        """Remove a token from the line."""

    @abstractmethod
    def first_ticket(self) -> str | None:
        """Return the id of the first ticket in line."""

    @abstractmethod
    def next_number(self) -> int:
        """Return a number greater than all before it."""

    @abstractmethod
    def waiters(self) -> int:
        """Return how many stand in line."""

    def has_room(self, most: int) -> bool:
        """Return whether fewer than this stand in line."""
        return self.waiters() < most

    def has_ended(self, token: str) -> bool:
        """Return whether the store knows that a token's lease has ended, so that its request comes too late."""
        return False

    @abstractmethod
    def refused(self, token: str) -> Refused:
        """Return the refusal of a token."""

    @abstractmethod
    def get(self, id: str) -> Record | None:
        """Return a ticket, ``None`` if it is unknown."""

    @abstractmethod
    def put(self, record: Record) -> None:
        """Write a ticket."""

    @abstractmethod
    def running(self, token: str) -> Record | None:
        """Return the ticket that runs under a token."""

    @abstractmethod
    def due(self, broker: str, most: int) -> list[Record]:
        """Return the tickets that are due, the earliest first: those of a broker, and those without a broker."""


class Tickets:
    """The steps in the life of the tickets of one lock. They are the methods of `Parking`."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._trial, self._retention = is_trial(table.name), retention(table.name)

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        """Acquire for a message that has arrived, or park its ticket; see `Parking.enter`."""
        table, me = self._table, TICKET + ticket.id
        record = table.get(ticket.id)
        if record is not None and (answer := self._not_needed(claim, record)):
            return answer
        if table.deadline(claim.token) is not None:
            return table.grant(claim)._replace(
                has_ticket=record is not None
            )  # the same request again, after a lost reply
        if table.has_ended(claim.token):
            return Parked(table.refused(me))
        table.drop(me)  # the permits that were kept for it: it takes or releases them now
        head = table.head()
        first = head is None or head[0] == me or (record is not None and record.number < head[1])
        if first and table.used() + claim.permits <= claim.limit:
            granted = table.grant(claim)
            if record is not None:
                table.leave(me)
                due = table.after(claim.ttl) if self._will_be_owed(record, ticket) else None
                self._put(replace(record, state="running", token=claim.token, due=due, deadline=self._kept()))
                self.look_at_first()
            return granted._replace(has_ticket=record is not None)
        return self._line_up(claim, ticket, record)

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        """Park an unknown ticket that can't run now; see `Parking.park`."""
        table = self._table
        free = table.head() is None and table.used() + claim.permits <= claim.limit
        if free or table.get(ticket.id) is not None:
            return None
        answer = self._line_up(claim, ticket, None)
        return answer if isinstance(answer, Parked) else None

    def dispatch(self, broker: str) -> tuple[Dispatch, ...]:
        """Dispatch the tickets of a broker whose turn has come."""
        dispatches = self._dispatch(broker)
        self.look_at_first()
        return dispatches

    def end_run(self, token: str, end: RunEndName) -> None:
        """Settle the ticket that ran under a token. The caller releases the lease next."""
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
        """Make the first ticket in line due as soon as a sweeper may have to dispatch it.

        The step that makes room dispatches the first in line. But the holder may die, a waiter before the first ticket
        may die, and the step may be that of another broker.
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
        else:  # a waiter takes free permits by itself
            moment = head[2]
        if record.due is None or moment < record.due:
            self._put(replace(record, due=moment))

    def published(self, id: str, within: float) -> None:
        """Keep the permits of a dispatched ticket; see `Parking.published`."""
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
        """Mark a ticket as done; see `Parking.finish`."""
        record = self._table.get(id)
        if record is None or record.state == "done":
            return
        lives = record.state == "running" and self._table.deadline(record.token) is not None
        if not token and (running or not lives):
            self._table.leave(TICKET + id)
            self._table.drop(TICKET + id)
            self._finish(record)
            self.look_at_first()
        elif token and record.state in ("running", "ended") and record.token == token:
            self._finish(record)

    def withdraw(self, id: str, broker: str) -> tuple[Dispatch, ...]:
        """Put a parked ticket out; see `Parking.withdraw`."""
        record = self._table.get(id)
        if record is None or record.state != "parked" or not may_dispatch(record.broker, broker):
            return ()
        dispatches = (self._put_out(record, "revoked"), *self._dispatch(broker))
        self.look_at_first()
        return dispatches

    def sweep(self, broker: str) -> tuple[Dispatch, ...]:
        """Handle the tickets that are due; see `Parking.sweep`."""
        table, dispatches = self._table, []
        for record in table.due(broker, MOST):
            if record.state == "parked" and record.until is not None and record.until <= table.now:
                dispatches.append(self._put_out(record, "timeout"))
            elif record.state in (
                "parked",
                "dispatched",
            ):  # its place is kept for longer, or its message did not arrive
                table.drop(TICKET + record.id)
                self._park(record)
            elif record.state == "out":
                dispatches.append(self._publish(record))
            elif record.state == "running" and (deadline := table.deadline(record.token)) is not None:
                self._put(replace(record, due=deadline))
            else:  # its run is owed, and the lease has expired, or the result was not stored in time
                self._park(record)
        dispatches += self._dispatch(broker)
        self.look_at_first()
        return tuple(dispatches)

    def _put(self, record: Record) -> None:
        """Write a ticket. A ticket of `Store.try_writes` is never due: no sweeper dispatches it if its process dies."""
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
        self.look_at_first()
        return Parked(table.refused(me), dispatches)

    @staticmethod
    def _will_be_owed(record: Record, ticket: Ticket) -> bool:
        """Return whether the run that a copy of a ticket's message begins is owed from its start."""
        # The broker delivers the copy of the last dispatch again, unless it was acknowledged in place of another.
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
