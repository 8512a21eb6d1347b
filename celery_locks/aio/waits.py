"""Coroutines that stand in line, for all of whom a few threads wait in the store.

A thread waits for a *group* of them by `Store.wait_any`. The store says how large a group may be, and who can be in one
together (the *kind*). A newcomer can't join a group that is being waited for, so it gets a thread of its own at once;
groups that are not full end together ten times a second, and become one. So a thousand coroutines need some ten threads
on Redis, and one that is alone is waited for without a break. Where groups are more than threads, they take turns.
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

#: How many threads wait at most. More coroutines than they can wait for take turns.
MOST_THREADS = 32
#: So many groups may be small: nothing is gained by making them one.
FEW_THREADS = 4
#: For how many seconds a group is waited for, where nothing is to be gained from another grouping, and else.
LONG, SHORT = 2.0, 0.1
#: Groups that become one wait for each other for so many seconds.
GATHER = 0.003
#: For how many seconds it is known that a token was woken for which nobody waited.
MISSED = 60.0
#: A thread with nothing to do ends after so many seconds.
IDLE = 10.0


class Place:
    """A coroutine that stands in line. Its methods are called on its loop, unless they say otherwise."""

    def __init__(self, waits: Waits, store: Store, name: str, token: str, woken: bool) -> None:
        self.store = store
        self.name = name
        self.token = token
        #: With whom it can be waited for.
        self.kind = store.waits_with(name)
        #: Whether a thread waits for it, or is about to.
        self.armed = False
        self.gone = False
        self._waits = waits
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._woken = woken

    async def wait(self, timeout: float) -> None:
        """Waits until it may be its turn, for so many seconds at most.

        Raises:
            StoreUnavailable: The store can't be reached.
        """
        if self._woken:  # while it looked
            self._woken = False
            return
        self._future = self._loop.create_future()
        timer = self._loop.call_later(timeout, self._end)
        self._waits.arm(self)
        try:
            await self._future
        finally:
            timer.cancel()
            self._future = None

    def wake(self, error: Exception | None = None) -> None:
        """Ends its waiting; may be called by any thread."""
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._told, error)

    def _told(self, error: Exception | None) -> None:
        if self._future is None or self._future.done():
            self._woken = self._woken or error is None  # the look that is under way finds out about errors itself
        else:
            self._end(error)

    def _end(self, error: Exception | None = None) -> None:
        if self._future is None or self._future.done():
            return
        if error is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(copy.copy(error))  # each raises one of its own


class Waits:
    """All who stand in line in one store."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: To be waited for: the kind whose turn is next comes first.
        self._pending: dict[Hashable, deque[Place]] = {}
        #: How many groups of each kind threads have in hand.
        self._groups: Counter[Hashable] = Counter()
        #: By token: a place that is gone may still be waited for when its token (a ticket's) comes back.
        self._places: dict[str, Place] = {}
        #: Tokens that were woken when they had no place here, and when.
        self._missed: dict[str, float] = {}
        self._threads = 0
        self._idle = 0
        self._closed = False

    def close(self) -> None:
        """End the threads as soon as no coroutine waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def add(self, store: Store, name: str, token: str) -> Place:
        """A place for the running loop; to be removed when it is given up."""
        with self._changed:
            place = Place(self, store, name, token, self._missed.pop(token, None) is not None)
            self._places[token] = place
        return place

    def remove(self, place: Place) -> None:
        with self._changed:
            place.gone = True
            if self._places.get(place.token) is place:
                del self._places[place.token]

    def arm(self, place: Place) -> None:
        """Sees to it that a thread waits for it."""
        with self._changed:
            if not place.armed:
                place.armed = True
                self._line_up(place)
                self._call_thread()

    # ------------------------------------------------------------------ in threads

    def _call_thread(self) -> None:
        if self._idle:
            self._changed.notify()
        elif self._threads < MOST_THREADS:
            threads.start(self._run, "celery-locks-waits")
            self._threads += 1

    def _line_up(self, place: Place) -> None:
        self._pending.setdefault(place.kind, deque()).append(place)

    def _run(self) -> None:
        while group := self._take():
            self._wait_for(group)
            self._put_down(group)

    def _take(self) -> list[Place]:
        """Those to be waited for next; nobody when there was nobody for a long time."""
        idle_until = system_clock.now() + IDLE
        with self._changed:
            while not (group := self._next()):
                left = idle_until - system_clock.now()
                if left <= 0 or self._closed:
                    self._threads -= 1
                    return []
                self._idle += 1
                self._changed.wait(left)
                self._idle -= 1
            if self._pending:
                self._call_thread()
            self._groups[group[0].kind] += 1
            return group

    def _put_down(self, group: list[Place]) -> None:
        kind = group[0].kind
        with self._changed:
            self._groups[kind] -= 1
            if not self._groups[kind]:
                del self._groups[kind]

    def _next(self) -> list[Place]:
        group: list[Place] = []
        while self._pending and not group:
            kind = next(iter(self._pending))
            places = self._pending.pop(kind)
            while places and not _full(group):
                place = places.popleft()
                if not place.gone:
                    group.append(place)
            if places:
                self._pending[kind] = places  # the other kinds come first
        return group

    def _wait_for(self, group: list[Place]) -> None:
        error: Exception | None = None
        try:
            tokens = group[0].store.wait_any([(place.name, place.token) for place in group], self._seconds(group))
        except Exception as raised:  # told to those who wait; a thread that ended would leave all others waiting
            error, tokens = raised, [place.token for place in group]
        with self._changed:
            woken = [place for place in group if place.token in tokens]
            for place in woken:
                place.armed = False
            # Whose turn it may be is no longer waited for until it waits again: it will be told, and look.
            # The others go behind those for whom nobody waits yet.
            for place in group:
                if place.armed:
                    self._line_up(place)
            live = [self._places.get(place.token, place) for place in woken]
            self._miss([place.token for place in live if place.gone])
        for place in live:
            place.wake(error)
        if self._closed:
            group[0].store.close()  # this wait may have connected it anew
        elif self._to_be_joined(group):
            time.sleep(GATHER)

    def _miss(self, tokens: list[str]) -> None:
        now = system_clock.now()
        while self._missed and next(iter(self._missed.values())) < now - MISSED:
            del self._missed[next(iter(self._missed))]
        self._missed.update(dict.fromkeys(tokens, now))

    def _seconds(self, group: list[Place]) -> float:
        period = SHORT if self._pending or self._to_be_joined(group) else LONG
        return max(GATHER, period - system_clock.now() % period)  # so that all end together

    def _to_be_joined(self, group: list[Place]) -> bool:
        return self._threads - self._idle > FEW_THREADS and self._groups[group[0].kind] > 1 and not _full(group)


def _full(group: list[Place]) -> bool:
    return bool(group) and len(group) >= group[0].store.waits_for
