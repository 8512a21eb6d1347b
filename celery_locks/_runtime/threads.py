"""Threads and locks of the operating system, also where gevent or eventlet has replaced them with greenlets.

Leases must be renewed and watched while a greenlet keeps its hub busy, so real threads do that. They share nothing with
greenlets that could make either wait. Their locks are real ones, held only while no greenlet can be switched. Users'
code is called in a greenlet of its hub.
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

#: A re-entrant lock. It is made in C, and neither gevent nor eventlet replaces it.
RLock = _thread.RLock

#: The idents of the running threads that `start` has started.
_library_threads: set[int] = set()
process.after_fork_in_child(_library_threads.clear)


class Hub(Protocol):
    """The hub of a thread's greenlets, or an asyncio loop: users' code is called there. Any thread may use it."""

    def is_current(self) -> bool:
        """Return whether this code runs in it."""

    def spawn(self, function: Call) -> None:
        """Call the function soon, in a greenlet of its own."""

    def call(self, function: Call) -> None:
        """Call the function soon, in the hub itself: while no greenlet runs. The function must not wait."""


@cache
def greenlets() -> str:
    """Return the library that has replaced threads with greenlets: ``"gevent"``, ``"eventlet"`` or ``""``.

    The first lease decides: a program that patches threads has to do so before.
    """
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return ""


def new_lock() -> Any:
    """Return a real lock, not re-entrant."""
    return unpatched("allocate_lock")()


def start(function: Call, name: str) -> None:
    """Start a real daemon thread.

    Raises:
        RuntimeError: The system has no thread left.
    """

    def run() -> None:
        ident = unpatched("get_ident")()
        _library_threads.add(ident)
        try:
            function()
        finally:
            _library_threads.discard(ident)

    if greenlets():
        unpatched("start_new_thread")(run, ())
    else:
        threading.Thread(target=run, name=name, daemon=True).start()


def is_library_thread() -> bool:
    """Return whether `start` has started this thread."""
    return unpatched("get_ident")() in _library_threads


def connection_set() -> int:
    """Return the number of the set of connections that this thread uses: 0 for the set that most threads share.

    In a process of greenlets, sockets and pools belong to a hub. Each thread of `start` uses a set of its own there.
    """
    if not greenlets():
        return 0
    ident: int = unpatched("get_ident")()
    return ident if ident in _library_threads else 0


@cache
def unpatched(name: str) -> Any:
    """Return a function of the module ``_thread`` as it was before the module was patched."""
    library = greenlets()
    if library == "gevent":
        return sys.modules["gevent.monkey"].get_original("_thread", name)
    if library == "eventlet":
        return getattr(sys.modules["eventlet.patcher"].original("_thread"), name)
    return getattr(_thread, name)
