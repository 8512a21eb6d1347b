"""``memory://``: leases in this process, for tests and for the small model that other stores are held against."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from celery_locks._runtime.tokens import process_number, process_of
from celery_locks.errors import LossReason
from celery_locks.stores.base import Store
from celery_locks.stores.loss_feed import LocalFeed, LossFeed
from celery_locks.stores.memory.listing import MemoryListing
from celery_locks.stores.memory.state import Lock
from celery_locks.stores.memory.tickets import MemoryParking
from celery_locks.stores.types import (
    MOST_TAKEN,
    TAKEN_KNOWN_SECONDS,
    Claim,
    Granted,
    Holder,
    Refused,
    Renewal,
    Value,
)


class MemoryStore(MemoryParking, MemoryListing, Store):
    """Leases in a dictionary.

    Args:
        clock: What deadlines are measured by; tests pass one that they can move.
    """

    wakes = True
    waits_for = 1_000
    values = True
    notices = True
    shared = False
    machines = False

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        with self._changed:
            now, lock = self._clock.now(), self.current(claim.name)
            if (mine := lock.held.get(claim.token)) is not None:
                mine.deadline = max(mine.deadline, now + claim.ttl)
                return Granted(mine.fencing_token)
            if (claim.adopts or claim.replaces) and lock.was_replaced(claim.adopts, claim.token):
                refused = self.refused(lock, claim.token, now)._replace(replaced=True)
                self.forget(claim.name)
                return refused
            adopted = lock.held.get(claim.adopts)
            if adopted is not None and _fits_instead(lock, claim, adopted.claim.permits):
                granted = self.grant(lock, claim)  # first: whatever interrupts this, one of the two holds
                del lock.held[claim.adopts]
                lock.leave(claim.token)
                if claim.permits < adopted.claim.permits:
                    self._call_next(lock)
                return granted
            if claim.replaces and claim.permits <= claim.limit:
                self._replace(lock, claim)
            free = claim.limit - lock.used()
            if free >= claim.permits and (claim.replaces or next(iter(lock.line), claim.token) == claim.token):
                lock.leave(claim.token)
                granted = self.grant(lock, claim)
                if free > claim.permits:
                    self._call_next(lock)
                return granted
            full = claim.token not in lock.line and 0 < claim.max_waiters <= len(lock.line)
            if line_up is not None and not full:
                self.stand(lock, claim.token, self.next_number(), now + line_up)
            refused = self.refused(lock, claim.token, now)
            self.forget(claim.name)
            return refused if line_up is None or not full else refused._replace(full=True)

    def _replace(self, lock: Lock, claim: Claim) -> None:
        for token in list(lock.held):
            if lock.used() + claim.permits <= claim.limit:
                return
            self._take_away(lock, claim.name, token, "replaced")

    def _take_away(self, lock: Lock, name: str, token: str, reason: LossReason) -> None:
        """End a lease by force, and notify its process."""
        lock.taken[token] = reason, lock.held.pop(token).deadline + TAKEN_KNOWN_SECONDS
        if process_of(token) == process_number():
            self._feed(name).put(token)

    def loss_feed(self, name: str, process: str) -> LossFeed:
        return self._feed(name)

    def _feed(self, name: str) -> LocalFeed:
        place = process_number(), name.partition("{")[0]
        return self._feeds.setdefault(place, LocalFeed()) if place not in self._feeds else self._feeds[place]

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
        # A lock that is free stays known for its tickets and for leases that were taken by force.
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
        stolen, taken = bool(lock.held), lock.taken.get(renewal.token)
        self.forget(renewal.name)
        if taken is not None:
            return taken[0]
        return "expired" if expired else "stolen" if stolen else "deleted"

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        with self._changed:
            lock = self.current(name)
            released = self.end_lease(lock, name, token, "again", value)
            self._call_next(lock)
            self.forget(name)
            return released

    def shrink(self, name: str, token: str, permits: int) -> bool:
        with self._changed:
            lock = self.current(name)
            held = lock.held.get(token)
            if held is not None and held.claim.permits > permits:
                held.claim = replace(held.claim, permits=permits)
                self._call_next(lock)
            self.forget(name)
            return held is not None

    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        with self._changed:
            lock = self.current(name)
            holders = self.holders_of(lock, self._clock.now(), token)
            for each in [token] if token else list(lock.held)[:MOST_TAKEN]:
                if each in lock.held:
                    self._take_away(lock, name, each, "force_released")
            if not token:
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


def _fits_instead(lock: Lock, claim: Claim, permits: int) -> bool:
    """Return whether a claim's permits fit in the place of these: then no more are held than before, or than may be."""
    return claim.permits <= permits or lock.used() - permits + claim.permits <= claim.limit


_named: dict[str, MemoryStore] = {}


def open_memory(url: str) -> MemoryStore:
    """``memory://`` or ``memory://name``: the same URL is the same store within a process."""
    return _named.setdefault(url, MemoryStore())
