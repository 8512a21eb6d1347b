"""A thread that sleeps until something is due."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from celery_locks import _logging
from celery_locks._runtime import threads
from celery_locks._runtime.clock import monotonic

logger = _logging.logger(__name__)

#: A thread with nothing to do ends after so many seconds, and is started anew when there is something.
IDLE = 60.0
#: What failed is tried again after so many seconds.
TRY_AGAIN = 0.25


class Ticker:
    """A daemon thread that calls ``tick`` when it is time.

    Args:
        name: The thread's name.
        tick: Does what is due and returns the seconds until something is due again, or ``None`` for nothing.
        real: Whether it is a real thread also where greenlets stand in the place of threads. Then it must not call
            what users wrote, nor log.
    """

    def __init__(self, name: str, tick: Callable[[], float | None], real: bool = True) -> None:
        self._name = name
        self._tick = tick
        self._next = float("inf")
        self._running = False
        self._ending = False
        self._real = real
        self._mutex = threads.RLock() if real else threading.RLock()
        #: Free when there is something new. A condition would do but for the locks that it makes itself.
        self._news = threads.new_lock() if real else threading.Lock()
        self._news.acquire()

    def wake_in(self, seconds: float) -> None:
        """Ticks in so many seconds at the latest."""
        due = monotonic() + seconds
        if self._running and due >= self._next:
            return  # The usual case, without a lock: it wakes before that anyhow, and looks again.
        with self._mutex:
            self._ending = False
            self._next = min(self._next, due)
            if self._running:
                with suppress(RuntimeError):  # it was free already
                    self._news.release()
            else:
                # Only then running: where no thread can be started now, the next call tries again.
                self._start()
                self._running = True

    def end(self) -> None:
        """Has the thread end soon, whatever is due; `wake_in` goes on with it, or with another one."""
        with self._mutex:
            self._ending, self._next = True, float("inf")
            with suppress(RuntimeError):
                self._news.release()

    def _start(self) -> None:
        if self._real:
            threads.start(self._run, self._name)
        else:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while self._sleep():
            # From here on a `wake_in` counts from now; one that came before is seen by this tick.
            seconds = self._tick_safely()
            if seconds is not None:
                self.wake_in(max(seconds, 0.001))

    def _sleep(self) -> bool:
        """Waits until it is time. Returns whether to go on: ``False`` after a long time with nothing to do."""
        idle_until = monotonic() + IDLE
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
            self._news.acquire(True, pause)

    def _has_hub(self) -> bool:
        """Whether connections of this thread belong to a hub of its own: it would have to be taken down with it."""
        return self._real and bool(threads.greenlets())

    def _tick_safely(self) -> float | None:
        try:
            return self._tick()
        except BaseException:  # A thread that dies would leave every lease to its ttl.
            logger.exception("%s failed; it goes on", self._name)
            return TRY_AGAIN
