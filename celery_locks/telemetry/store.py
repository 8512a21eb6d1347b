"""Prometheus' metrics of a store: what is held and waited for in it, by all processes of a site."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from celery_locks import LockError, Locks
from celery_locks.listing import MOST_ON_A_PAGE, Stats
from celery_locks.telemetry.prometheus import gauge, plain_gauge

#: Seconds between two looks at the store at least.
EVERY = 10.0
#: How many pages of locks are counted by task at most.
MOST_PAGES = 5
#: A look that takes longer than so many seconds counts as failed.
SLOW = 30.0


_TEXTS = {
    "store_up": "Whether the lock store answers.",
    "store_age_seconds": "How old these figures of the store are.",
    "store_keys": "Keys that are held or waited for.",
    "store_leases": "Leases of all holders.",
    "store_waiting": "How many stand in line.",
    "store_near_expiry": "Leases about to end that were not renewed yet.",
    "store_oldest_seconds": "For how long a key is held at most.",
    "store_held": "Leases by the task that has them.",
    "store_blocked": "How many stand in line, by the task that holds what they wait for.",
}


@dataclass(frozen=True)
class Snapshot:
    """What was seen.

    Attributes:
        taken: When, on this process's clock.
        stats: Figures over all.
        held: How many leases by the holder's task, of the first `MOST_PAGES` pages.
        waiting: How many wait, by the task that holds what they wait for.
    """

    taken: float
    stats: Stats
    held: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)


class StoreWatch:
    """Looks at a store when it is asked for metrics, not more often than every so many seconds.

    It looks in a thread of its own and answers with what it saw before: whoever asks is never held up by the store.

    Args:
        locks: The locks, or a function that opens them, which is called in that thread.
        every: Seconds between two looks at least.
    """

    def __init__(self, locks: Locks | Callable[[], Locks], every: float = EVERY) -> None:
        self._locks: Callable[[], Locks] = locks if callable(locks) else lambda: locks
        self._every = every
        self._snapshot: Snapshot | None = None
        self._failed = False
        self._began = float("-inf")
        self._looking = threading.Lock()
        self._tasks: set[str] = set()

    def describe(self) -> list[Metric]:
        """The names alone, so that no registry gets them twice; nothing is read for it."""
        return [plain_gauge(name, text, 0) for name, text in _TEXTS.items()]

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client."""
        self.look_soon()
        now, snapshot = time.monotonic(), self._snapshot
        hangs = self._looking.locked() and now - self._began > SLOW
        up = snapshot is not None and not (self._failed or hangs)
        yield plain_gauge("store_up", _TEXTS["store_up"], up)
        if snapshot is None:
            return
        for name, value in _figures(snapshot, now).items():
            yield plain_gauge(name, _TEXTS[name], value)
        yield gauge("store_held", _TEXTS["store_held"], self._of_all(snapshot.held))
        yield gauge("store_blocked", _TEXTS["store_blocked"], self._of_all(snapshot.waiting))

    def look_soon(self) -> None:
        """Looks at the store in a thread, if the last look is long ago and none is under way."""
        if time.monotonic() - self._began < self._every or not self._looking.acquire(blocking=False):
            return
        self._began = time.monotonic()
        try:
            threading.Thread(target=self._look, name="celery-locks-metrics", daemon=True).start()
        except RuntimeError:  # no thread left
            self._looking.release()

    def _look(self) -> None:
        try:
            locks = self._locks()
            held, waiting = _by_task(locks)
            self._snapshot = Snapshot(time.monotonic(), locks.stats(), held, waiting)
            self._failed = False
        except LockError:  # away; or it keeps no list, which is no figure either
            self._failed = True
        finally:
            self._looking.release()

    def _of_all(self, counts: dict[str, int]) -> dict[str, int]:
        """With a 0 for each task that was seen before: a gauge that goes away looks as if nobody knew."""
        self._tasks.update(counts)
        return {task: counts.get(task, 0) for task in sorted(self._tasks)}


def _figures(snapshot: Snapshot, now: float) -> dict[str, float]:
    stats = snapshot.stats
    return {
        "store_age_seconds": now - snapshot.taken,
        "store_keys": stats.locks,
        "store_leases": stats.holders,
        "store_waiting": stats.waiting,
        "store_near_expiry": stats.near_expiry,
        "store_oldest_seconds": stats.oldest_held_for,
    }


def _by_task(locks: Locks) -> tuple[dict[str, int], dict[str, int]]:
    held, waiting = Counter[str](), Counter[str]()
    after = None
    for _ in range(MOST_PAGES):
        page = locks.list(after=after, count=MOST_ON_A_PAGE)
        for item in page.items:
            tasks = [holder.task_name or "" for holder in item.holders]
            held.update(tasks)
            if item.waiting:
                waiting[tasks[0] if tasks else ""] += item.waiting
        after = page.next
        if after is None:
            break
    return held, waiting
