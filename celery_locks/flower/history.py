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
from collections import ChainMap, OrderedDict
from collections.abc import Mapping
from typing import Any

from celery_locks import LockKeyError
from celery_locks.flower.key_history import Entry, Story
from celery_locks.flower.shown import moment
from celery_locks.keys.names import check_part, cursor_of, key_and_part, name_after
from celery_locks.keys.text import check_key
from celery_locks.lock_info import LockInfo, Page
from celery_locks.stores.types import Holder

#: The most keys that are remembered, and how many of them because they were released by hand.
MOST_KEYS, MOST_FREED = 2_000, 500
#: Seconds after which a free key, known by scans alone, makes room for another one.
IDLE = 600.0
#: How much of a text of an event is kept.
LONGEST = 200
#: How a key became known, from the least to the most worth keeping.
SEEN, TOLD, FREED = range(3)


class History:
    """The stories of keys. May be used by several threads.

    A scan sees thousands of keys, so it never takes the place of a story: when all places are taken it records no new
    keys, except in place of a key that has been free for long. An operator asks later about events, releases by hand
    and keys whose page was opened. These take the places of keys known by scans alone, then of the one among them
    that was reported least recently. Keys released by hand stay longest.

    Attributes:
        began: When it began, in seconds since 1970.
        watched_every: Seconds between two looks that are made though nobody has a page open; ``None`` for none.
        heard: When the first event came; ``None`` for none.
    """

    def __init__(self) -> None:
        self.began = time.time()
        self.watched_every: float | None = None
        self.heard: float | None = None
        #: By how they became known, the one reported last at the end; each key with its part, see `_id`.
        self._kinds: tuple[OrderedDict[str, Story], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self._stories = ChainMap(*self._kinds)
        #: Keys that were held or waited for when they were last seen.
        self._busy: set[str] = set()
        #: Keys known by scans alone that were free when they were last seen, and since when; the first one first.
        self._idle: OrderedDict[str, float] = OrderedDict()
        self._mutex = threading.Lock()

    def see_page(self, locks_prefix: str, prefix: str, after: str | None, page: Page, now: float) -> None:
        """A page of the list was read. What was busy and lies in its range, but is not on it, is free by now.

        Args:
            locks_prefix: That of the locks, with which the names begin by which the list is ordered.
            prefix: What the keys of the page begin with.
            after: The key after which it begins.
            page: The page.
            now: When, in seconds since 1970.
        """
        with self._mutex:
            listed = set(map(_id, page.items))
            first = name_after(locks_prefix, after) if after else ""
            last = page.last
            for id in [each for each in self._busy - listed if each.startswith(prefix)]:  # it begins with its key
                name = name_after(locks_prefix, id)
                key, _ = key_and_part(name)
                if key.startswith(prefix) and name > first and (last is None or name <= last):
                    self._see(LockInfo(name, (), 0, 0), now)
            for info in page.items:
                if _id(info) in self._stories or (_is_busy(info) and self._has_room(now)):
                    self._see(info, now)

    def see_key(self, info: LockInfo, now: float) -> None:
        """The page of a key was opened."""
        with self._mutex:
            if _id(info) in self._stories or _is_busy(info):  # else someone asks for a key of which nothing is known
                self._keep(_id(info), TOLD, now)
                self._see(info, now)

    def hear(self, event: Mapping[str, Any]) -> None:
        """A Celery event ``lock-acquired``, ``lock-contended``, ``lock-lost`` or ``lock-released`` came."""
        kind = str(event.get("type")).removeprefix("lock-")
        if kind not in ("acquired", "contended", "lost", "released"):
            return
        try:
            key = check_key(event.get("key"))  # type: ignore[arg-type]
            part = check_part(event.get("part") or "")
        except LockKeyError:
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
            self._keep(cursor_of(key, part), TOLD, time.time()).tell(entry)

    def freed(self, key: str, part: str, holder: Holder, by: str) -> None:
        """A lease of a key, or of a part of it, was ended by hand in this Flower."""
        entry = Entry(time.time(), "freed", holder.owner, holder.fencing_token, f"by {by}, in Flower")
        with self._mutex:
            self._keep(cursor_of(key, part), FREED, entry.at).tell(entry)

    def of(self, key: str, part: str = "") -> dict[str, Any]:
        """What is known of a key, or of a part of it, for its page; moments are milliseconds since 1970.

        ``since`` is ``None`` where nothing is recorded of the key.
        """
        with self._mutex:
            story = self._stories.get(cursor_of(key, part))
            return {
                "began": moment(self.began),
                "watched_every": self.watched_every,
                "heard": None if self.heard is None else moment(self.heard),
                "since": None if story is None else moment(story.since),
                **(story or Story(0.0)).told(),
            }

    def _see(self, info: LockInfo, now: float) -> None:
        id = _id(info)
        story = self._stories.get(id)
        if story is None:
            story = self._kinds[SEEN][id] = Story(now)
        story.see(info, now)
        if _is_busy(info):
            self._busy.add(id)
            self._idle.pop(id, None)
        else:
            self._busy.discard(id)
            if id in self._kinds[SEEN]:
                self._idle.setdefault(id, now)

    def _has_room(self, now: float) -> bool:
        """Whether a scan may record one more key. A key that has been free for long makes room."""
        if sum(map(len, self._kinds)) < MOST_KEYS:
            return True
        id, since = next(iter(self._idle.items()), ("", now))
        if now - since < IDLE:
            return False
        self._forget(id)
        return True

    def _keep(self, id: str, how: int, now: float) -> Story:
        """Return the story of a key that an event, a release or a visit is about; begin it where there is none."""
        known = next((kind for kind, stories in enumerate(self._kinds) if id in stories), how)
        story = self._kinds[known].pop(id, None) or Story(now)
        self._idle.pop(id, None)
        self._kinds[max(how, known)][id] = story
        if len(self._kinds[FREED]) > MOST_FREED:
            oldest, its = self._kinds[FREED].popitem(last=False)
            self._kinds[TOLD][oldest] = its
        if sum(map(len, self._kinds)) > MOST_KEYS:
            self._forget(next(iter(self._idle or self._kinds[SEEN] or self._kinds[TOLD])))
        return story

    def _forget(self, id: str) -> None:
        for stories in self._kinds:
            stories.pop(id, None)
        self._busy.discard(id)
        self._idle.pop(id, None)


def _id(info: LockInfo) -> str:
    """Return one text for a key and its part, as lists go on after them."""
    return cursor_of(info.key, info.part)


def _is_busy(info: LockInfo) -> bool:
    return bool(info.holders or info.waiting)


def _text(value: Any) -> str:
    return value[:LONGEST] if isinstance(value, str) else ""


def _time(value: Any) -> float:
    """When, as an event says; else, or if that is absurd, now."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e11
    return float(value) if known else time.time()


def _number(value: Any) -> int | None:
    """A fencing token; ``None`` for what no store gives out."""
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if known else None
