"""What happened to one key."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from celery_locks.flower.shown import moment
from celery_locks.lock_info import LockInfo
from celery_locks.stores.listing import MOST_LISTED
from celery_locks.stores.types import MOST_HOLDERS, Holder
from celery_locks.views import owner_fields

#: The most entries, samples and minutes with contention that are kept of a key.
MOST_ENTRIES, MOST_SAMPLES, MOST_MINUTES = 50, 200, 120
#: The end of a holding: said of it once.
ENDS = ("released", "lost", "freed", "ended")


@dataclass
class Entry:
    """Something that happened.

    Attributes:
        at: When, in seconds since 1970.
        kind: ``acquired``, ``contended``, ``released``, ``lost``, ``freed`` (by hand), or ``ended``: a look found it
            held no more, and doesn't know why.
        owner: Who, as holders are named; empty where that is not known.
        fencing_token: Of the holding; ``None`` where that is not known.
        reason: Why, or what else there is to say.
        seen: Whether a look at the store told it, and no event.
        times: How often it happened, one after the other.
        task: The task's name, where the holder's name doesn't tell it.
        task_id: Its id, likewise.
    """

    at: float
    kind: str
    owner: str = ""
    fencing_token: int | None = None
    reason: str = ""
    seen: bool = False
    times: int = 1
    task: str = ""
    task_id: str = ""

    def told(self) -> dict[str, Any]:
        """For the page."""
        who = owner_fields(self.owner)
        return {
            **who,
            "task": who["task"] or self.task or None,
            "task_id": who["task_id"] or self.task_id or None,
            "at": moment(self.at),
            "kind": self.kind,
            "fencing_token": self.fencing_token,
            "reason": self.reason,
            "seen": self.seen,
            "times": self.times,
        }


@dataclass
class Sample:
    """How many held and waited, from one moment to another, in seconds since 1970."""

    begin: float
    end: float
    waiting: int
    permits: int


class Story:
    """What is known of one key; bounded.

    Args:
        since: When it begins, in seconds since 1970.

    Attributes:
        since: From when on nothing that was recorded is missing: later than it began once older entries made room.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        self._entries: deque[Entry] = deque(maxlen=MOST_ENTRIES)
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self._contended: deque[list[int]] = deque(maxlen=MOST_MINUTES)
        #: Holdings of which an end is known, lately.
        self._ended: deque[int] = deque(maxlen=MOST_ENTRIES)
        self._holding: dict[int, Holder] = {}

    def see(self, info: LockInfo, now: float) -> None:
        """A look at the store found this."""
        last = self._samples[-1] if self._samples else None
        if last is not None and (last.waiting, last.permits) == (info.waiting, info.permits):
            last.end = now
        else:
            if last is None or last.waiting == 0 < info.waiting:
                self._see_contention(info, now)
            self._samples.append(Sample(now, now, info.waiting, info.permits))
        # What is kept for a dispatched task is no holding yet: its run acquires with a token of its own.
        holding = {each.fencing_token: each for each in info.holders if each.state != "dispatched"}
        for token, holder in holding.items():
            if token not in self._holding and token not in self._ended and not self._known("acquired", token):
                self._add(Entry(now - holder.held_for, "acquired", holder.owner, token, seen=True))
        if len(info.holders) not in (MOST_LISTED, MOST_HOLDERS):  # else there may be more than are named
            for token in self._holding.keys() - holding.keys() - set(self._ended):
                self._ended.append(token)
                self._add(Entry(now, "ended", self._holding[token].owner, token, seen=True))
        self._holding = {token: each for token, each in holding.items() if token not in self._ended}

    def tell(self, entry: Entry) -> None:
        """Somebody who knows said what happened. What looks had found of it is told no more."""
        if entry.kind == "contended":
            self._count(entry.at)
            last = self._entries[-1] if self._entries else None
            if last is not None and last.kind == "contended" and not last.seen:
                entry.times += last.times
                self._entries.pop()
        token = entry.fencing_token
        if token is not None and entry.kind in ENDS:
            self._forget(("ended",), token)
            if entry.kind != "freed" and self._known("freed", token):
                entry.reason = entry.reason or "freed by hand"
            self._ended.append(token)
            self._holding.pop(token, None)
        elif token is not None and entry.kind == "acquired":
            self._forget(("acquired",), token)
        self._add(entry)

    def told(self) -> dict[str, Any]:
        """For the page: the newest entry first, the oldest sample first."""
        newest_first = sorted(self._entries, key=lambda entry: entry.at, reverse=True)
        return {
            "entries": [entry.told() for entry in newest_first],
            "samples": [[moment(each.begin), moment(each.end), each.waiting, each.permits] for each in self._samples],
            "contended": [[minute * 60_000, times] for minute, times in self._contended],
        }

    def _see_contention(self, info: LockInfo, now: float) -> None:
        recently = any(entry.kind == "contended" and entry.at > now - 60 for entry in self._entries)
        if info.waiting and not recently:
            self._add(Entry(now, "contended", reason=f"{info.waiting} in line", seen=True))

    def _count(self, at: float) -> None:
        minute = int(at // 60)
        if self._contended and self._contended[-1][0] == minute:
            self._contended[-1][1] += 1
        else:
            self._contended.append([minute, 1])

    def _add(self, entry: Entry) -> None:
        if len(self._entries) == MOST_ENTRIES:  # an event's moment may be any: it is not to be later than now
            self.since = max(self.since, min(self._entries[0].at, time.time()))
        self._entries.append(entry)

    def _known(self, kind: str, token: int) -> bool:
        return any(entry.kind == kind and entry.fencing_token == token for entry in self._entries)

    def _forget(self, kinds: tuple[str, ...], token: int) -> None:
        kept = [entry for entry in self._entries if not (entry.kind in kinds and entry.fencing_token == token)]
        self._entries = deque(kept, MOST_ENTRIES)
