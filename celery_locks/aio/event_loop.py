"""The event loop on which users' code is called: receivers, callbacks, and the abort of the work under a lease."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from celery_locks import _logging
from celery_locks._runtime.callbacks import run_callback
from celery_locks._runtime.threads import Call

logger = _logging.logger(__name__)

#: Running coroutines of callbacks: a loop has only weak references to its tasks.
_running: set[asyncio.Future[Any]] = set()


class LoopHub:
    """The running loop, with the interface of `threads.Hub`. Any thread may use it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def is_current(self) -> bool:
        """Return whether this code runs on the loop."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def call(self, function: Call) -> None:
        """Call the function soon, on the loop."""
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:  # the loop is closed: the loss is reported all the same
            run_callback(function, None)

    spawn = call

    def call_back(self, callback: Callable[..., object], *args: object) -> None:
        """Call a user's function or coroutine function on the loop."""
        if self.is_current():
            self._call_back(callback, *args)
        elif self._loop.is_closed():
            logger.warning("%r is not called for a lost lease: its event loop is closed", callback)
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
            task.add_done_callback(_end)


def _end(task: asyncio.Future[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a callback for a lost lease raised", exc_info=error)
