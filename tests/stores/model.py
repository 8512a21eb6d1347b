"""What a store should do, said as simply as it can be: the small model that every store is held against.

It has a clock of its own, forgets nothing early, and knows nothing of indexes, scripts or transactions. Whatever should
have happened by now, a `sweep` does at once: how a store finds what is due is its own affair.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from celery_locks.stores.parking import (
    FIRST_DISPATCH,
    RETENTION,
    STORE_GRACE,
    TOMBSTONE,
    Dispatch,
    Ticket,
    may_dispatch,
)
from celery_locks.stores.types import TAKEN_KNOWN_SECONDS, TICKET, Claim


@dataclass
class Lease:
    claim: Claim
    fence: int
    since: float
    deadline: float


@dataclass
class Place:
    number: int
    deadline: float


@dataclass
class Known:
    """A ticket that is known. An `owed` one, running or ended, is parked again if its run does not end for good."""

    ticket: Ticket
    claim: Claim
    number: int
    until: float
    state: str = "parked"
    count: int = 0
    token: str = ""
    why: str = ""
    owed: bool = False
    due: float = 0.0
    kept: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What came of a claim: ``granted``, ``refused``, ``parked``, ``dropped``, ``full``, ``out``; or ``none``."""

    kind: str
    fence: int = 0
    has_ticket: bool = False
    position: int | None = None
    holders: tuple[str, ...] = ()
    dispatches: tuple[Dispatch, ...] = ()
    more: Any = None


@dataclass
class Lock:
    leases: dict[str, Lease] = field(default_factory=dict)
    line: dict[str, Place] = field(default_factory=dict)
    tickets: dict[str, Known] = field(default_factory=dict)
    #: Why a lease was taken by force, and until when that is known.
    taken: dict[str, tuple[str, float]] = field(default_factory=dict)

    def forget(self, now: float) -> None:
        """Whatever ends, ends at its deadline."""
        self.leases = {token: lease for token, lease in self.leases.items() if lease.deadline > now}
        line = sorted(self.line.items(), key=lambda item: item[1].number)
        self.line = {token: place for token, place in line if place.deadline > now}
        self.tickets = {id: known for id, known in self.tickets.items() if known.kept > now}
        self.taken = {token: taken for token, taken in self.taken.items() if taken[1] > now}

    def take_away(self, token: str, why: str) -> None:
        self.taken[token] = why, self.leases.pop(token).deadline + TAKEN_KNOWN_SECONDS

    def head(self) -> str | None:
        return min(self.line, key=lambda token: self.line[token].number, default=None)

    def used(self) -> int:
        return sum(lease.claim.permits for lease in self.leases.values())

    def fits(self, claim: Claim) -> bool:
        return self.used() + claim.permits <= claim.limit

    def position(self, token: str) -> int | None:
        if token not in self.line:
            return None
        return sum(place.number < self.line[token].number for place in self.line.values())


