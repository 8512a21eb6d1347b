"""Where receivers and callbacks are called: never by the threads that watch over leases, which they could hold up."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

from celery_locks._runtime import threads
from celery_locks._runtime.threads import Home
from celery_locks._runtime.ticker import Ticker

Call = Callable[[], object]


class _Teller:
    """Calls functions one after the other in a thread of its own."""

    def __init__(self) -> None:
        self._calls: deque[Call] = deque()
        self._ticker = Ticker("celery-locks-teller", self._tick)

    def put(self, function: Call) -> None:
        self._calls.append(function)
        self._ticker.wake_in(0)

    def _tick(self) -> float | None:
        while self._calls:
            self._calls.popleft()()
        return None


_teller: _Teller | None = None


def tell(function: Call, home: Home | None) -> None:
    """Calls a function that calls what users wrote: now, or soon where this thread watches over leases.

    Args:
        function: What to call.
        home: Where it is called in a process of greenlets; see `hubs.home`.
    """
    if home is not None:
        function() if home.here() else home.call(function)
    elif threads.ours():
        _the_teller().put(function)
    else:
        function()


def _the_teller() -> _Teller:
    global _teller
    if _teller is None:
        _teller = _Teller()
    return _teller


def _in_forked_child() -> None:
    global _teller
    _teller = None


os.register_at_fork(after_in_child=_in_forked_child)
