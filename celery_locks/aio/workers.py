"""Threads that send the requests of coroutines."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

from celery_locks._runtime import process, threads
from celery_locks._runtime.clock import system_clock

T = TypeVar("T")

#: An idle thread ends after this time.
IDLE_SECONDS = 10.0
#: How long the end of the process waits for calls that are queued or have begun, such as releases.
EXIT_PATIENCE_SECONDS = 1.0


class Workers:
    """Daemon threads that call functions, in the order of their submission.

    Not a `ThreadPoolExecutor`: the end of the process would wait for its threads while a store hangs.

    Args:
        most: The highest number of threads.
        name: Their name.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        #: ``None`` ends a thread.
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._mutex = threads.RLock()
        self._threads = 0
        #: How many calls are queued or have begun.
        self._calls = 0
        _all.add(self)

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Call a function in a thread, unless the future is cancelled before.

        Raises:
            RuntimeError: The system has no thread left, or the interpreter is shutting down.
        """
        future: Future[T] = Future()
        with self._mutex:
            if self._calls >= self._threads and self._threads < self._most:
                self._start()
            self._calls += 1
            self._queue.put((future, function))
        return future

    def close(self) -> None:
        """End the threads once the queue is empty. Later calls start threads again."""
        with self._mutex:
            for _ in range(self._threads):
                self._queue.put(None)
            self._threads = 0

    def drain(self, until: float) -> None:
        """Wait until no call is queued or has begun, but only until this moment of the system's clock."""
        while self._calls and system_clock.now() < until:
            time.sleep(0.005)

    def _start(self) -> None:
        try:
            threads.start(self._run, self._name)
            self._threads += 1
        except RuntimeError:
            if not self._threads:
                raise

    def _run(self) -> None:
        while self._call_next():
            pass

    def _call_next(self) -> bool:
        """Call the next function. Return ``False`` if the thread should end."""
        try:
            call = self._queue.get(timeout=IDLE_SECONDS)
        except Empty:
            with self._mutex:
                if not self._queue.empty():  # a call was submitted just now
                    return True
                self._threads -= 1
                return False
        if call is None:
            return False
        future, function = call
        try:
            if future.set_running_or_notify_cancel():
                _call(future, function)
        finally:
            with self._mutex:
                self._calls -= 1
        return True


def _call(future: Future[T], function: Callable[[], T]) -> None:
    try:
        result = function()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


_all: WeakSet[Workers] = WeakSet()
process.after_fork_in_child(_all.clear)  # their threads are the parent's


@atexit.register
def _drain() -> None:
    until = system_clock.now() + EXIT_PATIENCE_SECONDS
    for workers in list(_all):
        workers.drain(until)
