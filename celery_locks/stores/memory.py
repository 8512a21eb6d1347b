"""``memory://``: leases in this process, for tests and for the small model that other stores are held against."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from celery_locks.clock import Clock, system_clock
from celery_locks.errors import LossReason
from celery_locks.stores.base import MOST_HOLDERS, Claim, Granted, Holder, Refused, Renewal, Store


@dataclass
class _Held:
    claim: Claim
    fencing_token: int
    since: float
    deadline: float


@dataclass
class _Lock:
    held: dict[str, _Held] = field(default_factory=dict)
    #: token → deadline of the place, in the order of coming
    line: dict[str, float] = field(default_factory=dict)
    #: tokens whose turn it may be and who have not noticed yet
    called: set[str] = field(default_factory=set)


class MemoryStore(Store):
    """Leases in a dictionary.

    Args:
        clock: What deadlines are measured by; tests pass one that they can move.
    """

    wakes = True
    shared = False

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._locks: dict[str, _Lock] = {}
        self._last_fencing_token = 0
        self._changed = threading.Condition()

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        with self._changed:
            now, lock = self._clock.now(), self._current(claim.name)
            if (mine := lock.held.get(claim.token)) is not None:
                mine.deadline = max(mine.deadline, now + claim.ttl)
                return Granted(mine.fencing_token)
            free = claim.limit - sum(held.claim.permits for held in lock.held.values())
            if free >= claim.permits and next(iter(lock.line), claim.token) == claim.token:
                lock.line.pop(claim.token, None)
                self._last_fencing_token += 1
                held = _Held(claim, self._last_fencing_token, now, now + claim.ttl)
                lock.held[claim.token] = held
                if free > claim.permits:
                    self._call_next(lock)
                return Granted(held.fencing_token)
            if line_up is not None:
                lock.line[claim.token] = now + line_up
            refused = self._refused(lock, claim, now)
            self._forget(claim.name)
            return refused

    def leave(self, name: str, token: str) -> None:
        with self._changed:
            lock = self._current(name)
            if lock.line.pop(token, None) is not None:
                self._call_next(lock)
            self._forget(name)

    def wait(self, name: str, token: str, timeout: float) -> None:
        def called() -> bool:
            lock = self._locks.get(name)
            return lock is None or token in lock.called

        with self._changed:
            if self._changed.wait_for(called, timeout) and (lock := self._locks.get(name)):
                lock.called.discard(token)

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        with self._changed:
            return [self._renew(renewal) for renewal in renewals]

    def _renew(self, renewal: Renewal) -> LossReason | None:
        expired = renewal.token in self._locks.get(renewal.name, _Lock()).held
        now, lock = self._clock.now(), self._current(renewal.name)
        held = lock.held.get(renewal.token)
        if held is not None:
            held.deadline = max(held.deadline, now + renewal.ttl)
            return None
        stolen = bool(lock.held)
        self._forget(renewal.name)
        return "expired" if expired else "stolen" if stolen else "deleted"

    def release(self, name: str, token: str) -> bool:
        with self._changed:
            lock = self._current(name)
            released = lock.held.pop(token, None) is not None
            if released:
                self._call_next(lock)
            self._forget(name)
            return released

    def force_release(self, name: str) -> tuple[Holder, ...]:
        with self._changed:
            lock = self._current(name)
            holders = self._holders(lock, self._clock.now())
            lock.held.clear()
            self._call_next(lock)
            self._forget(name)
            return holders

    def holders(self, name: str) -> tuple[Holder, ...]:
        with self._changed:
            holders = self._holders(self._current(name), self._clock.now())
            self._forget(name)
            return holders

    def held(self, name: str) -> int:
        with self._changed:
            permits = sum(held.claim.permits for held in self._current(name).held.values())
            self._forget(name)
            return permits

    def ping(self) -> None:
        pass

    def _current(self, name: str) -> _Lock:
        """The lock without the holders and waiters whose deadline has passed."""
        now, lock = self._clock.now(), self._locks.setdefault(name, _Lock())
        lock.held = {token: held for token, held in lock.held.items() if held.deadline > now}
        lock.line = {token: deadline for token, deadline in lock.line.items() if deadline > now}
        lock.called &= lock.line.keys()
        return lock

    def _call_next(self, lock: _Lock) -> None:
        if lock.line:
            lock.called.add(next(iter(lock.line)))
            self._changed.notify_all()

    def _forget(self, name: str) -> None:
        lock = self._locks[name]
        if not lock.held and not lock.line:
            del self._locks[name]

    @staticmethod
    def _refused(lock: _Lock, claim: Claim, now: float) -> Refused:
        holders = MemoryStore._holders(lock, now)
        line = list(lock.line)
        position = line.index(claim.token) if claim.token in lock.line else None
        if position:  # someone stands before: only their place's end could change anything unannounced
            retry_in = lock.line[line[position - 1]] - now
        elif holders:
            retry_in = min(held.deadline for held in lock.held.values()) - now
        else:
            # Nobody in line either: more permits were asked for than there are.
            retry_in = min(lock.line.values(), default=now + claim.ttl) - now
        return Refused(holders, retry_in, position)

    @staticmethod
    def _holders(lock: _Lock, now: float) -> tuple[Holder, ...]:
        return tuple(
            Holder(
                held.claim.owner,
                held.fencing_token,
                held.claim.permits,
                now - held.since,
                held.deadline - now,
                token,
            )
            for token, held in list(lock.held.items())[:MOST_HOLDERS]
        )


_named: dict[str, MemoryStore] = {}


def open_memory(url: str) -> MemoryStore:
    """``memory://`` or ``memory://name``: the same URL is the same store within a process."""
    return _named.setdefault(url, MemoryStore())