class Model:
    """All locks of a store."""

    def __init__(self) -> None:
        self.now = 0.0
        self.locks: dict[str, Lock] = {}
        #: The lease that was taken for a task: lock, token, and until when it is known.
        self.tasks: dict[str, tuple[str, str, float]] = {}
        self._count = count(1)

    def lock(self, name: str) -> Lock:
        lock = self.locks.setdefault(name, Lock())
        lock.forget(self.now)
        return lock

    # ------------------------------------------------------------------ leases

    def acquire(self, claim: Claim, line_up: float | None) -> Answer:
        lock = self.lock(claim.name)
        if claim.token in lock.leases:
            return self._grant(lock, claim)
        if lock.taken.get(claim.adopts, ("", 0.0))[0] == "replaced":
            return replace(self._answer(lock, "refused", claim.token), position=None, more="replaced")
        if lock.leases.pop(claim.adopts, None):
            return self._grant(lock, claim)
        if claim.replaces:
            for token in sorted(lock.leases, key=lambda token: lock.leases[token].fence):
                if not lock.fits(claim):
                    lock.take_away(token, "replaced")
        if lock.fits(claim) and (claim.replaces or lock.head() in (None, claim.token)):
            return self._grant(lock, claim)
        if line_up is not None:
            place = lock.line.setdefault(claim.token, Place(next(self._count), 0.0))
            place.deadline = max(place.deadline, self.now + line_up)
        return self._answer(lock, "refused", claim.token)

    def leave(self, name: str, token: str) -> None:
        self.lock(name).line.pop(token, None)

    def renew(self, name: str, token: str, ttl: float) -> set[str | None]:
        """The answers that are right; the first moments after its end a lease may still be known."""
        lock = self.lock(name)
        if token in lock.leases:
            lock.leases[token].deadline = max(lock.leases[token].deadline, self.now + ttl)
            return {None}
        if token in lock.taken:
            return {lock.taken[token][0]}
        return {"expired", "stolen" if lock.leases else "deleted"}

    def release(self, name: str, token: str) -> bool:
        lock = self.lock(name)
        return self._end(lock, token, "again")

    def force_release(self, name: str, token: str = "") -> set[str]:
        lock = self.lock(name)
        tokens = {token} & lock.leases.keys() if token else set(lock.leases)
        for each in tokens:
            lock.take_away(each, "force_released")
        return tokens

    # ------------------------------------------------------------------ tickets

    def enter(self, claim: Claim, ticket: Ticket) -> Answer:
        lock, me = self.lock(claim.name), TICKET + ticket.id
        known = lock.tickets.get(ticket.id)
        if known and known.state == "done":
            return Answer("dropped", more="done")
        if known and known.state == "out":
            return self._answer(lock, "out", me, known.why)
        if known and known.state == "running" and known.token != claim.token and known.token in lock.leases:
            known.owed, known.due = True, lock.leases[known.token].deadline
            return Answer("dropped", more="running")
        if claim.token in lock.leases:
            return replace(self._grant(lock, claim), has_ticket=known is not None)
        lock.leases.pop(me, None)
        head = lock.head()
        first = head in (None, me) or (known is not None and known.number < lock.line[head].number)
        if not (first and lock.fits(claim)):
            return self._line_up(lock, claim, ticket, known)
        if known:
            lock.line.pop(me, None)
            by_last_dispatch = known.state != "parked" and known.count == ticket.count
            known.owed = known.owed or (ticket.late and not by_last_dispatch)
            known.state, known.token, known.kept = "running", claim.token, self.now + 2 * RETENTION
            known.due = self.now + claim.ttl
        return replace(self._grant(lock, claim), has_ticket=known is not None)

    def park(self, claim: Claim, ticket: Ticket) -> Answer:
        lock = self.lock(claim.name)
        if ticket.id in lock.tickets or (not lock.line and lock.fits(claim)):
            return Answer("none")
        answer = self._line_up(lock, claim, ticket, None)
        return Answer("none") if answer.kind == "full" else answer

    def end_run(self, name: str, token: str, end: str, broker: str) -> tuple[bool, tuple[Dispatch, ...]]:
        lock = self.lock(name)
        return self._end(lock, token, end), self._dispatch(lock, name, broker)

    def published(self, dispatch: Dispatch, within: float) -> None:
        lock = self.lock(dispatch.name)
        known, lease = lock.tickets.get(dispatch.id), lock.leases.get(TICKET + dispatch.id)
        if known and known.state == "dispatched" and lease:
            lease.deadline = max(lease.deadline, self.now + within)
            known.due = self.now + within
        elif known and known.state == "out":
            known.due = self.now + within

    def finish(self, name: str, id: str, token: str, running: bool) -> None:
        lock = self.lock(name)
        known = lock.tickets.get(id)
        if known is None or known.state == "done":
            return
        lives = known.state == "running" and known.token in lock.leases
        if self._has_run(known, token) if token else running or not lives:
            lock.line.pop(TICKET + id, None)
            lock.leases.pop(TICKET + id, None)
            self._finish(known)

    def sweep(self, broker: str) -> tuple[Dispatch, ...]:
        return tuple(dispatch for name in self.locks for dispatch in self._sweep(self.lock(name), name, broker))

    def withdraw(self, task: str, broker: str) -> tuple[Dispatch, ...]:
        for name in self.locks:
            lock = self.lock(name)
            for known in lock.tickets.values():
                mine = known.ticket.task_id == task and may_dispatch(known.ticket.broker, broker)
                if mine and known.state == "parked":
                    return (self._put_out(lock, known, "revoked"), *self._dispatch(lock, name, broker))
        name, token, _ = self.tasks.pop(task, ("", "", 0.0))
        return self.end_run(name, token, "again", broker)[1] if name else ()

    # ------------------------------------------------------------------ steps

    def _grant(self, lock: Lock, claim: Claim) -> Answer:
        lease = lock.leases.get(claim.token)
        if lease is None:
            lease = lock.leases[claim.token] = Lease(claim, next(self._count), self.now, 0.0)
            lock.line.pop(claim.token, None)
            if claim.task_id:
                self.tasks[claim.task_id] = claim.name, claim.token, self.now + claim.ttl
        lease.deadline = max(lease.deadline, self.now + claim.ttl)
        return Answer("granted", lease.fence)

    @staticmethod
    def _answer(lock: Lock, kind: str, token: str, more: Any = None, dispatches: tuple[Dispatch, ...] = ()) -> Answer:
        return Answer(kind, 0, False, lock.position(token), tuple(sorted(lock.leases)), dispatches, more)

    def _line_up(self, lock: Lock, claim: Claim, ticket: Ticket, known: Known | None) -> Answer:
        if known is None:
            if not ticket.message:
                return self._answer(lock, "parked", TICKET + ticket.id)
            if ticket.max_waiters is not None and len(lock.line) >= ticket.max_waiters:
                return Answer("full", more=len(lock.line))
            until = float("inf") if ticket.wait is None else self.now + ticket.wait
            known = lock.tickets[ticket.id] = Known(ticket, claim, next(self._count), until)
        self._park(lock, known)
        dispatches = self._dispatch(lock, claim.name, ticket.broker)
        return self._answer(lock, "parked", TICKET + ticket.id, dispatches=dispatches)

    @staticmethod
    def _has_run(known: Known, token: str) -> bool:
        return known.state in ("running", "ended") and known.token == token

    def _end(self, lock: Lock, token: str, end: str) -> bool:
        for known in lock.tickets.values():
            if (known.state, known.token) == ("running", token):
                if end == "final":
                    self._finish(known)
                elif end == "rejected" or not known.owed:
                    known.state, known.owed, known.kept = "ended", False, self.now + TOMBSTONE
                elif end == "stored":
                    known.state, known.kept = "ended", self.now + 2 * RETENTION
                    known.due = self.now + STORE_GRACE
                else:
                    self._park(lock, known)
        return lock.leases.pop(token, None) is not None

    def _park(self, lock: Lock, known: Known) -> None:
        known.state, known.owed, known.kept = "parked", False, self.now + 2 * RETENTION
        known.due = min(known.until, self.now + RETENTION / 2)
        lock.line[TICKET + known.ticket.id] = Place(known.number, self.now + RETENTION)

    def _dispatch(self, lock: Lock, name: str, broker: str) -> tuple[Dispatch, ...]:
        """Dispatch tickets for as long as the first in line is one of this broker and finds room."""
        dispatches = []
        while (head := lock.head()) and head.startswith(TICKET):
            known = lock.tickets[head.removeprefix(TICKET)]
            if not (lock.fits(known.claim) and may_dispatch(known.ticket.broker, broker)):
                break
            del lock.line[head]
            terms = (known.claim.limit, known.claim.permits)
            self._grant(lock, Claim(name, head, known.claim.owner, FIRST_DISPATCH, *terms))
            dispatches.append(self._publish(known, "dispatched"))
        return tuple(dispatches)

    def _publish(self, known: Known, state: str) -> Dispatch:
        known.state, known.count, known.due = state, known.count + 1, self.now + FIRST_DISPATCH
        return Dispatch(known.claim.name, known.ticket.id, known.ticket.message, known.count)

    def _put_out(self, lock: Lock, known: Known, why: str) -> Dispatch:
        known.why = why
        lock.line.pop(TICKET + known.ticket.id, None)
        return self._publish(known, "out")

    def _finish(self, known: Known) -> None:
        known.state, known.token, known.owed = "done", "", False
        known.kept = self.now + TOMBSTONE

    def _sweep(self, lock: Lock, name: str, broker: str) -> tuple[Dispatch, ...]:
        dispatches = []
        for known in lock.tickets.values():
            if not may_dispatch(known.ticket.broker, broker):
                continue
            due = known.due <= self.now
            if known.state == "parked" and known.until <= self.now:
                dispatches.append(self._put_out(lock, known, "timeout"))
            elif due and known.state in ("parked", "dispatched"):
                lock.leases.pop(TICKET + known.ticket.id, None)
                self._park(lock, known)
            elif due and known.state == "out":
                dispatches.append(self._publish(known, "out"))
            elif due and known.owed and known.state == "running" and known.token in lock.leases:
                known.due = lock.leases[known.token].deadline
            elif due and known.owed:
                self._park(lock, known)
        return (*dispatches, *self._dispatch(lock, name, broker))
