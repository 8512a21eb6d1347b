"""Prometheus metrics of stores: the leases and waiters of all processes of a site."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric

from celery_locks import LockError, Locks, Stats
from celery_locks._logging import logger
from celery_locks._validation import DEFAULT_STORE
from celery_locks.lock_info import MOST_ON_A_PAGE
from celery_locks.views import read_all_holders

log = logger(__name__)

#: The shortest time between two reads of a store.
INTERVAL_SECONDS = 10.0
#: How many pages of locks are counted by task at most.
MOST_PAGES = 5
#: How many keys with many holders are read one by one at most.
MOST_KEY_READS = 100
#: A read that takes longer counts as failed.
SLOW_SECONDS = 30.0
#: Older figures are not reported: while the store doesn't answer, and after a time without scrapes.
KNOWN_SECONDS, KNOWN_UNASKED_SECONDS = 60.0, 300.0


_TEXTS = {
    "store_up": "Whether the lock store answers.",
    "store_age_seconds": "How old these figures of the store are.",
    "store_complete": "Whether all keys were counted by task, and all waiters.",
    "store_keys": "Keys that are held or waited for.",
    "store_leases": "Leases of all holders.",
    "store_waiting": "Waiters and parked tasks in line.",
    "store_near_expiry": "Leases that are near their expiry.",
    "store_oldest_seconds": "The longest time for which a key has been held.",
    "store_held": "Leases by the task that holds them.",
    "store_dispatched": "Leases of parked tasks that were dispatched and have not started.",
    "store_dispatched_seconds": "The longest time that a dispatched task's message has waited since it was sent.",
    "store_blocked": "Waiters and parked tasks in line, by the task that holds their key.",
}
#: The metrics that have a label for the task.
_BY_TASK = ("store_held", "store_dispatched", "store_dispatched_seconds", "store_blocked")
#: A figure for each task.
ByTask = defaultdict[str, float]
#: The name of a metric, the label for the task if it has one, and the value.
Figure = tuple[str, tuple[str, ...], float]
#: The locks of a store, or a function that opens them.
OneStore = Locks | Callable[[], Locks]


@dataclass(frozen=True)
class Snapshot:
    """The figures of a store at one read.

    Attributes:
        taken: When it was read, on this process's clock.
        stats: The figures over all keys.
        by_task: By the name of a metric, its values by task; ``None`` if not all holders of all keys were read.
    """

    taken: float
    stats: Stats
    by_task: dict[str, ByTask] | None


class StoreWatch:
    """Metrics of stores, labelled by the store's name.

    Args:
        stores: The locks of a store, or those of several, by the store's name.
        every: The shortest time between two reads of a store, in seconds.
        tasks: Returns the names of the known tasks.
    """

    def __init__(
        self,
        stores: OneStore | Mapping[str, OneStore],
        every: float = INTERVAL_SECONDS,
        tasks: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        if not isinstance(stores, Mapping):
            stores = {stores.store_name if isinstance(stores, Locks) else DEFAULT_STORE: stores}
        self._readers = {name: StoreReader(locks, every, tasks) for name, locks in stores.items()}

    def describe(self) -> Iterable[Metric]:
        """Return the names without values, by which a registry finds duplicates. Nothing is read."""
        return _families().values()

    def collect(self) -> Iterable[Metric]:
        """Return the figures of the last reads. prometheus_client calls it at each scrape."""
        families = _families()
        for store, reader in self._readers.items():
            for name, task, value in reader.figures():
                families[name].add_metric([store, *task], value)
        return [family for family in families.values() if family.samples]

    def read_soon(self) -> None:
        """Read each store in a thread of its own."""
        for reader in self._readers.values():
            reader.read_soon()


def _families() -> dict[str, GaugeMetricFamily]:
    labels = {name: ["store", "task"] if name in _BY_TASK else ["store"] for name in _TEXTS}
    return {name: GaugeMetricFamily(f"celery_locks_{name}", _TEXTS[name], labels=labels[name]) for name in _TEXTS}


class StoreReader:
    """Reads a store when its figures are requested, but not before an interval has passed.

    A thread reads the store, and the request gets the figures of the previous read, so no request waits for the store.
    Unknown figures have no series. A 0 is a known figure.

    Args:
        locks: The locks, or a function that opens them, which is called in that thread.
        every: The shortest time between two reads, in seconds.
        tasks: Returns the names of the known tasks.
    """

    def __init__(self, locks: OneStore, every: float, tasks: Callable[[], Iterable[str]]) -> None:
        self._locks: Callable[[], Locks] = (lambda: locks) if isinstance(locks, Locks) else locks
        self._every = every
        self._tasks = tasks
        self._snapshot: Snapshot | None = None
        #: Whether the store answered the last read; ``None`` before the first one has ended.
        self._answered: bool | None = None
        self._started = self._ended = float("-inf")
        self._reading = threading.Lock()
        self._seen = {""}

    def figures(self) -> Iterator[Figure]:
        """Return the figures of the last read, and start a read if the interval has passed."""
        self.read_soon()
        now, snapshot = time.monotonic(), self._snapshot
        up = self._up(now)
        if up is not None:
            yield "store_up", (), up
        if snapshot is None:
            return
        age = now - snapshot.taken
        yield "store_age_seconds", (), age
        if age > (KNOWN_UNASKED_SECONDS if up else KNOWN_SECONDS):
            return
        for name, value in _figures(snapshot).items():
            yield name, (), value
        if snapshot.by_task is None:
            return
        self._seen.update(*snapshot.by_task.values(), self._tasks())
        for name, counts in snapshot.by_task.items():
            for task in sorted(self._seen):
                yield name, (task,), counts.get(task, 0)

    def read_soon(self) -> None:
        """Read the store in a thread, if the interval has passed and no read is running."""
        if time.monotonic() - self._started < self._every or not self._reading.acquire(blocking=False):
            return
        self._started = time.monotonic()
        try:
            threading.Thread(target=self._read, name="celery-locks-metrics", daemon=True).start()
        except RuntimeError:  # no more threads are possible
            self._reading.release()

    def _up(self, now: float) -> bool | None:
        if self._reading.locked() and now - self._started > SLOW_SECONDS:
            return False
        return self._answered if now - self._ended <= KNOWN_UNASKED_SECONDS else None

    def _read(self) -> None:
        try:
            self._snapshot = _snapshot(self._locks())
            self._answered = True
        except Exception as error:
            self._answered = False
            if not isinstance(error, LockError):
                log.exception("the lock store could not be read")
        finally:
            self._ended = time.monotonic()
            self._reading.release()


def _snapshot(locks: Locks) -> Snapshot | None:
    """Read a store. A store that keeps no list has no figures.

    Raises:
        LockError: The store doesn't answer.
    """
    if not locks.store.lists:
        locks.store.ping()
        return None
    taken = time.monotonic()
    return Snapshot(taken, locks.stats(), _by_task(locks))


def _figures(snapshot: Snapshot) -> dict[str, float]:
    stats = snapshot.stats
    waiting: dict[str, float] = {}
    if stats.complete:
        waiting["store_waiting"] = stats.waiting
    elif snapshot.by_task is not None:  # the store counted a part of the lines, but all were read
        waiting["store_waiting"] = sum(snapshot.by_task["store_blocked"].values())
    return {
        **waiting,
        "store_complete": stats.complete and snapshot.by_task is not None,
        "store_keys": stats.locks,
        "store_leases": stats.holders,
        "store_near_expiry": stats.near_expiry,
        "store_oldest_seconds": stats.oldest_held_for,
    }


def _by_task(locks: Locks) -> dict[str, ByTask] | None:
    """Return the values by task of each metric; ``None`` if the limits allow no read of all keys and holders."""
    held, dispatched, dispatched_seconds, blocked = (ByTask(float) for _ in range(4))
    after, key_reads = None, 0
    for _ in range(MOST_PAGES):
        page = locks.list(after=after, count=MOST_ON_A_PAGE)
        for item in page.items:
            if not item.names_all:  # a page names only a few holders of each key
                key_reads += 1
                item = read_all_holders(locks, item) if key_reads <= MOST_KEY_READS else item
                if not item.names_all:
                    return None
            for holder in item.holders:
                task = holder.task_name or ""
                held[task] += 1
                if holder.state == "dispatched":
                    dispatched[task] += 1
                    dispatched_seconds[task] = max(dispatched_seconds[task], holder.held_for)
            if item.waiting:
                blocked[(item.holders[0].task_name if item.holders else None) or ""] += item.waiting
        after = page.next
        if after is None:
            return dict(zip(_BY_TASK, (held, dispatched, dispatched_seconds, blocked), strict=True))
    return None
