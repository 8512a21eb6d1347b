"""The life of tickets, for stores whose steps are made in Python; the Redis scripts do the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, cast

from celery_locks.stores.base import TICKET, Claim, Granted, Refused
from celery_locks.stores.parking import (
    FIRST_CALL,
    TOMBSTONE,
    Call,
    Dropped,
    Full,
    Out,
    OutReason,
    Parked,
    Ticket,
    is_trial,
    retention,
)

State = Literal["parked", "called", "running", "out", "done"]

#: How many tickets one step calls or looks at, at most.
MOST = 100


@dataclass
class Record:
    """A ticket as it is kept. Moments are those of the store's clock.

    Attributes:
        until: When it has waited for as long as it may.
        token: Of the run; of a done one, who was told that it is out.
        why: It is out.
        due: When to look at it again; ``None`` for a running one of which no copy was dropped, and for done ones.
        deadline: When it may be forgotten.
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
    calls: int = 0
    token: str = ""
    why: str = ""
    due: float | None = None
    deadline: float = 0


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
    def due(self, most: int) -> list[Record]:
        """Tickets that are due."""


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
            return table.grant(claim)  # the same once more: its reply was lost
        table.drop(me)  # what is kept for it, it takes or gives back now
        head = table.head()
        first = head is None or head[0] == me or (record is not None and record.number < head[1])
        if first and table.used() + claim.permits <= claim.limit:
            granted = table.grant(claim)
            if record is not None:
                table.leave(me)
                self._put(replace(record, state="running", token=claim.token, due=None, deadline=self._kept()))
                self._look_at_first()
            return granted
        return self._line_up(claim, ticket, record)

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        table = self._table
        free = table.head() is None and table.used() + claim.permits <= claim.limit
        if free or table.get(ticket.id) is not None:
            return None
        answer = self._line_up(claim, ticket, None)
        return answer if isinstance(answer, Parked) else None

    def hand_on(self) -> tuple[Call, ...]:
        calls = self._call()
        self._look_at_first()
        return calls

    def released(self, token: str) -> None:
        """The run under a token has ended."""
        record = self._table.running(token)
        if record is not None:
            self._finish(record)

    def died(self, token: str) -> None:
        """The run under a token has died; its lease is given back next."""
        record = self._table.running(token)
        if record is None:
            return
        if record.due is None:  # nobody's now: a copy that comes takes it over
            self._put(replace(record, token=""))
        else:  # a copy was dropped because it ran
            self._park(record)

    def look_at_first(self) -> None:
        """Somebody changed the lock who can't send: the first ticket in line may be due."""
        self._look_at_first()

    def sent(self, id: str, within: float) -> None:
        table, record = self._table, self._table.get(id)
        if record is None:
            return
        deadline = table.after(within)
        if record.state == "called" and table.deadline(TICKET + id) is not None:
            table.grant(self._own_claim(record, within))
            self._put(replace(record, due=deadline))
        elif record.state == "out":
            self._put(replace(record, due=deadline))

    def settle(self, id: str) -> None:
        record = self._table.get(id)
        if record is not None and record.state != "done":
            self._table.leave(TICKET + id)
            self._table.drop(TICKET + id)
            self._finish(record)
            self._look_at_first()

    def withdraw(self, id: str) -> tuple[Call, ...]:
        record = self._table.get(id)
        if record is None or record.state != "parked":
            return ()
        calls = (self._put_out(record, "revoked"), *self._call())
        self._look_at_first()
        return calls

    def sweep(self) -> tuple[Call, ...]:
        table, calls = self._table, []
        for record in table.due(MOST):
            if record.state == "parked" and record.until is not None and record.until <= table.now:
                calls.append(self._put_out(record, "timeout"))
            elif record.state in ("parked", "called"):  # in line for long: kept for longer; or its call was lost
                table.drop(TICKET + record.id)
                self._park(record)
            elif record.state == "out":
                calls.append(self._send_on(record))
            elif (deadline := table.deadline(record.token)) is not None:
                self._put(replace(record, due=deadline))
            else:  # a copy was dropped because it ran; it died since
                self._park(record)
        calls += self._call()
        self._look_at_first()
        return tuple(calls)

    # ------------------------------------------------------------------ steps

    def _put(self, record: Record) -> None:
        """Write a ticket. One of a tried write is never due, so no sweeper dispatches it, even if the trial dies."""
        self._table.put(replace(record, due=None) if self._trial else record)

    def _line_up(self, claim: Claim, ticket: Ticket, record: Record | None) -> Parked | Full:
        table, me = self._table, TICKET + ticket.id
        if record is None:
            if not ticket.message:
                return Parked(table.refused(me))
            waiters = table.waiters()
            if ticket.max_waiters is not None and waiters >= ticket.max_waiters:
                return Full(waiters)
            record = self._new(claim, ticket)
        self._park(record)
        calls = self._call()
        self._look_at_first()
        return Parked(table.refused(me), calls)

    def _not_needed(self, claim: Claim, record: Record) -> Dropped | Out | None:
        table = self._table
        if record.state == "done":
            told_before = record.why and record.token == claim.token
            return self._out(record) if told_before else Dropped("done")
        if record.state == "out":
            self._finish(record, record.why, claim.token)
            return self._out(record)
        if record.state == "running" and record.token != claim.token:
            deadline = table.deadline(record.token)
            if deadline is not None:
                self._put(replace(record, due=deadline))
                return Dropped("running")
        return None

    def _out(self, record: Record) -> Out:
        return Out(cast(OutReason, record.why), self._table.refused(TICKET + record.id))

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

    def _call(self) -> tuple[Call, ...]:
        """Calls tickets for as long as the first in line is one and finds room."""
        table, calls = self._table, []
        for _ in range(MOST):
            head = table.head()
            if head is None or not head[0].startswith(TICKET):
                break
            record = table.get(head[0].removeprefix(TICKET))
            if record is not None and table.used() + record.permits > record.limit:
                break
            table.leave(head[0])
            if record is not None:
                table.grant(self._own_claim(record, FIRST_CALL))
                calls.append(self._send_on(replace(record, state="called")))
        return tuple(calls)

    def _send_on(self, record: Record) -> Call:
        record = replace(record, calls=record.calls + 1, due=self._table.after(FIRST_CALL))
        self._put(record)
        return Call(self._table.name, record.id, record.message, record.calls)

    def _put_out(self, record: Record, why: OutReason) -> Call:
        self._table.leave(TICKET + record.id)
        return self._send_on(replace(record, state="out", why=why))

    def _finish(self, record: Record, why: str = "", told: str = "") -> None:
        deadline = self._table.after(min(TOMBSTONE, self._retention))
        done = replace(record, state="done", message="", why=why, token=told, due=None, deadline=deadline)
        self._put(done)

    def _look_at_first(self) -> None:
        """Who is first in line is called by whoever makes room; unless that one dies. A waiter may have died itself."""
        table, head = self._table, self._table.head()
        id = None if head is None else table.first_ticket()
        record = None if id is None else table.get(id)
        if head is None or record is None:
            return
        if head[0].startswith(TICKET):
            free = table.used() + record.permits <= record.limit
            moment = table.now if free else (table.first_deadline() or table.now)
        else:  # to a waiter room means nothing here: it looks for itself
            moment = head[2]
        if record.due is None or moment < record.due:
            self._put(replace(record, due=moment))
