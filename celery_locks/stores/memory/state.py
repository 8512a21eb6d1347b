"""The locks of this process: what is kept of each, and the steps that all calls are made of."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from celery_locks._runtime import threads
from celery_locks._runtime.clock import Clock, system_clock
from celery_locks.errors import LossReason
from celery_locks.stores.loss_feed import LocalFeed
from celery_locks.stores.tickets import Record
from celery_locks.stores.types import MOST_HOLDERS, TICKET, Claim, Granted, Holder, Refused


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
    #: token → why its lease was taken by force, and until when that is known
    taken: dict[str, tuple[LossReason, float]] = field(default_factory=dict)
    tickets: dict[str, Record] = field(default_factory=dict)

    def used(self) -> int:
        """Permits held."""
        return sum(held.claim.permits for held in self.held.values())

    def was_replaced(self, *tokens: str) -> bool:
        """Return whether a newcomer took the lease of one of these tokens."""
        return any(token in self.taken and self.taken[token][0] == "replaced" for token in tokens)

    def leave(self, token: str) -> bool:
        """Takes a token out of line. Returns whether it stood there."""
        self.numbers.pop(token, None)
        return self.line.pop(token, None) is not None


class MemoryLocks:
    """The locks of this process. Its methods are called under its mutex.

    Args:
        clock: What deadlines are measured by; tests pass one that they can move.
    """

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._locks: dict[str, Lock] = {}
        self._last_fencing_token = 0
        self._last_number = 0
        self._tasks: dict[str, tuple[str, str]] = {}
        #: name → text, and until when it is kept
        self._values: dict[str, tuple[str, float]] = {}
        self._changed = threading.Condition(threads.RLock())
        #: This process's notices by its number, which a fork changes, and by the prefix of names.
        self._feeds: dict[tuple[str, str], LocalFeed] = {}

    def grant(self, lock: Lock, claim: Claim) -> Granted:
        """Take permits, also where others hold them."""
        now = self._clock.now()
        self._last_fencing_token += 1
        lock.held[claim.token] = Held(claim, self._last_fencing_token, now, now + claim.ttl)
        if claim.task_id:
            self._tasks[claim.task_id] = (claim.name, claim.token)
        return Granted(self._last_fencing_token)

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

    def current(self, name: str) -> Lock:
        """The lock without the holders and waiters whose deadline has passed."""
        now, lock = self._clock.now(), self._locks.setdefault(name, Lock())
        lock.held = {token: held for token, held in lock.held.items() if held.deadline > now}
        for token in [token for token, deadline in lock.line.items() if deadline <= now]:
            lock.leave(token)
        lock.taken = {token: taken for token, taken in lock.taken.items() if taken[1] > now}
        lock.tickets = {id: record for id, record in lock.tickets.items() if record.deadline > now}
        lock.called &= lock.line.keys()
        return lock

    def forget(self, name: str) -> None:
        """Forgets a lock that nothing is known of."""
        lock = self._locks.get(name, Lock())
        if not (lock.held or lock.line or lock.taken or lock.tickets):
            self._locks.pop(name, None)

    def call_waiter(self, lock: Lock) -> None:
        """Tells the first in line, if it is a waiter and no ticket."""
        head = next(iter(lock.line), None)
        if head is not None and not head.startswith(TICKET):
            lock.called.add(head)
            self._changed.notify_all()

    @staticmethod
    def refused(lock: Lock, token: str, now: float) -> Refused:
        holders = MemoryLocks.holders_of(lock, now)
        line = list(lock.line)
        position = line.index(token) if token in lock.line else None
        if position:  # someone stands before: only their place's end could change anything unannounced
            retry_in = lock.line[line[position - 1]] - now
        elif holders:
            retry_in = min(held.deadline for held in lock.held.values()) - now
        else:
            # No one is in line: more permits were asked for than there are.
            retry_in = min(lock.line.values(), default=now + 1) - now
        return Refused(holders, retry_in, position)

    @staticmethod
    def holders_of(lock: Lock, now: float, only: str = "") -> tuple[Holder, ...]:
        """Return the holders of a lock, or only the one with a token."""
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
            for token, held in list(lock.held.items())[: None if only else MOST_HOLDERS]
            if only in ("", token)
        )

    def wake_sweepers(self) -> None:
        """Have each sweeper that waits look again: a ticket may be due earlier than what it waits for."""
        self._changed.notify_all()
