"""``memory://``: leases in this process, for tests and for the small model that other stores are held against."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from celery_locks import threads
from celery_locks.clock import Clock, system_clock
from celery_locks.errors import LossReason
from celery_locks.stores.base import MOST_HOLDERS, TICKET, Claim, Granted, Holder, Refused, Renewal, Store
from celery_locks.stores.memory_listing import MemoryListing
from celery_locks.stores.memory_tickets import MemoryParking
from celery_locks.stores.tickets import Record

#: Seconds that it is known, beyond its deadline, that a lease was replaced.
REPLACED_KNOWN = 3_900.0


@dataclass
class Held:
    claim: Claim
    fencing_token: int
    since: float
    deadline: float


@dataclass
class Lock:
    """What is kept of a lock."""

    held: dict[str, Held] = field(default_factory=dict)
    #: token → deadline of the place, in the order of the line
    line: dict[str, float] = field(default_factory=dict)
    #: token → number of the place: the order of the line
    numbers: dict[str, int] = field(default_factory=dict)
    #: tokens whose turn it may be and who have not noticed yet
    called: set[str] = field(default_factory=set)
    #: token → until when it is known that its lease was replaced
    replaced: dict[str, float] = field(default_factory=dict)
    tickets: dict[str, Record] = field(default_factory=dict)

    def used(self) -> int:
        """Permits held."""
        return sum(held.claim.permits for held in self.held.values())

    def leave(self, token: str) -> bool:
        """Takes a token out of line. Returns whether it stood there."""
        self.numbers.pop(token, None)
        return self.line.pop(token, None) is not None


class MemoryStore(MemoryParking, MemoryListing, Store):
    """Leases in a dictionary.

    Args:
        clock: What deadlines are measured by; tests pass one that they can move.
    """

    wakes = True
    waits_for = 1_000
    values = True
    shared = False
    machines = False

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._locks: dict[str, Lock] = {}
        self._last_fencing_token = 0
        self._last_number = 0
        self._tasks: dict[str, tuple[str, str]] = {}
        #: name → text, and until when it is kept
        self._values: dict[str, tuple[str, float]] = {}
        self._changed = threading.Condition(threads.RLock())

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        with self._changed:
            now, lock = self._clock.now(), self.current(claim.name)
            if (mine := lock.held.get(claim.token)) is not None:
                mine.deadline = max(mine.deadline, now + claim.ttl)
                return Granted(mine.fencing_token)
            if claim.adopts in lock.replaced:
                refused = self.refused(lock, claim.token, now)._replace(replaced=True)
                self.forget(claim.name)
                return refused
            if lock.held.pop(claim.adopts, None) is not None:
                return self.grant(lock, claim)
            if claim.replaces and claim.permits <= claim.limit:
                self._replace(lock, claim)
            free = claim.limit - lock.used()
            if free >= claim.permits and (claim.replaces or next(iter(lock.line), claim.token) == claim.token):
                lock.leave(claim.token)
                granted = self.grant(lock, claim)
                if free > claim.permits:
                    self._call_next(lock)
                return granted
            if line_up is not None:
                self.stand(lock, claim.token, self.next_number(), now + line_up)
            refused = self.refused(lock, claim.token, now)
            self.forget(claim.name)
            return refused

    def grant(self, lock: Lock, claim: Claim) -> Granted:
        """Takes permits, whoever holds them."""
        now = self._clock.now()
        self._last_fencing_token += 1
        lock.held[claim.token] = Held(claim, self._last_fencing_token, now, now + claim.ttl)
        if claim.task_id:
            self._tasks[claim.task_id] = (claim.name, claim.token)
        return Granted(self._last_fencing_token)

    @staticmethod
    def _replace(lock: Lock, claim: Claim) -> None:
        for token, held in list(lock.held.items()):
            if lock.used() + claim.permits <= claim.limit:
                return
            del lock.held[token]
            lock.replaced[token] = held.deadline + REPLACED_KNOWN

    def next_number(self) -> int:
        """A place in line behind all before it."""
        self._last_number += 1
        return self._last_number

    @staticmethod
    def stand(lock: Lock, token: str, number: int, deadline: float) -> None:
        """Puts a token in line, or keeps its place for longer."""
        lock.numbers.setdefault(token, number)
        lock.line[token] = max(deadline, lock.line.get(token, deadline))
        lock.line = {each: lock.line[each] for each in sorted(lock.line, key=lock.numbers.__getitem__)}

    def leave(self, name: str, token: str) -> None:
        with self._changed:
            lock = self.current(name)
            if lock.leave(token):
                self._call_next(lock)
            self.forget(name)

    def wait(self, name: str, token: str, timeout: float) -> None:
        self.wait_any([(name, token)], timeout)

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        def called() -> list[str]:
            return [token for name, token in places if self._may_go(name, token)]

        with self._changed:
            tokens = self._changed.wait_for(called, timeout)
            for name, token in places:
                if token in tokens and (lock := self._locks.get(name)):
                    lock.called.discard(token)
            return tokens

    def _may_go(self, name: str, token: str) -> bool:
        lock = self._locks.get(name)
        # A lock that is free stays known for its tickets and for leases that were replaced.
        return lock is None or token in lock.called or not (lock.held or lock.line)

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        with self._changed:
            return [self._renew(renewal) for renewal in renewals]

    def _renew(self, renewal: Renewal) -> LossReason | None:
        expired = renewal.token in self._locks.get(renewal.name, Lock()).held
        now, lock = self._clock.now(), self.current(renewal.name)
        held = lock.held.get(renewal.token)
        if held is not None:
            held.deadline = max(held.deadline, now + renewal.ttl)
            return None
        stolen, replaced = bool(lock.held), renewal.token in lock.replaced
        self.forget(renewal.name)
        if replaced:
            return "replaced"
        return "expired" if expired else "stolen" if stolen else "deleted"

    def release(self, name: str, token: str) -> bool:
        with self._changed:
            lock = self.current(name)
            released = self.give_back(lock, name, token)
            self._call_next(lock)
            self.forget(name)
            return released

    def give_back(self, lock: Lock, name: str, token: str) -> bool:
        """Ends a lease, and the ticket that ran under it."""
        self._tickets_of(lock, name).released(token)
        return lock.held.pop(token, None) is not None

    def force_release(self, name: str) -> tuple[Holder, ...]:
        with self._changed:
            lock = self.current(name)
            holders = self.holders_of(lock, self._clock.now())
            lock.held.clear()
            self._call_next(lock)
            self.forget(name)
            return holders

    def holders(self, name: str) -> tuple[Holder, ...]:
        with self._changed:
            holders = self.holders_of(self.current(name), self._clock.now())
            self.forget(name)
            return holders

    def held(self, name: str) -> int:
        with self._changed:
            permits = self.current(name).used()
            self.forget(name)
            return permits

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        with self._changed:
            holds = token in self.current(name).held
            self.forget(name)
            if holds:
                self._values[name] = text, self._clock.now() + keep
            return holds

    def value(self, name: str) -> str | None:
        with self._changed:
            text, until = self._values.get(name, (None, 0.0))
            return text if until > self._clock.now() else None

    def delete(self, name: str) -> bool:
        with self._changed:
            there = self.value(name) is not None
            self._values.pop(name, None)
            return there

    def ping(self) -> None:
        pass

    def current(self, name: str) -> Lock:
        """The lock without the holders and waiters whose deadline has passed."""
        now, lock = self._clock.now(), self._locks.setdefault(name, Lock())
        lock.held = {token: held for token, held in lock.held.items() if held.deadline > now}
        for token in [token for token, deadline in lock.line.items() if deadline <= now]:
            lock.leave(token)
        lock.replaced = {token: deadline for token, deadline in lock.replaced.items() if deadline > now}
        lock.tickets = {id: record for id, record in lock.tickets.items() if record.deadline > now}
        lock.called &= lock.line.keys()
        return lock

    def _call_next(self, lock: Lock) -> None:
        """Tells the first in line that it may be its turn."""
        if lock.line and next(iter(lock.line)).startswith(TICKET):
            name = next(name for name, each in self._locks.items() if each is lock)
            self._tickets_of(lock, name).look_at_first()
            self._changed.notify_all()
        self.call_waiter(lock)

    def call_waiter(self, lock: Lock) -> None:
        """Tells the first in line, if it is a waiter and no ticket."""
        head = next(iter(lock.line), None)
        if head is not None and not head.startswith(TICKET):
            lock.called.add(head)
            self._changed.notify_all()

    def forget(self, name: str) -> None:
        """Forgets a lock that nothing is known of."""
        lock = self._locks.get(name, Lock())
        if not (lock.held or lock.line or lock.replaced or lock.tickets):
            self._locks.pop(name, None)

    @staticmethod
    def refused(lock: Lock, token: str, now: float) -> Refused:
        holders = MemoryStore.holders_of(lock, now)
        line = list(lock.line)
        position = line.index(token) if token in lock.line else None
        if position:  # someone stands before: only their place's end could change anything unannounced
            retry_in = lock.line[line[position - 1]] - now
        elif holders:
            retry_in = min(held.deadline for held in lock.held.values()) - now
        else:
            # Nobody in line either: more permits were asked for than there are.
            retry_in = min(lock.line.values(), default=now + 1) - now
        return Refused(holders, retry_in, position)

    @staticmethod
    def holders_of(lock: Lock, now: float) -> tuple[Holder, ...]:
        """Those who hold a lock."""
        return tuple(
            Holder(
                held.claim.owner,
                held.fencing_token,
                held.claim.permits,
                now - held.since,
                held.deadline - now,
                token,
                held.claim.limit,
            )
            for token, held in list(lock.held.items())[:MOST_HOLDERS]
        )


_named: dict[str, MemoryStore] = {}


def open_memory(url: str) -> MemoryStore:
    """``memory://`` or ``memory://name``: the same URL is the same store within a process."""
    return _named.setdefault(url, MemoryStore())
