"""Queries for the turns of waiters in MySQL and MariaDB: one thread of a process asks for all its waiters.

A query reads the first in line of each lock, so its cost does not grow with the line. The same thread keeps the places
of the waiters, many in one transaction.
"""

from __future__ import annotations

import copy
import heapq
import random
import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from math import inf

from celery_locks._runtime.clock import monotonic
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.sql.database import Database
from celery_locks.stores.sql.dialects import Connection, rows_of
from celery_locks.stores.sql.session import SET_BACK, microseconds
from celery_locks.stores.sql.store import (
    FIRST_QUERY_PAUSE_SECONDS,
    LONGEST_QUERY_PAUSE_SECONDS,
    SHORTEST_KEPT_MICROSECONDS,
)

#: The most locks of one query, and the most places that one transaction keeps.
MOST_NAMES, MOST_PLACES = 100, 500
#: Places are kept up to this many seconds early, so that one transaction keeps many.
EARLY_SECONDS = 0.5
#: Seconds until the next try to keep places, at most.
RETRY_SECONDS = 1.0
#: The longest that a waiting thread blocks. An asynchronous exception can interrupt it only in between.
LONGEST_BLOCK_SECONDS = 0.5
#: The thread ends after this many seconds without waiters.
IDLE_SECONDS = 5.0
#: A wait that an exception has interrupted may remain. It ends this many seconds after its timeout.
REMAINING_SECONDS = 1.0

_MOMENTS = (
    "SELECT p.name, greatest(coalesce(l.touched, 0), CLOCK) AS now, CLOCK AS clock, l.token, l.permits, l.deadline "
    "FROM ({names}) p LEFT JOIN celery_locks_lock l ON l.name = p.name"
)
_FIRST = "(SELECT w.{} FROM celery_locks_waiter w WHERE w.name = m.name AND w.deadline > m.now ORDER BY w.id LIMIT 1)"
# Of each lock: the first in line, the permits and the limit of its claim, and the permits in use.
_HEADS = f"""
SELECT m.name, {_FIRST.format("token")}, {_FIRST.format("permits")}, {_FIRST.format("most")},
  (SELECT coalesce(sum(h.permits), 0) FROM celery_locks_holder h WHERE h.name = m.name AND h.deadline > m.now)
  + CASE WHEN m.token <> '' AND m.deadline > m.now THEN m.permits ELSE 0 END
FROM ({_MOMENTS}) m
"""


class _Place:
    """A place in line that was there at its last request.

    Attributes:
        seconds: For how many seconds a request keeps it.
        keep_at: When to keep it for longer, by the machine's clock.
        planned: Whether it is among the places to keep.
    """

    __slots__ = ("keep_at", "name", "planned", "seconds", "token")

    def __init__(self, name: str, token: str) -> None:
        self.name, self.token = name, token
        self.seconds = self.keep_at = 0.0
        self.planned = False

    def __lt__(self, other: _Place) -> bool:
        return self.keep_at < other.keep_at


class _Wait:
    """A thread that waits for some tokens.

    Attributes:
        until: When it ends, by the machine's clock.
        found: The tokens whose turn it may be.
    """

    __slots__ = ("error", "event", "found", "places", "until")

    def __init__(self, places: Collection[tuple[str, str]], until: float) -> None:
        self.places, self.until = places, until
        self.event = threading.Event()
        self.found = set[str]()
        self.error: Exception | None = None


class _Lock:
    """A lock that some thread waits for.

    Attributes:
        waits: The waits by token.
        head: The first in line at the last query.
        next: When the next query is due, by the machine's clock.
        pause: Seconds until the query after that.
    """

    __slots__ = ("head", "next", "pause", "waits")

    def __init__(self) -> None:
        self.waits: defaultdict[str, list[_Wait]] = defaultdict(list)
        self.head: str | None = None
        self.query_now()

    def query_now(self) -> None:
        self.next, self.pause = 0.0, FIRST_QUERY_PAUSE_SECONDS

    def plan(self, now: float, head: str | None) -> None:
        """Plan the next query: soon after a change, and less and less often without one."""
        self.pause = min(self.pause * 1.5, LONGEST_QUERY_PAUSE_SECONDS)
        if head != self.head:
            self.head, self.pause = head, FIRST_QUERY_PAUSE_SECONDS
        self.next = now + random.uniform(self.pause / 2, self.pause)


