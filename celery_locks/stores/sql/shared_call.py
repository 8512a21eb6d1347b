"""A call that runs in a thread of its own, and that several threads wait for, each within its own timeout."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait


class SharedCall:
    """A call that goes on when the threads that wait for it give up. Each new request waits for the running call.

    Args:
        call: What is called.
        name: The name of the thread.
    """

    def __init__(self, call: Callable[[], None], name: str) -> None:
        self._call = call
        self._name = name
        self._here = os.getpid(), threading.Lock()
        self._running: Future[None] | None = None

    def wait(self, timeout: float) -> bool:
        """Wait until a call has ended. Start it unless it runs already.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether the call has ended.

        Raises:
            Exception: The call raised it.
            RuntimeError: The system has no thread left.
        """
        if self._here[0] != os.getpid():  # a fork copies neither the thread nor the state of its lock
            self._here, self._running = (os.getpid(), threading.Lock()), None
        with self._here[1]:
            running = self._running
            if running is None or running.done():
                running = Future()
                # Kept only once the thread runs: a call that never ends would keep all later ones from being made.
                threading.Thread(target=self._run, args=(running,), name=self._name, daemon=True).start()
                self._running = running
        if not wait([running], max(0.0, timeout)).done:
            return False
        running.result()
        return True

    def _run(self, future: Future[None]) -> None:
        try:
            self._call()
        except BaseException as error:  # the waiting threads raise it
            future.set_exception(error)
        else:
            future.set_result(None)
