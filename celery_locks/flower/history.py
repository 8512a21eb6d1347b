"""The history of keys, as far as this Flower has seen it.

The store keeps no history, so that locks don't pay for one. Flower has two sources of its own. It reads the store every
few seconds, and for each open page. And it receives the events ``lock-…`` of workers that send them. An event has the
reason and the exact moment. A read shows the holders and since when they hold, but it misses a lease that was acquired
and released between two reads. Both identify a lease by its fencing token, so each lease is recorded once.

The history is in the memory of this process, bounded, and lost when Flower ends.
"""

from __future__ import annotations

import threading
import time
from collections import ChainMap, OrderedDict
from collections.abc import Mapping
from typing import Any

from celery_locks import LockInfo, LockKeyError, Page
from celery_locks.flower.key_history import Entry, KeyHistory
from celery_locks.flower.payloads import milliseconds
from celery_locks.keys.names import check_part, cursor_of
from celery_locks.keys.text import check_key
from celery_locks.stores.types import Holder
from celery_locks.views import in_range

#: The most keys that are recorded, and how many of them are kept longest because they were released by hand.
MOST_KEYS, MOST_RELEASED_KEYS = 2_000, 500
#: After this time a free key that is known only from polls makes room for another key.
IDLE_SECONDS = 600.0
#: The longest text of an event that is kept.
MOST_TEXT_CHARACTERS = 200
#: How a key became known, from the least to the most worth keeping.
POLLED, REPORTED, RELEASED = range(3)


class History:
    """The histories of keys. Several threads may use it.

    A poll reads thousands of keys, so it never replaces a history. When `MOST_KEYS` keys are recorded, it records a new
    key only in place of a key that has been free for `IDLE_SECONDS`. Operators ask for keys with events, for keys that
    were released by hand, and for keys whose page was opened. These replace the keys known from polls alone, then the
    one among them that was reported least recently. Keys released by hand are kept longest.

    Attributes:
        started: When the recording started, in seconds since 1970.
        poll_interval: Seconds between two reads that need no open page; ``None`` without these reads.
        first_event: When the first event was received; ``None`` without events.
    """

    def __init__(self) -> None:
        self.started = time.time()
        self.poll_interval: float | None = None
        self.first_event: float | None = None
        #: The histories by how the key became known. The most recently reported key is last. See `_id` for the keys.
        self._kinds: tuple[OrderedDict[str, KeyHistory], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self._histories = ChainMap(*self._kinds)
        #: Keys that were held or waited for at their last read, by `_id`.
        self._busy: dict[str, LockInfo] = {}
        #: Keys known from polls alone that were free at their last read, and since when. The earliest is first.
        self._idle: OrderedDict[str, float] = OrderedDict()
        self._mutex = threading.Lock()

    def record_page(self, prefix: str, after: str | None, page: Page, now: float) -> None:
        """Record a page of the list. A busy key in the range of the page that is not on it has become free.

        Args:
            prefix: The prefix with which the page was read.
            after: The key after which the page begins.
            page: The page.
            now: When it was read, in seconds since 1970.
        """
        with self._mutex:
            listed = set(map(_id, page.items))
            missing = [info for id, info in self._busy.items() if id not in listed]
            for info in missing:
                if in_range(info, prefix, after, page.next):
                    self._record(LockInfo(info.name, (), 0, 0), now)
            for info in page.items:
                if _id(info) in self._histories or (_is_busy(info) and self._has_room(now)):
                    self._record(info, now)

    def record_visit(self, info: LockInfo, now: float) -> None:
        """Record that the page of a key was opened, and the state that it shows."""
        with self._mutex:
            if _id(info) in self._histories or _is_busy(info):  # a key that is neither may never have existed
                self._keep(_id(info), REPORTED, now)
                self._record(info, now)

    def record_event(self, event: Mapping[str, Any]) -> None:
        """Record a Celery event ``lock-acquired``, ``lock-contended``, ``lock-lost`` or ``lock-released``."""
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
            _fencing_token(event.get("fencing_token")),
            _text(event.get("reason")),
            task=_text(event.get("task")),
            task_id=_text(event.get("task_id")),
        )
        with self._mutex:
            self.first_event = self.first_event or time.time()
            self._keep(cursor_of(key, part), REPORTED, time.time()).add(entry)

    def record_release(self, key: str, part: str, holder: Holder, user: str) -> None:
        """Record that a user released a lease in this Flower."""
        entry = Entry(time.time(), "force_released", holder.owner, holder.fencing_token, f"by {user}, in Flower")
        with self._mutex:
            self._keep(cursor_of(key, part), RELEASED, entry.at).add(entry)

    def payload(self, key: str, part: str = "") -> dict[str, Any]:
        """Return the history of a key or part for its page. ``since`` is ``None`` if nothing is recorded."""
        with self._mutex:
            history = self._histories.get(cursor_of(key, part))
            return {
                "began": milliseconds(self.started),
                "watched_every": self.poll_interval,
                "heard": None if self.first_event is None else milliseconds(self.first_event),
                "since": None if history is None else milliseconds(history.since),
                **(history or KeyHistory(0.0)).payload(),
            }

    def _record(self, info: LockInfo, now: float) -> None:
        id = _id(info)
        history = self._histories.get(id)
        if history is None:
            history = self._kinds[POLLED][id] = KeyHistory(now)
        history.record(info, now)
        if _is_busy(info):
            self._busy[id] = info
            self._idle.pop(id, None)
        else:
            self._busy.pop(id, None)
            if id in self._kinds[POLLED]:
                self._idle.setdefault(id, now)

    def _has_room(self, now: float) -> bool:
        """Return whether a poll may record one more key. A key that has been free for long is dropped for it."""
        if sum(map(len, self._kinds)) < MOST_KEYS:
            return True
        id, since = next(iter(self._idle.items()), ("", now))
        if now - since < IDLE_SECONDS:
            return False
        self._drop(id)
        return True

    def _keep(self, id: str, kind: int, now: float) -> KeyHistory:
        """Return the history of a key that was reported, released or visited. Create it if there is none."""
        known = next((each for each, histories in enumerate(self._kinds) if id in histories), kind)
        history = self._kinds[known].pop(id, None) or KeyHistory(now)
        self._idle.pop(id, None)
        self._kinds[max(kind, known)][id] = history
        if len(self._kinds[RELEASED]) > MOST_RELEASED_KEYS:
            oldest, its = self._kinds[RELEASED].popitem(last=False)
            self._kinds[REPORTED][oldest] = its
        if sum(map(len, self._kinds)) > MOST_KEYS:
            self._drop(next(iter(self._idle or self._kinds[POLLED] or self._kinds[REPORTED])))
        return history

    def _drop(self, id: str) -> None:
        for histories in self._kinds:
            histories.pop(id, None)
        self._busy.pop(id, None)
        self._idle.pop(id, None)


def _id(info: LockInfo) -> str:
    """Return one text for a key and its part."""
    return cursor_of(info.key, info.part)


def _is_busy(info: LockInfo) -> bool:
    return bool(info.holders or info.waiting)


def _text(value: Any) -> str:
    return value[:MOST_TEXT_CHARACTERS] if isinstance(value, str) else ""


def _time(value: Any) -> float:
    """Return the moment of an event; the current time if the value is absurd."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e11
    return float(value) if known else time.time()


def _fencing_token(value: Any) -> int | None:
    """Return a fencing token of an event; ``None`` if no store can have issued it."""
    known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if known else None
