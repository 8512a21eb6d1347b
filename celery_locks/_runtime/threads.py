"""Threads and locks of the operating system, also where gevent or eventlet has put greenlets in their place.

Leases must be renewed and watched while a greenlet keeps its hub busy, so that is done by real threads. In such a
process they share nothing with greenlets that could make either wait: their locks are real ones, held for moments in
which no greenlet is switched; and what users wrote is called at *home*, in a greenlet of the hub.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

from celery_locks._runtime import process

Call = Callable[[], object]

#: A re-entrant lock; neither gevent nor eventlet replaces the one that is made in C.
RLock = _thread.RLock

#: The threads started here that live.
_ours: set[int] = set()
process.after_fork_in_child(_ours.clear)


class Home(Protocol):
    """The hub that greenlets of a thread run in. Its methods may be called by any thread."""

    def here(self) -> bool:
        """Whether this is a greenlet of it."""

    def call(self, function: Call) -> None:
        """Calls the function in a greenlet of its own, soon."""

    def in_hub(self, function: Call) -> None:
        """Calls the function in the hub itself, soon: while no greenlet runs. It must not wait."""


@cache
def greenlets() -> str:
    """What has put greenlets in the place of threads: ``"gevent"``, ``"eventlet"`` or nothing.

    Found out at the first lease: whoever patches has done so by then, or will have worse problems.
    """
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return ""


def new_lock() -> Any:
    """A real lock, not re-entrant."""
    return original("allocate_lock")()


def start(function: Call, name: str) -> None:
    """Starts a real daemon thread.

    Raises:
        RuntimeError: The system has no thread left.
    """

    def run() -> None:
        ident = original("get_ident")()
        _ours.add(ident)
        try:
            function()
        finally:
            _ours.discard(ident)

    if greenlets():
        original("start_new_thread")(run, ())
    else:
        threading.Thread(target=run, name=name, daemon=True).start()


def ours() -> bool:
    """Whether this is a thread of `start`."""
    return original("get_ident")() in _ours


def apart() -> int:
    """Which of several sets of connections this thread uses.

    Sockets and pools of a greenlet belong to its hub, so a thread of `start` has its own beside them.

    Returns:
        0 for the usual set.
    """
    if not greenlets():
        return 0
    ident: int = original("get_ident")()
    return ident if ident in _ours else 0


@cache
def original(name: str) -> Any:
    """What the module ``_thread`` held before it was patched."""
    kind = greenlets()
    if kind == "gevent":
        return sys.modules["gevent.monkey"].get_original("_thread", name)
    if kind == "eventlet":
        return getattr(sys.modules["eventlet.patcher"].original("_thread"), name)
    return getattr(_thread, name)
