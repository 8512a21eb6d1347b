"""Prometheus metrics of stores: what is held and waited for in each, by all processes of a site."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric

from celery_locks import LockError, Locks, _logging
from celery_locks._validation import DEFAULT_STORE
from celery_locks.lock_info import MOST_ON_A_PAGE, Stats
from celery_locks.views import read_all_holders

logger = _logging.logger(__name__)

#: Seconds between two looks at the store at least.
EVERY = 10.0
#: How many pages of locks are counted by task at most.
MOST_PAGES = 5
#: How many keys with many holders are asked for one by one at most.
MOST_ASKED = 100
#: A look that takes longer than so many seconds counts as failed.
SLOW = 30.0
#: Figures older than this are not reported: while the store doesn't answer, and after a time without scrapes.
KNOWN_SECONDS, KNOWN_UNASKED_SECONDS = 60.0, 300.0


_TEXTS = {
    "store_up": "Whether the lock store answers.",
    "store_age_seconds": "How old these figures of the store are.",
    "store_complete": "Whether all keys were counted by task, and all who stand in line.",
    "store_keys": "Keys that are held or waited for.",
    "store_leases": "Leases of all holders.",
    "store_waiting": "How many stand in line.",
    "store_near_expiry": "Leases about to end that were not renewed yet.",
    "store_oldest_seconds": "For how long a key is held at most.",
    "store_held": "Leases by the task that has them.",
    "store_dispatched": "Those leases whose task was parked and dispatched, and has not started.",
    "store_dispatched_seconds": "The longest time that the message of such a task has waited since it was last sent.",
    "store_blocked": "How many stand in line, by the task that holds what they wait for.",
}
#: Those by task.
_BY_TASK = ("store_held", "store_dispatched", "store_dispatched_seconds", "store_blocked")
#: A figure for each task.
ByTask = defaultdict[str, float]
#: A figure: the name of the metric, the task if it is by task, and the value.
Figure = tuple[str, tuple[str, ...], float]
#: The locks of a store, or a function that opens them.
OneStore = Locks | Callable[[], Locks]


@dataclass(frozen=True)
class Snapshot:
    """What was seen.

    Attributes:
        taken: When, on this process's clock.
        stats: Figures over all.
        by_task: Figures by the holder's task, by their names; ``None`` when not all holders of all keys were seen.
    """

    taken: float
    stats: Stats
    by_task: dict[str, ByTask] | None


class StoreWatch:
    """Metrics of stores, labelled by the store's name.

    Args:
        stores: The locks of a store, or those of several, by the store's name.
        every: Seconds between two looks at a store at least.
        tasks: Returns the names of the tasks that are known.
    """

    def __init__(
        self,
        stores: OneStore | Mapping[str, OneStore],
        every: float = EVERY,
        tasks: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        if not isinstance(stores, Mapping):
            stores = {stores.store_name if isinstance(stores, Locks) else DEFAULT_STORE: stores}
        self._looks = {name: StoreLook(locks, every, tasks) for name, locks in stores.items()}

    def describe(self) -> Iterable[Metric]:
        """Return the names alone, so that no registry gets them twice; nothing is read for it."""
        return _families().values()

    def collect(self) -> Iterable[Metric]:
        """Return what is known (prometheus_client calls it)."""
        families = _families()
        for store, look in self._looks.items():
            for name, task, value in look.figures():
                families[name].add_metric([store, *task], value)
        return [family for family in families.values() if family.samples]

    def look_soon(self) -> None:
        """Look at each store in a thread of its own."""
        for look in self._looks.values():
            look.look_soon()


def _families() -> dict[str, GaugeMetricFamily]:
    labels = {name: ["store", "task"] if name in _BY_TASK else ["store"] for name in _TEXTS}
    return {name: GaugeMetricFamily(f"celery_locks_{name}", _TEXTS[name], labels=labels[name]) for name in _TEXTS}


class StoreLook:
    """Looks at a store when it is asked for figures, not more often than every so many seconds.

    It looks in a thread of its own and answers with what it saw before: no caller is held up by the store.
    What it doesn't know has no series: a 0 means that there is none.

    Args:
        locks: The locks, or a function that opens them, which is called in that thread.
        every: Seconds between two looks at least.
        tasks: Returns the names of the tasks that are known.
    """

    def __init__(self, locks: OneStore, every: float, tasks: Callable[[], Iterable[str]]) -> None:
        self._locks: Callable[[], Locks] = (lambda: locks) if isinstance(locks, Locks) else locks
        self._every = every
        self._tasks = tasks
        self._snapshot: Snapshot | None = None
        #: Whether the store answered the last look; ``None`` before the first one has ended.
        self._answered: bool | None = None
        self._began = self._ended = float("-inf")
        self._looking = threading.Lock()
        self._seen = {""}

    def figures(self) -> Iterator[Figure]:
        """Return what is known, and look at the store if the last look is long ago."""
        self.look_soon()
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

    def look_soon(self) -> None:
        """Look at the store in a thread, if the last look is long ago and none is under way."""
        if time.monotonic() - self._began < self._every or not self._looking.acquire(blocking=False):
            return
        self._began = time.monotonic()
        try:
            threading.Thread(target=self._look, name="celery-locks-metrics", daemon=True).start()
        except RuntimeError:  # no thread left
            self._looking.release()

    def _up(self, now: float) -> bool | None:
        if self._looking.locked() and now - self._began > SLOW:
            return False
        return self._answered if now - self._ended <= KNOWN_UNASKED_SECONDS else None

    def _look(self) -> None:
        try:
            self._snapshot = _snapshot(self._locks())
            self._answered = True
        except Exception as error:
            self._answered = False
            if not isinstance(error, LockError):
                logger.exception("the lock store could not be looked at")
        finally:
            self._ended = time.monotonic()
            self._looking.release()


def _snapshot(locks: Locks) -> Snapshot | None:
    """Look at a store; one that keeps no list has no figures.

    Raises:
        LockError: It doesn't answer.
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
    elif snapshot.by_task is not None:  # the store counts a part of the lines, and all of them were looked at
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
    """Count by task, or return ``None`` where there are more keys, or more holders of one, than are looked at."""
    held, dispatched, dispatched_seconds, blocked = (ByTask(float) for _ in range(4))
    after, asked = None, 0
    for _ in range(MOST_PAGES):
        page = locks.list(after=after, count=MOST_ON_A_PAGE)
        for item in page.items:
            if not item.names_all:  # a page names a few holders of each key
                asked += 1
                item = read_all_holders(locks, item) if asked <= MOST_ASKED else item
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
