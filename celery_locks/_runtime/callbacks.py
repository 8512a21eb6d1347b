"""The thread that calls receivers and callbacks, so that users' code can't delay the renewal of leases."""

from __future__ import annotations

from collections import deque

from celery_locks._runtime import threads
from celery_locks._runtime.process import PerProcess
from celery_locks._runtime.threads import Call, Hub
from celery_locks._runtime.ticker import Ticker


class CallbackThread:
    """A thread that calls functions one after the other."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        self._ticker = Ticker("celery-locks-callbacks", self._tick)

    def put(self, function: Call) -> None:
        """Call a function soon."""
        self._calls.append(function)
        self._ticker.wake_in(0)

    def _tick(self) -> float | None:
        while self._calls:
            self._calls.popleft()()
        return None


_callback_thread = PerProcess(CallbackThread)


def run_callback(function: Call, hub: Hub | None) -> None:
    """Call a function that calls users' code: now, or soon if this thread renews or watches leases.

    Args:
        function: The function.
        hub: The hub in which it is called, in a process of greenlets; see `hubs.current_hub`.
    """
    if hub is not None:
        function() if hub.is_current() else hub.spawn(function)
    elif threads.is_library_thread():
        _callback_thread().put(function)
    else:
        function()
