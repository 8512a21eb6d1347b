"""What a store should do, said as simply as it can be: the small model that every store is held against.

It has a clock of its own, forgets nothing early, and knows nothing of indexes, scripts or transactions. Whatever should
have happened by now, a `sweep` does at once: how a store finds what is due is its own affair.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from celery_locks.stores.base import TICKET, Claim
from celery_locks.stores.memory import REPLACED_KNOWN
from celery_locks.stores.parking import FIRST_CALL, RETENTION, TOMBSTONE, Call, Ticket


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
    """A ticket that is known: `owed` is a running one of which a copy was dropped."""

    ticket: Ticket
    claim: Claim
    number: int
    until: float
    state: str = "parked"
    calls: int = 0
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
    position: int | None = None
    holders: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()
    more: Any = None


@dataclass
class Lock:
    leases: dict[str, Lease] = field(default_factory=dict)
    line: dict[str, Place] = field(default_factory=dict)
    tickets: dict[str, Known] = field(default_factory=dict)
    replaced: dict[str, float] = field(default_factory=dict)

    def forget(self, now: float) -> None:
        """Whatever ends, ends at its deadline."""
        self.leases = {token: lease for token, lease in self.leases.items() if lease.deadline > now}
        line = sorted(self.line.items(), key=lambda item: item[1].number)
        self.line = {token: place for token, place in line if place.deadline > now}
        self.tickets = {id: known for id, known in self.tickets.items() if known.kept > now}
        self.replaced = {token: until for token, until in self.replaced.items() if until > now}

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
        if claim.adopts in lock.replaced:
            return replace(self._answer(lock, "refused", claim.token), position=None, more="replaced")
        if lock.leases.pop(claim.adopts, None):
            return self._grant(lock, claim)
        if claim.replaces:
            for token in sorted(lock.leases, key=lambda token: lock.leases[token].fence):
                if not lock.fits(claim):
                    lock.replaced[token] = lock.leases.pop(token).deadline + REPLACED_KNOWN
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
        if token in lock.replaced:
            return {"replaced"}
        return {"expired", "stolen" if lock.leases else "deleted"}

    def release(self, name: str, token: str) -> bool:
        lock = self.lock(name)
        for known in lock.tickets.values():
            if known.state == "running" and known.token == token:
                self._finish(known)
        return lock.leases.pop(token, None) is not None

    def force_release(self, name: str) -> set[str]:
        lock = self.lock(name)
        tokens, lock.leases = set(lock.leases), {}
        return tokens

    # ------------------------------------------------------------------ tickets

    def enter(self, claim: Claim, ticket: Ticket) -> Answer:
        lock, me = self.lock(claim.name), TICKET + ticket.id
        known = lock.tickets.get(ticket.id)
        if known and known.state == "done":
            told = known.why and known.token == claim.token
            return self._answer(lock, "out", me, known.why) if told else Answer("dropped", more="done")
        if known and known.state == "out":
            self._finish(known, known.why, claim.token)
            return self._answer(lock, "out", me, known.why)
        if known and known.state == "running" and known.token != claim.token and known.token in lock.leases:
            known.owed, known.due = True, lock.leases[known.token].deadline
            return Answer("dropped", more="running")
        if claim.token in lock.leases:
            return self._grant(lock, claim)
        lock.leases.pop(me, None)
        head = lock.head()
        first = head in (None, me) or (known is not None and known.number < lock.line[head].number)
        if not (first and lock.fits(claim)):
            return self._line_up(lock, claim, ticket, known)
        if known:
            lock.line.pop(me, None)
            known.state, known.token, known.owed, known.kept = "running", claim.token, False, self.now + 2 * RETENTION
        return self._grant(lock, claim)

    def park(self, claim: Claim, ticket: Ticket) -> Answer:
        lock = self.lock(claim.name)
        if ticket.id in lock.tickets or (not lock.line and lock.fits(claim)):
            return Answer("none")
        answer = self._line_up(lock, claim, ticket, None)
        return Answer("none") if answer.kind == "full" else answer

    def hand_on(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        return self.release(name, token), self._call(self.lock(name), name)

    def died(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        lock = self.lock(name)
        for known in lock.tickets.values():
            if known.state == "running" and known.token == token:
                known.token = ""  # nobody's now
                if known.owed:
                    self._park(lock, known)
        return lock.leases.pop(token, None) is not None, self._call(lock, name)

    def sent(self, call: Call, within: float) -> None:
        lock = self.lock(call.name)
        known, lease = lock.tickets.get(call.id), lock.leases.get(TICKET + call.id)
        if known and known.state == "called" and lease:
            lease.deadline = max(lease.deadline, self.now + within)
            known.due = self.now + within
        elif known and known.state == "out":
            known.due = self.now + within

    def settle(self, name: str, id: str) -> None:
        lock = self.lock(name)
        if id in lock.tickets and lock.tickets[id].state != "done":
            lock.line.pop(TICKET + id, None)
            lock.leases.pop(TICKET + id, None)
            self._finish(lock.tickets[id])

    def sweep(self) -> tuple[Call, ...]:
        return tuple(call for name in self.locks for call in self._sweep(self.lock(name), name))

    def withdraw(self, task: str) -> tuple[Call, ...]:
        for name in self.locks:
            lock = self.lock(name)
            for known in lock.tickets.values():
                if known.ticket.task_id == task and known.state == "parked":
                    return (self._put_out(lock, known, "revoked"), *self._call(lock, name))
        name, token, _ = self.tasks.pop(task, ("", "", 0.0))
        return self.hand_on(name, token)[1] if name else ()

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
    def _answer(lock: Lock, kind: str, token: str, more: Any = None, calls: tuple[Call, ...] = ()) -> Answer:
        return Answer(kind, 0, lock.position(token), tuple(sorted(lock.leases)), calls, more)

    def _line_up(self, lock: Lock, claim: Claim, ticket: Ticket, known: Known | None) -> Answer:
        if known is None:
            if not ticket.message:
                return self._answer(lock, "parked", TICKET + ticket.id)
            if ticket.max_waiters is not None and len(lock.line) >= ticket.max_waiters:
                return Answer("full", more=len(lock.line))
            until = float("inf") if ticket.wait is None else self.now + ticket.wait
            known = lock.tickets[ticket.id] = Known(ticket, claim, next(self._count), until)
        self._park(lock, known)
        calls = self._call(lock, claim.name)
        return self._answer(lock, "parked", TICKET + ticket.id, calls=calls)

    def _park(self, lock: Lock, known: Known) -> None:
        known.state, known.owed, known.kept = "parked", False, self.now + 2 * RETENTION
        known.due = min(known.until, self.now + RETENTION / 2)
        lock.line[TICKET + known.ticket.id] = Place(known.number, self.now + RETENTION)

    def _call(self, lock: Lock, name: str) -> tuple[Call, ...]:
        """Calls tickets for as long as the first in line is one and finds room."""
        calls = []
        while (head := lock.head()) and head.startswith(TICKET):
            known = lock.tickets[head.removeprefix(TICKET)]
            if not lock.fits(known.claim):
                break
            del lock.line[head]
            self._grant(lock, Claim(name, head, known.claim.owner, FIRST_CALL, known.claim.limit, known.claim.permits))
            calls.append(self._send(known, "called"))
        return tuple(calls)

    def _send(self, known: Known, state: str) -> Call:
        known.state, known.calls, known.due = state, known.calls + 1, self.now + FIRST_CALL
        return Call(known.claim.name, known.ticket.id, known.ticket.message, known.calls)

    def _put_out(self, lock: Lock, known: Known, why: str) -> Call:
        known.why = why
        lock.line.pop(TICKET + known.ticket.id, None)
        return self._send(known, "out")

    def _finish(self, known: Known, why: str = "", told: str = "") -> None:
        known.state, known.why, known.token, known.owed = "done", why, told, False
        known.kept = self.now + TOMBSTONE

    def _sweep(self, lock: Lock, name: str) -> tuple[Call, ...]:
        calls = []
        for known in lock.tickets.values():
            due = known.due <= self.now
            if known.state == "parked" and known.until <= self.now:
                calls.append(self._put_out(lock, known, "timeout"))
            elif due and known.state in ("parked", "called"):
                lock.leases.pop(TICKET + known.ticket.id, None)
                self._park(lock, known)
            elif due and known.state == "out":
                calls.append(self._send(known, "out"))
            elif due and known.owed and known.token in lock.leases:
                known.due = lock.leases[known.token].deadline
            elif due and known.owed:
                self._park(lock, known)
        return (*calls, *self._call(lock, name))
