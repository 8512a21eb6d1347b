"""What the bodies of tasks really did: written by themselves, and read by a checker that knows nothing of locks."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import redis


@dataclass(frozen=True)
class Stretch:
    """A run of a body, from its first line to its last. ``end`` is ``None`` when it never came to its last."""

    key: str
    task_id: str
    fence: int
    pid: int
    begin: float
    end: float | None


class Journal:
    """An append-only list in a Redis.

    Times are those of a clock that all processes of the machine share.
    """

    def __init__(self, url: str, name: str = "journal") -> None:
        self.name = name
        self._redis = redis.Redis.from_url(url)
        #: What was read so far: tests ask again and again.
        self._read: list[dict[str, Any]] = []
        self._last: bytes | str = b""

    def write(self, event: str, **fields: Any) -> None:
        entry = {"event": event, "time": time.monotonic(), "pid": os.getpid(), **fields}
        self._redis.rpush(self.name, json.dumps(entry))

    def entries(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Those of an event with these fields, in the order of writing."""
        wanted = {**fields, **({} if event is None else {"event": event})}
        return [entry for entry in self._all() if wanted.items() <= entry.items()]

    def _all(self) -> list[dict[str, Any]]:
        """All entries, of which only those that are new are fetched, and the last that is known, to know it again."""
        read = self._read
        raw = self._redis.lrange(self.name, max(0, len(read) - 1), -1)
        if read and raw[:1] != [self._last]:  # the server has lost its data meanwhile
            read, raw = [], self._redis.lrange(self.name, 0, -1)
        new = raw[1:] if read else raw
        self._read = read + [json.loads(entry) for entry in new]
        self._last = raw[-1] if raw else b""
        return self._read

    def stretches(self, key: str | None = None) -> list[Stretch]:
        """The runs of bodies, in the order of their begins."""
        open_runs: dict[str, dict[str, Any]] = {}
        done: list[tuple[dict[str, Any], float | None]] = []
        for entry in self.entries():
            if entry["event"] == "begin":
                open_runs[entry["run"]] = entry
            elif entry["event"] == "end":
                done.append((open_runs.pop(entry["run"]), entry["time"]))
        done += [(entry, None) for entry in open_runs.values()]
        stretches = [Stretch(b["key"], b["task_id"], b["fence"], b["pid"], b["time"], end) for b, end in done]
        return sorted((s for s in stretches if key in (None, s.key)), key=lambda s: s.begin)

    def most_at_once(self, key: str | None = None, died: float | None = None) -> int:
        """The most bodies of one key that ran at the same time.

        Args:
            key: Only this key.
            died: When the processes of runs without an end were killed.
        """
        by_key = defaultdict(list)
        for stretch in self.stretches(key):
            by_key[stretch.key].append(stretch)
        return max((_most(stretches, died) for stretches in by_key.values()), default=0)


def _most(stretches: list[Stretch], died: float | None) -> int:
    moments = []
    for stretch in stretches:
        end = stretch.end if stretch.end is not None else died
        moments += [(stretch.begin, 1), *([(end, -1)] if end is not None else [])]
    most = now = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most
