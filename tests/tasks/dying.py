"""Tasks that end their process, or are there to be ended."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery

#: So that a key which is free soon was freed, and did not just run out.
LONG_TTL = 120


def define_deaths(app: Celery, base: type, body: Callable[..., str], journal_of: Callable[[Celery], Any]) -> None:
    options = {"bind": True, "shared": False, "base": base, "lock_key": "<key>"}

    def dies(self: Any, key: str, how: str = "", seconds: float = 0.0, until: str | None = None) -> str:
        """Does something to its process, or sleeps, or waits for a file."""
        if how in WAYS:
            fence, request = self.lease.fencing_token, self.request
            journal_of(app).write("begin", key=key, run=request.id, task_id=request.id, fence=fence)
            WAYS[how]()
        return body(self, key, seconds, until)

    app.task(dies, name="dies", lock_ttl=LONG_TTL, **options)
    app.task(dies, name="dies_briefly", lock_ttl=3, **options)
    late = {**options, "lock_ttl": LONG_TTL, "acks_late": True, "reject_on_worker_lost": True}

    @app.task(name="dies_once", lock_on_contention="park", **late)
    def dies_once(self: Any, key: str, marker: str) -> str:
        """Dies in its first run."""
        body(self, key)
        if not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return key

    @app.task(name="lasts", lock_scope="until_expired", lock_ttl=LONG_TTL, **options)
    def lasts(self: Any, key: str) -> None:
        """Dies; its key is to be held all the same."""
        os.kill(os.getpid(), signal.SIGKILL)


def spin() -> None:
    while True:
        pass


#: What a body does to its own process.
WAYS: dict[str, Callable[[], object]] = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda: ctypes.string_at(0),
    "os._exit": lambda: os._exit(3),
    "loop": spin,
    # Holds the GIL for ever: no handler of a signal runs, nor any thread.
    "GIL": lambda: deque(itertools.count(), maxlen=0),
}
