"""The hubs of gevent and eventlet, each with the interface of `threads.Hub`."""

from __future__ import annotations

import os
import sys
from collections import deque
from contextlib import suppress

from celery_locks._runtime import process
from celery_locks._runtime.threads import Call, Hub, greenlets, unpatched


class GeventHub:
    """A hub of gevent."""

    def __init__(self) -> None:
        self._ident = unpatched("get_ident")()
        import gevent

        self._spawn = gevent.spawn
        self._loop = gevent.get_hub().loop

    def is_current(self) -> bool:
        return bool(unpatched("get_ident")() == self._ident)

    def spawn(self, function: Call) -> None:
        self._loop.run_callback_threadsafe(self._spawn, function)

    def call(self, function: Call) -> None:
        self._loop.run_callback_threadsafe(function)


class EventletHub:
    """A hub of eventlet. Other threads can't call it, so one of its greenlets reads their calls from a pipe."""

    def __init__(self) -> None:
        self._ident = unpatched("get_ident")()
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

    def is_current(self) -> bool:
        return bool(unpatched("get_ident")() == self._ident)

    def spawn(self, function: Call) -> None:
        self.call(lambda: self._spawn(function))

    def call(self, function: Call) -> None:
        self._calls.append(function)
        with suppress(BlockingIOError):  # a full pipe wakes the greenlet as well
            self._os.write(self._writes, b".")

    def _listen(self) -> None:
        while True:
            self._trampoline(self._reads, read=True)
            with suppress(BlockingIOError):
                self._os.read(self._reads, 4096)
            while self._calls:
                self._hub.schedule_call_global(0, self._calls.popleft())


#: The hub of each real thread. A child doesn't keep them: it would share their pipes with its parent.
_hubs: dict[int, Hub] = {}
process.after_fork_in_child(_hubs.clear)


def current_hub() -> Hub | None:
    """Return the hub of this greenlet, ``None`` in a process whose threads are not greenlets."""
    if not greenlets():
        return None
    ident = unpatched("get_ident")()
    if ident not in _hubs:
        _hubs[ident] = GeventHub() if greenlets() == "gevent" else EventletHub()
    return _hubs[ident]
