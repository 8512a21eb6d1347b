"""The history of one key."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from celery_locks import LockInfo
from celery_locks.flower.payloads import milliseconds
from celery_locks.stores.listing import MOST_LISTED
from celery_locks.stores.types import MOST_HOLDERS, Holder
from celery_locks.views import owner_fields

#: The most entries, samples and minutes with contention that are kept of a key.
MOST_ENTRIES, MOST_SAMPLES, MOST_MINUTES = 50, 200, 120
#: The kinds of entries that end a lease. Each lease has one of them.
END_KINDS = ("released", "lost", "force_released", "ended")


@dataclass
class Entry:
    """Something that happened to a key.

    Attributes:
        at: When, in seconds since 1970.
        kind: ``acquired``, ``contended``, ``released``, ``lost``, ``force_released``, or ``ended``: the lease was
            missing at a read, for an unknown reason.
        owner: The holder's name; empty if it is unknown.
        fencing_token: The fencing token of the lease; ``None`` if it is unknown.
        reason: The reason, or another remark.
        seen: Whether it is known from a read of the store, and not from an event.
        times: How often it happened in succession.
        task: The task's name, if the holder's name does not contain it.
        task_id: The task's id, if the holder's name does not contain it.
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

    def payload(self) -> dict[str, Any]:
        """Return the entry for the page."""
        owner = owner_fields(self.owner)
        return {
            **owner,
            "task": owner["task"] or self.task or None,
            "task_id": owner["task_id"] or self.task_id or None,
            "at": milliseconds(self.at),
            "kind": self.kind,
            "fencing_token": self.fencing_token,
            "reason": self.reason,
            "seen": self.seen,
            "times": self.times,
        }


@dataclass
class Sample:
    """The number of waiters and of held permits between two moments, in seconds since 1970."""

    begin: float
    end: float
    waiting: int
    permits: int


class KeyHistory:
    """The history of one key; bounded.

    Args:
        since: When it begins, in seconds since 1970.

    Attributes:
        since: The moment from which the history is complete. It moves when older entries are dropped.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        self._entries: deque[Entry] = deque(maxlen=MOST_ENTRIES)
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self._contended: deque[list[int]] = deque(maxlen=MOST_MINUTES)
        #: The fencing tokens of the latest leases of which the end is known.
        self._ended: deque[int] = deque(maxlen=MOST_ENTRIES)
        #: The leases at the last read, by fencing token.
        self._leases: dict[int, Holder] = {}

    def record(self, info: LockInfo, now: float) -> None:
        """Record the state of the key at a read of the store."""
        last = self._samples[-1] if self._samples else None
        if last is not None and (last.waiting, last.permits) == (info.waiting, info.permits):
            last.end = now
        else:
            if last is None or last.waiting == 0 < info.waiting:
                self._add_contention(info, now)
            self._samples.append(Sample(now, now, info.waiting, info.permits))
        # The lease of a dispatched task doesn't count: its run acquires one with a fencing token of its own.
        leases = {each.fencing_token: each for each in info.holders if each.state != "dispatched"}
        for token, holder in leases.items():
            if token not in self._leases and token not in self._ended and not self._has("acquired", token):
                self._append(Entry(now - holder.held_for, "acquired", holder.owner, token, seen=True))
        if len(info.holders) not in (MOST_LISTED, MOST_HOLDERS):  # the read names all holders
            for token in self._leases.keys() - leases.keys() - set(self._ended):
                self._ended.append(token)
                self._append(Entry(now, "ended", self._leases[token].owner, token, seen=True))
        self._leases = {token: each for token, each in leases.items() if token not in self._ended}

    def add(self, entry: Entry) -> None:
        """Add an entry from an event or a release by hand. It replaces the entry of a read of the same lease."""
        if entry.kind == "contended":
            self._count_contention(entry.at)
            last = self._entries[-1] if self._entries else None
            if last is not None and last.kind == "contended" and not last.seen:
                entry.times += last.times
                self._entries.pop()
        token = entry.fencing_token
        if token is not None and entry.kind in END_KINDS:
            self._remove("ended", token)
            if entry.kind != "force_released" and self._has("force_released", token):
                entry.reason = entry.reason or "released by hand"
            self._ended.append(token)
            self._leases.pop(token, None)
        elif token is not None and entry.kind == "acquired":
            self._remove("acquired", token)
        self._append(entry)

    def payload(self) -> dict[str, Any]:
        """Return the history for the page. The newest entry and the oldest sample are first."""
        newest_first = sorted(self._entries, key=lambda entry: entry.at, reverse=True)
        return {
            "entries": [entry.payload() for entry in newest_first],
            "samples": [
                [milliseconds(each.begin), milliseconds(each.end), each.waiting, each.permits] for each in self._samples
            ],
            "contended": [[minute * 60_000, times] for minute, times in self._contended],
        }

    def _add_contention(self, info: LockInfo, now: float) -> None:
        is_recorded = any(entry.kind == "contended" and entry.at > now - 60 for entry in self._entries)
        if info.waiting and not is_recorded:
            self._append(Entry(now, "contended", reason=f"{info.waiting} in line", seen=True))

    def _count_contention(self, at: float) -> None:
        minute = int(at // 60)
        if self._contended and self._contended[-1][0] == minute:
            self._contended[-1][1] += 1
        else:
            self._contended.append([minute, 1])

    def _append(self, entry: Entry) -> None:
        if len(self._entries) == MOST_ENTRIES:  # the clock of an event may be ahead, but the history is not
            self.since = max(self.since, min(self._entries[0].at, time.time()))
        self._entries.append(entry)

    def _has(self, kind: str, token: int) -> bool:
        return any(entry.kind == kind and entry.fencing_token == token for entry in self._entries)

    def _remove(self, kind: str, token: int) -> None:
        kept = [entry for entry in self._entries if not (entry.kind == kind and entry.fencing_token == token)]
        self._entries = deque(kept, MOST_ENTRIES)
