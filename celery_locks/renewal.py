"""Renewal: one renewer a process, that prolongs all leases which are due in one round trip to their store.

Two kinds of thread, made at the first lease and made anew in a forked child, never one a lease:

* a *renewer* for each store talks to it, and may hang as long as the store does;
* the *watch* talks to nobody, and tells the leases whose deadline has passed that they are lost.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from celery_locks.errors import LockError, LossReason, StoreUnavailable
from celery_locks.lease import Lease
from celery_locks.stores.base import Renewal, Store

logger = logging.getLogger(__name__)

#: A thread with nothing to do ends after so many seconds, and is started anew when there is something.
IDLE = 60.0
#: A renewal or release that failed is tried again after so many seconds.
TRY_AGAIN = 0.25
#: Leases due within so many seconds are renewed with those that are due.
SLACK = 0.05


class Ticker:
    """A daemon thread that calls ``tick`` when it is time.

    Args:
        name: The thread's name.
        tick: Does what is due and returns the seconds until something is due again, or ``None`` for nothing.
    """

    def __init__(self, name: str, tick: Callable[[], float | None]) -> None:
        self._name = name
        self._tick = tick
        self._next = float("inf")
        self._running = False
        self._changed = threading.Condition(threading.Lock())

    def wake_in(self, seconds: float) -> None:
        """Ticks in so many seconds at the latest."""
        due = time.monotonic() + seconds
        if self._running and due >= self._next:
            return  # The usual case, without a lock: it wakes before that anyhow, and looks again.
        with self._changed:
            self._next = min(self._next, due)
            if self._running:
                self._changed.notify()
            else:
                # Only then running: where no thread can be started now, the next call tries again.
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
                self._running = True

    def _run(self) -> None:
        while self._sleep():
            # From here on a `wake_in` counts from now; one that came before is seen by this tick.
            seconds = self._tick_safely()
            if seconds is not None:
                self.wake_in(max(seconds, 0.001))

    def _sleep(self) -> bool:
        """Waits until it is time. Returns whether to go on: ``False`` after a long time with nothing to do."""
        idle_until = time.monotonic() + IDLE
        with self._changed:
            while (now := time.monotonic()) < self._next:
                if self._next == float("inf") and now >= idle_until:
                    self._running = False
                    return False
                self._changed.wait(min(self._next, idle_until) - now)
            self._next = float("inf")
            return True

    def _tick_safely(self) -> float | None:
        try:
            return self._tick()
        except BaseException:  # A thread that dies would leave every lease to its ttl.
            logger.exception("%s failed; it goes on", self._name)
            return TRY_AGAIN


class Watch:
    """Tells leases whose deadline has passed that they are lost. Does no I/O, so no store can hold it up."""

    def __init__(self) -> None:
        # By identity: a lease that was restored in the process of its holder has the same token, and a life of its own.
        self._leases: dict[int, Lease] = {}
        self._by_token: dict[str, Lease] = {}
        self._ticker = Ticker("celery-locks-watch", self.tick)

    def add(self, lease: Lease) -> None:
        self._leases[id(lease)] = lease
        self._by_token.setdefault(lease.token, lease)
        self._ticker.wake_in(lease.remaining())

    def discard(self, lease: Lease) -> None:
        self._leases.pop(id(lease), None)
        if self._by_token.get(lease.token) is lease:
            self._by_token.pop(lease.token, None)

    def lease(self, token: str) -> Lease | None:
        return self._by_token.get(token)

    def tick(self) -> float | None:
        leases = list(self._leases.values())
        return min((lease.remaining() for lease in leases if not lease.lost), default=None)


@dataclass
class _Renewed:
    """A lease under renewal: every ``interval`` seconds, next ``at`` a moment of its clock."""

    lease: Lease
    interval: float
    at: float

    def due_in(self) -> float:
        return self.at - self.lease.clock.now()


@dataclass
class _Release:
    """A release to be tried until a moment of ``time.monotonic()``."""

    release: Callable[[], object]
    until: float


class Renewer:
    """Prolongs the leases of one store."""

    def __init__(self) -> None:
        self._leases: dict[int, _Renewed] = {}
        self._releases: dict[str, _Release] = {}
        self._ticker = Ticker("celery-locks-renewer", self.tick)

    def add(self, lease: Lease, interval: float) -> None:
        self._leases[id(lease)] = _Renewed(lease, interval, lease.clock.now() + interval)
        self._ticker.wake_in(interval)

    def discard(self, lease: Lease) -> None:
        self._leases.pop(id(lease), None)

    def release_later(self, token: str, release: Callable[[], object], within: float) -> None:
        """Releases what could not be released now, trying for so many seconds."""
        self._releases[token] = _Release(release, time.monotonic() + within)
        self._ticker.wake_in(TRY_AGAIN)

    def tick(self) -> float | None:
        """Renews what is due. Returns the seconds until something is due again."""
        due = [renewed for renewed in list(self._leases.values()) if renewed.due_in() <= SLACK and self._alive(renewed)]
        if due:
            self._renew(due)
        self._release()
        waits = [renewed.due_in() for renewed in list(self._leases.values())]
        waits += [TRY_AGAIN] if self._releases else []
        return min(waits, default=None)

    def _renew(self, due: list[_Renewed]) -> None:
        sent = [renewed.lease.clock.now() for renewed in due]
        renewals = [renewed.lease.renewal(at) for renewed, at in zip(due, sent, strict=True)]
        answers = self._ask(due[0].lease.store, renewals)
        for index, renewed in enumerate(due):
            if answers is None:
                renewed.at = renewed.lease.clock.now() + min(renewed.interval, TRY_AGAIN)
            else:
                renewed.at = sent[index] + renewed.interval
                renewed.lease.answer(sent[index], renewals[index].ttl, answers[index])

    def _alive(self, renewed: _Renewed) -> bool:
        # One that ended is renewed no more, however it came to be still here: nobody would ever release it.
        if renewed.lease.remaining() > 0:
            return True
        self.discard(renewed.lease)
        return False

    def _release(self) -> None:
        for token, release in list(self._releases.items()):
            if self._released(release):
                self._releases.pop(token, None)
                continue
            # The rest would fail as well, and renewals must not wait for it. But another is first the next time.
            if self._releases.pop(token, None) is not None:
                self._releases[token] = release
            break
        now = time.monotonic()
        for token, release in list(self._releases.items()):
            if now >= release.until:
                self._releases.pop(token, None)

    @staticmethod
    def _ask(store: Store, renewals: list[Renewal]) -> list[LossReason | None] | None:
        try:
            return store.renew(renewals)
        except StoreUnavailable as error:
            logger.warning("%d leases could not be renewed, trying again: %s", len(renewals), error)
        except Exception:
            logger.exception("%d leases could not be renewed, trying again", len(renewals))
        return None

    @staticmethod
    def _released(release: _Release) -> bool:
        try:
            release.release()
            return True
        except LockError:
            return False
        except Exception:
            logger.exception("a lease could not be released, trying again")
            return False


class Keeper:
    """All renewal of a process."""

    def __init__(self) -> None:
        self._watch = Watch()
        self._renewers: dict[int, Renewer] = {}

    def keep(self, lease: Lease, interval: float | None) -> None:
        """Watches a lease's deadline and, with an ``interval`` in seconds, renews it that often."""
        lease.forget = self.forget
        self._watch.add(lease)
        if interval is not None:
            self._renewer(lease.store).add(lease, interval)

    def forget(self, lease: Lease) -> None:
        """Neither watches nor renews it any more."""
        self._watch.discard(lease)
        self._renewer(lease.store).discard(lease)

    def kept(self, token: str) -> Lease | None:
        """The lease with this owner token, as long as it is watched."""
        return self._watch.lease(token)

    def release_later(self, store: Store, name: str, token: str, within: float) -> None:
        """Gives up a holding or a place in line in the background, trying for so many seconds."""

        def release() -> None:
            store.leave(name, token)
            store.release(name, token)

        self._renewer(store).release_later(token, release, within)

    def release_lease_later(self, lease: Lease, within: float) -> None:
        """Releases a lease in the background, trying for so many seconds."""
        self._renewer(lease.store).release_later(lease.token, lease.release, within)

    def tick(self) -> None:
        """Does now what is due, in this thread (for tests with a clock that they move)."""
        for part in self._parts():
            part.tick()

    def _parts(self) -> Iterable[Watch | Renewer]:
        return [*self._renewers.values(), self._watch]

    def _renewer(self, store: Store) -> Renewer:
        # By the store's identity, and kept: a process has few stores.
        renewer = self._renewers.get(id(store))
        return self._renewers.setdefault(id(store), Renewer()) if renewer is None else renewer


_keeper = Keeper()


def keeper() -> Keeper:
    """The keeper of this process."""
    return _keeper


def _in_forked_child() -> None:
    # Threads do not survive a fork; leases taken before it stay the parent's to renew.
    global _keeper
    _keeper = Keeper()


os.register_at_fork(after_in_child=_in_forked_child)
