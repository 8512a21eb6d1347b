"""A thread of a worker's main process, for what its event loop must not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from celery_locks import _logging
from celery_locks._runtime.process import PerProcess

logger = _logging.logger(__name__)


class Background:
    """Calls functions one after the other, in a thread of its own."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, function: Callable[[], Any]) -> None:
        """Call a function when the calls before it have ended. An error is logged."""
        self._calls.put(function)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="celery-locks-background", daemon=True)
            self._thread.start()

    def finish(self, timeout: float) -> None:
        """Wait until everything was called that is submitted by now, at most ``timeout`` seconds."""
        if self._thread is not None:
            done = threading.Event()
            self.submit(done.set)
            done.wait(timeout)

    def _run(self) -> None:
        while True:
            call = self._calls.get()
            try:
                call()
            except Exception:
                logger.exception("a call in the background failed")


#: The background of this process.
background = PerProcess(Background)
