"""Requests to several stores at the same time.

Each request has a thread of its own, because a server that hangs must not delay the others. When greenlets replace
threads, it is a greenlet of the caller's hub. Requests that the caller no longer waits for run to their end.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from celery_locks._runtime import process, threads
from celery_locks._runtime.clock import system_clock
from celery_locks.errors import StoreUnavailable

T = TypeVar("T")

#: Seconds after which an idle thread ends.
IDLE_SECONDS = 30.0
#: The queues of idle threads.
_idle: list[Any] = []


def ask(
    calls: Sequence[Callable[[], T]],
    timeout: float,
    enough: Callable[[Sequence[T | StoreUnavailable | None]], bool] = lambda answers: False,
) -> list[T | StoreUnavailable | None]:
    """Make calls at the same time, and return their answers.

    Once there are enough answers, the wait goes on for as long as it has taken so far. So calls that are about as quick
    still count.

    Args:
        calls: The calls. `StoreUnavailable` is an answer, and any other error is raised.
        timeout: How long to wait at most, in seconds.
        enough: Return whether these answers are enough.

    Returns:
        For each call, in order, the value that it returned, its error, or ``None`` while it still runs.
    """
    answers: list[T | StoreUnavailable | None] = [None] * len(calls)
    came = queue.SimpleQueue[tuple[int, Any]]()
    begun = system_clock.now()
    for number, call in enumerate(calls):
        start(partial(_answer, came, number, call))
    until, sufficient = begun + timeout, False
    for _ in calls:
        try:
            number, answer = came.get(timeout=max(0.0, until - system_clock.now()))
        except queue.Empty:
            break
        if isinstance(answer, BaseException) and not isinstance(answer, StoreUnavailable):
            raise answer
        answers[number] = answer
        if not sufficient and enough(answers):
            sufficient, now = True, system_clock.now()
            until = min(until, now + (now - begun))
    return answers


def _answer(came: queue.SimpleQueue[tuple[int, Any]], number: int, call: Callable[[], Any]) -> None:
    try:
        came.put((number, call()))
    except BaseException as error:
        came.put((number, error))


def start(function: Callable[[], object]) -> None:
    """Call a function that raises nothing in another thread, or in this one when the system has no threads left."""
    try:
        if threads.greenlets():
            threading.Thread(target=function, daemon=True).start()
        else:
            _start_thread(function)
    except RuntimeError:  # also while the interpreter shuts down
        function()


def _start_thread(function: Callable[[], object]) -> None:
    """Call a function in an idle thread, or in a new one: starting a thread takes longer than a request."""
    try:
        work = _idle.pop()
    except IndexError:
        work = queue.SimpleQueue()
        threading.Thread(target=_work, args=(work,), name="celery-locks asks", daemon=True).start()
    work.put(function)


def _work(work: Any) -> None:
    while True:
        try:
            function = work.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            try:
                _idle.remove(work)
            except ValueError:  # another thread took it just now, and will send work
                continue
            return
        if function is None:
            return
        function()
        del function
        _idle.append(work)


def end_idle() -> None:
    """End the idle threads, after a store was closed."""
    while _idle:
        with suppress(IndexError):  # another thread took it
            _idle.pop().put(None)


process.after_fork_in_child(_idle.clear)
