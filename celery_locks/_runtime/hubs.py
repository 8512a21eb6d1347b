"""The hubs of gevent and eventlet, as `threads.Home`."""

from __future__ import annotations

import os
import sys
from collections import deque
from contextlib import suppress

from celery_locks._runtime.threads import Call, Home, greenlets, original


class GeventHome:
    """A hub of gevent."""

    def __init__(self) -> None:
        self._ident = original("get_ident")()
        import gevent

        self._spawn = gevent.spawn
        self._loop = gevent.get_hub().loop

    def here(self) -> bool:
        return bool(original("get_ident")() == self._ident)

    def call(self, function: Call) -> None:
        self._loop.run_callback_threadsafe(self._spawn, function)

    def in_hub(self, function: Call) -> None:
        self._loop.run_callback_threadsafe(function)


class EventletHome:
    """A hub of eventlet. It has no means to be called by another thread: a greenlet listens at a pipe."""

    def __init__(self) -> None:
        self._ident = original("get_ident")()
        import eventlet.hubs

        self._hub = eventlet.hubs.get_hub()
        self._calls: deque[Call] = deque()
        self._reads, self._writes = os.pipe()
        os.set_blocking(self._reads, False)
        os.set_blocking(self._writes, False)
        self._trampoline = eventlet.hubs.trampoline
        self._spawn = eventlet.spawn_n
        self._os = sys.modules["eventlet.patcher"].original("os")
        self._spawn(self._listen)

    def here(self) -> bool:
        return bool(original("get_ident")() == self._ident)

    def call(self, function: Call) -> None:
        self.in_hub(lambda: self._spawn(function))

    def in_hub(self, function: Call) -> None:
        self._calls.append(function)
        with suppress(BlockingIOError):  # so many bytes in the pipe will do
            self._os.write(self._writes, b".")

    def _listen(self) -> None:
        while True:
            self._trampoline(self._reads, read=True)
            with suppress(BlockingIOError):
                self._os.read(self._reads, 4096)
            while self._calls:
                self._hub.schedule_call_global(0, self._calls.popleft())


#: By the real thread of the hub.
_homes: dict[int, Home] = {}


def home() -> Home | None:
    """Return the home of the greenlet that asks, ``None`` in a process without greenlets in the place of threads."""
    if not greenlets():
        return None
    ident = original("get_ident")()
    if ident not in _homes:
        _homes[ident] = GeventHome() if greenlets() == "gevent" else EventletHome()
    return _homes[ident]


# Their pipes would be shared with the parent.
os.register_at_fork(after_in_child=_homes.clear)
