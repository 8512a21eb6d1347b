"""Coroutines that stand in line. A few threads wait in the store for all of them.

A thread waits for a *group* of waiters by `Store.wait_any`. The store defines the largest size of a group, and which
waiters can share a group: those of the same *kind*. A new waiter can't join a group whose wait has begun, so another
thread waits for it immediately. Groups that are not full end their waits together, ten times a second, and merge. So a
thousand coroutines need about ten threads on Redis, and the wait for a single waiter is not interrupted. If there are
more groups than threads, the groups take turns.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections import Counter, deque
from collections.abc import Hashable
from contextlib import suppress

from celery_locks._runtime import threads
from celery_locks._runtime.clock import system_clock
from celery_locks.stores.base import Store

#: The highest number of threads. If they can't wait for all groups, the groups take turns.
MOST_THREADS = 32
#: Up to this number of threads, groups are not merged.
FEW_THREADS = 4
#: How long one wait for a group lasts, and how long if groups could be merged or have to take turns.
WAIT_SECONDS, SHORT_WAIT_SECONDS = 2.0, 0.1
#: How long a thread pauses for the waits of groups that can merge with its own to end.
MERGE_SECONDS = 0.003
#: How long a wake-up is remembered that arrived while no thread waited for its token.
MISSED_SECONDS = 60.0
#: An idle thread ends after this time.
IDLE_SECONDS = 10.0


class Waiter:
    """A coroutine that stands in line. Its methods must be called on its loop, except `wake`."""

    def __init__(self, groups: WaitGroups, store: Store, name: str, token: str, woken: bool) -> None:
        self.store = store
        self.name = name
        self.token = token
        #: A group has waiters of the same kind.
        self.kind = store.waits_with(name)
        #: Whether a thread waits for it, or is about to.
        self.armed = False
        self.gone = False
        self._groups = groups
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._woken = woken

    async def wait(self, timeout: float) -> None:
        """Wait until its turn may have come, for ``timeout`` seconds at most.

        Raises:
            StoreUnavailable: The store can't be reached.
        """
        if self._woken:  # during its last request
            self._woken = False
            return
        self._future = self._loop.create_future()
        timer = self._loop.call_later(timeout, self._end)
        self._groups.arm(self)
        try:
            await self._future
        finally:
            timer.cancel()
            self._future = None

    def wake(self, error: Exception | None = None) -> None:
        """End its wait. Any thread may call this."""
        with suppress(RuntimeError):  # the loop is closed, so no coroutine waits
            self._loop.call_soon_threadsafe(self._on_wake, error)

    def _on_wake(self, error: Exception | None) -> None:
        if self._future is None or self._future.done():
            self._woken = self._woken or error is None  # the current request meets an error of the store by itself
        else:
            self._end(error)

    def _end(self, error: Exception | None = None) -> None:
        if self._future is None or self._future.done():
            return
        if error is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(copy.copy(error))  # one error for each waiter, with a traceback of its own


class WaitGroups:
    """The waiters of one store, in groups, and the threads that wait for the groups."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: Waiters that no thread waits for yet, by kind: the kind whose turn is next is the first.
        self._pending: dict[Hashable, deque[Waiter]] = {}
        #: How many groups of each kind have a thread.
        self._groups: Counter[Hashable] = Counter()
        #: By token. When a ticket's token waits again, a thread may still wait for the waiter that it had before.
        self._waiters: dict[str, Waiter] = {}
        #: Tokens that were woken while they had no waiter here, and when.
        self._missed: dict[str, float] = {}
        self._threads = 0
        self._idle = 0
        self._closed = False

    def close(self) -> None:
        """End the threads as soon as no coroutine waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def add(self, store: Store, name: str, token: str) -> Waiter:
        """Return a waiter for the running loop. The caller has to remove it."""
        with self._changed:
            waiter = Waiter(self, store, name, token, self._missed.pop(token, None) is not None)
            self._waiters[token] = waiter
        return waiter

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter."""
        with self._changed:
            waiter.gone = True
            if self._waiters.get(waiter.token) is waiter:
                del self._waiters[waiter.token]

    def arm(self, waiter: Waiter) -> None:
        """Let a thread wait for a waiter."""
        with self._changed:
            if not waiter.armed:
                waiter.armed = True
                self._add_pending(waiter)
                self._wake_thread()

    # --- The threads ---

    def _wake_thread(self) -> None:
        if self._idle:
            self._changed.notify()
        elif self._threads < MOST_THREADS:
            threads.start(self._run, "celery-locks-waits")
            self._threads += 1

    def _add_pending(self, waiter: Waiter) -> None:
        self._pending.setdefault(waiter.kind, deque()).append(waiter)

    def _run(self) -> None:
        while group := self._take_group():
            self._wait_for(group)
            kind = group[0].kind
            with self._changed:
                self._groups[kind] -= 1
                if not self._groups[kind]:
                    del self._groups[kind]

    def _take_group(self) -> list[Waiter]:
        """Return the next group, an empty one to end the thread."""
        idle_until = system_clock.now() + IDLE_SECONDS
        with self._changed:
            while not (group := self._next_group()):
                left = idle_until - system_clock.now()
                if left <= 0 or self._closed:
                    self._threads -= 1
                    return []
                self._idle += 1
                self._changed.wait(left)
                self._idle -= 1
            if self._pending:
                self._wake_thread()
            self._groups[group[0].kind] += 1
            return group

    def _next_group(self) -> list[Waiter]:
        group: list[Waiter] = []
        while self._pending and not group:
            kind = next(iter(self._pending))
            waiters = self._pending.pop(kind)
            while waiters and not _is_full(group):
                waiter = waiters.popleft()
                if not waiter.gone:
                    group.append(waiter)
            if waiters:
                self._pending[kind] = waiters  # after the other kinds
        return group

    def _wait_for(self, group: list[Waiter]) -> None:
        error: Exception | None = None
        try:
            tokens = group[0].store.wait_any([(waiter.name, waiter.token) for waiter in group], self._seconds(group))
        except Exception as raised:  # for the waiters: the thread has to go on and wait for other groups
            error, tokens = raised, [waiter.token for waiter in group]
        with self._changed:
            woken = [waiter for waiter in group if waiter.token in tokens]
            for waiter in woken:
                waiter.armed = False
            # No thread waits for a woken waiter until it waits again: first it sends a request.
            # The others go behind the waiters that no thread waits for yet.
            for waiter in group:
                if waiter.armed:
                    self._add_pending(waiter)
            current = [self._waiters.get(waiter.token, waiter) for waiter in woken]
            self._remember_missed([waiter.token for waiter in current if waiter.gone])
        for waiter in current:
            waiter.wake(error)
        if self._closed:
            group[0].store.close()  # this wait may have connected it again
        elif self._can_merge(group):
            time.sleep(MERGE_SECONDS)

    def _remember_missed(self, tokens: list[str]) -> None:
        now = system_clock.now()
        while self._missed and next(iter(self._missed.values())) < now - MISSED_SECONDS:
            del self._missed[next(iter(self._missed))]
        self._missed.update(dict.fromkeys(tokens, now))

    def _seconds(self, group: list[Waiter]) -> float:
        period = SHORT_WAIT_SECONDS if self._pending or self._can_merge(group) else WAIT_SECONDS
        return max(MERGE_SECONDS, period - system_clock.now() % period)  # so that all waits end together

    def _can_merge(self, group: list[Waiter]) -> bool:
        return self._threads - self._idle > FEW_THREADS and self._groups[group[0].kind] > 1 and not _is_full(group)


def _is_full(group: list[Waiter]) -> bool:
    return bool(group) and len(group) >= group[0].store.waits_for
