"""A thread that sleeps until something is due."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from celery_locks import _logging
from celery_locks._runtime import threads
from celery_locks._runtime.clock import monotonic

logger = _logging.logger(__name__)

#: An idle thread ends after this time. `Ticker.wake_in` starts another one.
IDLE_SECONDS = 60.0
#: The pause before a failed call is tried again.
RETRY_SECONDS = 0.25


class Ticker:
    """A daemon thread that calls ``tick`` when it is due.

    Args:
        name: The thread's name.
        tick: Does what is due. Returns the seconds until the next call, or ``None`` if nothing is due.
        real: Whether the thread is a real one also in a process of greenlets. Then ``tick`` must neither call users'
            code nor log.
    """

    def __init__(self, name: str, tick: Callable[[], float | None], real: bool = True) -> None:
        self._name = name
        self._tick = tick
        self._next = float("inf")
        self._running = False
        self._ending = False
        self._real = real
        self._mutex = threads.RLock() if real else threading.RLock()
        #: Released to wake the thread. Not a condition, which would make locks of its own.
        self._wakeup = threads.new_lock() if real else threading.Lock()
        self._wakeup.acquire()

    def wake_in(self, seconds: float) -> None:
        """Call ``tick`` within this time."""
        due = monotonic() + seconds
        if self._running and due >= self._next:
            return  # The usual case, without a lock: the thread wakes before that anyhow, and looks again.
        with self._mutex:
            self._ending = False
            self._next = min(self._next, due)
            if self._running:
                with suppress(RuntimeError):  # it is released already
                    self._wakeup.release()
            else:
                # Running only after the start: if no thread can be started now, the next call tries again.
                self._start()
                self._running = True

    def end(self) -> None:
        """End the thread soon, whatever is due. `wake_in` keeps it, or starts another one."""
        with self._mutex:
            self._ending, self._next = True, float("inf")
            with suppress(RuntimeError):
                self._wakeup.release()

    def _start(self) -> None:
        if self._real:
            threads.start(self._run, self._name)
        else:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while self._sleep():
            # This tick serves all calls of `wake_in` until now. Later calls count from now on.
            seconds = self._tick_safely()
            if seconds is not None:
                self.wake_in(max(seconds, 0.001))

    def _sleep(self) -> bool:
        """Wait until a tick is due. Return ``False`` if the thread should end."""
        idle_until = monotonic() + IDLE_SECONDS
        while True:
            with self._mutex:
                now = monotonic()
                if self._ending:
                    self._running = self._ending = False
                    return False
                if now >= self._next:
                    self._next = float("inf")
                    return True
                if self._next == float("inf") and now >= idle_until and not self._has_hub():
                    self._running = False
                    return False
                pause = min(self._next, max(idle_until, now + 1.0)) - now
            self._wakeup.acquire(True, pause)

    def _has_hub(self) -> bool:
        """Return whether connections of this thread belong to a hub of its own, which would have to end with it."""
        return self._real and bool(threads.greenlets())

    def _tick_safely(self) -> float | None:
        try:
            return self._tick()
        except BaseException:  # without this thread, no lease would be renewed
            logger.exception("%s failed and continues", self._name)
            return RETRY_SECONDS