class Turns:
    """The waits of one process in one store, and the thread that queries for them.

    Args:
        database: The store's server.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        #: Its methods are made in C: an interrupt comes before or after them. Those of the condition are not.
        self._mutex = threading.RLock()
        self._changed = threading.Condition(self._mutex)
        self._locks: dict[str, _Lock] = {}
        #: By token. A place stays here until its token leaves the line.
        self._places: dict[str, _Place] = {}
        #: The places of tokens that a thread waits for: a heap, the first to keep is the first.
        self._planned: list[_Place] = []
        self._waits: set[_Wait] = set()
        self._running = self._closed = False

    def stands(self, name: str, token: str, seconds: float) -> None:
        """Record that a request has just put a token in line, or kept its place, for some seconds."""
        with self._mutex:
            place = self._places.get(token)
            if place is None:
                place = self._places[token] = _Place(name, token)
            place.seconds = seconds
            if not place.planned:  # otherwise its moment in the heap must not change
                place.keep_at = monotonic() + seconds / 3

    def gone(self, token: str) -> None:
        """Record that a token does not stand in line."""
        self._places.pop(token, None)

    def query_soon(self, name: str) -> None:
        """Query for the waiters of a lock immediately: this process has just changed it."""
        if name in self._locks:
            with self._mutex:
                if lock := self._locks.get(name):
                    lock.query_now()
                    self._changed.notify()

    def wait(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        """Wait for some tokens; see `Store.wait_any`.

        Raises:
            RuntimeError: The system has no thread left.
        """
        wait = _Wait(places, monotonic() + timeout)
        try:
            self._begin(wait)
            while (left := wait.until - monotonic()) > 0 and not wait.event.wait(min(left, LONGEST_BLOCK_SECONDS)):
                pass
        finally:
            with self._mutex:
                self._end(wait)
        if wait.error is not None:
            raise copy.copy(wait.error)  # one error for each thread, with a traceback of its own
        return wait.found

    def close(self) -> None:
        """End the thread as soon as no thread waits."""
        with self._mutex:
            self._closed = True
            self._changed.notify()

    def _begin(self, wait: _Wait) -> None:
        with self._mutex:
            if not self._running:
                thread = threading.Thread(target=self._run, name="celery-locks-sql-turns", daemon=True)
                self._running, self._closed = True, False
                try:
                    thread.start()
                except BaseException:
                    self._running = False
                    raise
            self._waits.add(wait)
            for name, token in wait.places:
                lock = self._locks.get(name)
                if lock is None:
                    lock = self._locks[name] = _Lock()
                lock.waits[token].append(wait)
                lock.query_now()
                place = self._places.get(token)
                if place is not None and not place.planned:
                    place.planned = True
                    heapq.heappush(self._planned, place)
            self._changed.notify()

    def _end(self, wait: _Wait) -> None:
        for name, token in wait.places:
            lock = self._locks.get(name)
            if lock is None or wait not in lock.waits.get(token, ()):
                continue
            lock.waits[token].remove(wait)
            if not lock.waits[token]:
                del lock.waits[token]
                if not lock.waits:
                    del self._locks[name]
        self._waits.discard(wait)

    # --- The thread ---

    def _run(self) -> None:
        try:
            while self._wait_until_due():
                self._serve()
        except BaseException:  # a killed greenlet, for example
            with self._mutex:
                self._running = False
                for wait in self._waits:  # each waiter asks by itself now
                    wait.event.set()
            raise

    def _wait_until_due(self) -> bool:
        """Wait until a query or a place is due. Return ``False`` to end the thread."""
        idle_until = monotonic() + IDLE_SECONDS
        with self._mutex:
            while True:
                now = monotonic()
                moments = [lock.next for lock in self._locks.values()]
                if not moments and (self._closed or now >= idle_until):
                    self._running = False
                    return False
                if moments and self._planned:
                    moments.append(self._planned[0].keep_at)
                due = min(moments, default=idle_until)
                if moments and due <= now:
                    return True
                self._changed.wait(due - now)

    def _serve(self) -> None:
        names: list[str] = []
        try:
            if names := self._names_due():
                self._query(names)
            if places := self._places_due():
                names = [place.name for place in places]
                self._keep(places)
        except Exception as error:  # for the waiters: the thread has to go on and query for others
            self._fail(names, error)

    def _names_due(self) -> list[str]:
        with self._mutex:
            now = monotonic()
            for wait in [each for each in self._waits if each.until < now - REMAINING_SECONDS]:
                self._end(wait)
            due = sorted((lock.next, name) for name, lock in self._locks.items() if lock.next <= now)
            names = [name for _, name in due[:MOST_NAMES]]
            for name in names:
                lock = self._locks[name]
                lock.plan(now, lock.head)
            return names

    def _query(self, names: Sequence[str]) -> None:
        """Find out whose turn it is, and wake the threads that wait for it."""
        query = _HEADS.format(names=_union(("name",), len(names)))
        rows = self._database.single(lambda db: db.execute(query, names).fetchall())
        with self._mutex:
            now = monotonic()
            for name, head, permits, most, used in rows:
                lock = self._locks.get(name)
                if lock is None:
                    continue
                if lock.head != head and lock.next:  # without a request for a query since this one began
                    lock.plan(now, head)
                if head is None:
                    turns = list(lock.waits) if not used else []
                else:
                    turns = [head] if head in lock.waits and used + permits <= most else []
                for token in turns:
                    _wake(lock.waits[token], token)

    def _places_due(self) -> list[_Place]:
        """Return the places to keep now. Forget the others that no thread waits for."""
        due: list[_Place] = []
        with self._mutex:
            now = monotonic()
            if not self._planned or self._planned[0].keep_at > now:
                return due
            while self._planned and self._planned[0].keep_at <= now + EARLY_SECONDS and len(due) < MOST_PLACES:
                place = heapq.heappop(self._planned)
                if self._is_awaited(place):
                    due.append(place)
                else:
                    place.planned = False
        return due

    def _is_awaited(self, place: _Place) -> bool:
        lock = self._locks.get(place.name)
        if lock is None or self._places.get(place.token) is not place:
            return False
        return place.token in lock.waits

    def _keep(self, places: Sequence[_Place]) -> None:
        """Keep places for longer. Wake the waiters whose places are lost: they need new ones."""
        kept = False
        try:
            moments, alive = self._database.single(lambda db: _alive(db, places))
            with self._mutex:
                for place in places:
                    if place.token not in alive and self._is_awaited(place):
                        _wake(self._locks[place.name].waits[place.token], place.token)
            mine = [place for place in places if place.token in alive]
            with suppress(StoreUnavailable):  # if this goes on, the places are lost, and their waiters meet the error
                if mine:
                    self._database.transaction(lambda db: _keep(db, mine, moments))
                kept = True
        finally:
            with self._mutex:
                for place in places:
                    pause = place.seconds / 3
                    place.keep_at = monotonic() + (pause if kept else min(pause, RETRY_SECONDS))
                    heapq.heappush(self._planned, place)

    def _fail(self, names: Collection[str], error: Exception) -> None:
        with self._mutex:
            for name in names:
                lock = self._locks.get(name)
                for waits in lock.waits.values() if lock is not None else ():
                    for wait in waits:
                        wait.error = error
                        wait.event.set()


def _wake(waits: Iterable[_Wait], token: str) -> None:
    for wait in waits:
        wait.found.add(token)
        wait.event.set()


def _alive(connection: Connection, places: Sequence[_Place]) -> tuple[dict[str, int], set[str]]:
    """Return the moments of the locks of some places, and the tokens that stand in line.

    After the server's clock was set back, no token counts: a request has to put the store's clock forward.
    """
    names = sorted({place.name for place in places})
    rows = connection.execute(_MOMENTS.format(names=_union(("name",), len(names))), names)
    moments = {name: int(now) for name, now, clock, *_ in rows if now <= clock + SET_BACK}
    which = rows_of("celery_locks_waiter", ("name", "token"), len(places))
    rows = connection.execute(f"SELECT t.name, t.token, t.deadline FROM {which}", _keys(places))
    return moments, {token for name, token, deadline in rows if deadline > moments.get(name, inf)}


def _keep(connection: Connection, places: Sequence[_Place], moments: dict[str, int]) -> None:
    """Keep places in line, except those whose row another transaction has locked.

    It does not lock the rows of the locks. An expired place stays expired: another transaction may have acted on that.
    One that may expire while this runs is not kept either.

    Args:
        connection: The connection.
        places: The places.
        moments: The moments of their locks, read before.
    """
    which = rows_of("celery_locks_waiter", ("name", "token"), len(places))
    rows = connection.execute(f"SELECT t.token FROM {which} FOR UPDATE SKIP LOCKED", _keys(places))
    locked = {token for (token,) in rows}
    values: list[str | int] = []
    for place in (mine := [place for place in places if place.token in locked]):
        now = moments[place.name]
        values += (place.name, place.token, now + microseconds(place.seconds), now)
    if mine:
        connection.execute(
            f"UPDATE ({_union(('name', 'token', 'until', 'now'), len(mine))}) w "
            "STRAIGHT_JOIN celery_locks_waiter t FORCE INDEX (PRIMARY) ON t.name = w.name AND t.token = w.token "
            "SET t.deadline = greatest(t.deadline, w.until) "
            f"WHERE t.deadline > greatest(w.now, CLOCK) + {SHORTEST_KEPT_MICROSECONDS}",
            values,
        )


def _keys(places: Sequence[_Place]) -> list[str]:
    return [value for place in places for value in (place.name, place.token)]


def _union(columns: Sequence[str], count: int) -> str:
    """Return a query for some rows, with question marks for their values."""
    first, rest = ", ".join(f"? AS {column}" for column in columns), ", ".join("?" * len(columns))
    return " UNION ALL ".join([f"SELECT {first}", *[f"SELECT {rest}"] * (count - 1)])
