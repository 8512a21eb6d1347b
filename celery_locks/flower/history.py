"""What happened to keys, as far as this Flower saw it.

The store keeps no history, so that no lock pays for one. Flower has two sources of its own: what it reads from the
store, every few seconds and for each page that is open; and Celery events ``lock-…`` of workers that send them. An
event tells why, and when to the moment. A look tells what is held by whom since when, and misses what came and went
between two looks. Both know a holding by its fencing token, so it is told once.

All of it is in this process's memory, bounded, and gone when Flower ends.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from celery_locks.flower.shown import moment
from celery_locks.flower.story import Entry, Story
from celery_locks.listing import LockInfo, Page
from celery_locks.stores.base import Holder

#: The most keys that are remembered: those heard or seen last.
MOST_KEYS = 2_000
#: How much of a text of an event is kept.
LONGEST = 1_000


class History:
    """The stories of keys. May be used by several threads.

    Attributes:
        began: When it began, in seconds since 1970.
        watched_every: Seconds between two looks that are made though nobody has a page open; ``None`` for none.
        heard: When the first event came; ``None`` for none.
    """

    def __init__(self) -> None:
        self.began = time.time()
        self.watched_every: float | None = None
        self.heard: float | None = None
        self._stories: OrderedDict[str, Story] = OrderedDict()
        #: Keys that were held or waited for when they were last seen.
        self._busy: set[str] = set()
        self._mutex = threading.Lock()

    def see_page(self, name: Callable[[str], str], prefix: str, after: str | None, page: Page, now: float) -> None:
        """A page of the list was read. What was busy and lies in its range, but is not on it, is free by now.

        Args:
            name: The full name of a key, by which the list is ordered.
            prefix: What the keys of the page begin with.
            after: The key after which it begins.
            page: The page.
            now: When, in seconds since 1970.
        """
        with self._mutex:
            listed = {info.key for info in page.items}
            first, last = name(after) if after else "", name(page.next) if page.next else None
            for key in [key for key in self._busy if key not in listed and key.startswith(prefix)]:
                if name(key) > first and (last is None or name(key) <= last):
                    self._see(LockInfo(key, (), 0, 1, 0), now)
            for info in page.items:
                self._see(info, now)

    def see_key(self, info: LockInfo, now: float) -> None:
        """A key was read."""
        with self._mutex:
            self._see(info, now)

    def hear(self, event: Mapping[str, Any]) -> None:
        """A Celery event ``lock-acquired``, ``lock-contended``, ``lock-lost`` or ``lock-released`` came."""
        key, kind = _text(event.get("key")), str(event.get("type")).removeprefix("lock-")
        if not key or kind not in ("acquired", "contended", "lost", "released"):
            return
        entry = Entry(
            _time(event.get("timestamp")),
            kind,
            _text(event.get("owner")),
            _number(event.get("fencing_token")),
            _text(event.get("reason")),
            task=_text(event.get("task")),
            task_id=_text(event.get("task_id")),
        )
        with self._mutex:
            self.heard = self.heard or time.time()
            self._story(key).tell(entry)

    def freed(self, key: str, holder: Holder, by: str) -> None:
        """A lease was ended by hand in this Flower."""
        entry = Entry(time.time(), "freed", holder.owner, holder.fencing_token, f"by {by}, in Flower")
        with self._mutex:
            self._story(key).tell(entry)

    def of(self, key: str) -> dict[str, Any]:
        """What is known of a key, for its page; moments are milliseconds since 1970."""
        with self._mutex:
            story = self._stories.get(key) or Story()
            return {
                "began": moment(self.began),
                "watched_every": self.watched_every,
                "heard": None if self.heard is None else moment(self.heard),
                **story.told(),
            }

    def _see(self, info: LockInfo, now: float) -> None:
        busy = bool(info.holders or info.waiting)
        if not busy and info.key not in self._stories:
            return  # somebody asked for a key of which nothing is known
        self._story(info.key).see(info, now)
        if busy and info.key in self._stories:
            self._busy.add(info.key)
        else:
            self._busy.discard(info.key)

    def _story(self, key: str) -> Story:
        story = self._stories.setdefault(key, Story())
        self._stories.move_to_end(key)
        while len(self._stories) > MOST_KEYS:
            self._busy.discard(self._stories.popitem(last=False)[0])
        return story


def _text(value: Any) -> str:
    return value[:LONGEST] if isinstance(value, str) else ""


def _time(value: Any) -> float:
    """When, as an event says; else, or if that is absurd, now."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e11
    return float(value) if known else time.time()


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


__all__ = ["MOST_KEYS", "History"]
