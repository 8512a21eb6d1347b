"""The loop on which users' code is called: receivers, callbacks, and the abort of what runs under a lease."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from celery_locks import _logging
from celery_locks._runtime.callbacks import tell
from celery_locks._runtime.threads import Call

logger = _logging.logger(__name__)

#: Coroutines of callbacks that run: a loop keeps only weak references to its tasks.
_running: set[asyncio.Future[Any]] = set()


class LoopHome:
    """A loop as `threads.Home`. Its methods may be called by any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def call(self, function: Call) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed: the loss is told all the same
            tell(function, None)

    def in_hub(self, function: Call) -> None:
        self.call(function)

    def call_back(self, callback: Callable[..., object], *args: object) -> None:
        """Calls what a user gave, a function or a coroutine function, on the loop."""
        if self.here():
            self._call_back(callback, *args)
        elif self._loop.is_closed():
            logger.warning("%r is not told of a lost lease: its event loop is closed", callback)
        else:
            self.call(lambda: self._call_back(callback, *args))

    def _call_back(self, callback: Callable[..., object], *args: object) -> None:
        try:
            answer = callback(*args)
        except Exception:
            logger.exception("the callback %r for a lost lease raised", callback)
            return
        if inspect.isawaitable(answer):
            task = asyncio.ensure_future(answer)
            _running.add(task)
            task.add_done_callback(_ended)


def _ended(task: asyncio.Future[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a callback for a lost lease raised", exc_info=error)
