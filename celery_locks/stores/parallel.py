"""Asking several stores at once, and going on as soon as enough of them have answered.

Each call has a thread of its own, since a server that hangs must not keep the others waiting; where greenlets are in
the place of threads it is a greenlet of the asking thread's hub. Calls whose answer was not waited for go on.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from celery_locks._runtime import threads
from celery_locks._runtime.clock import system_clock
from celery_locks.errors import StoreUnavailable

T = TypeVar("T")

#: Seconds after which an idle thread ends.
IDLE = 30.0
#: The queues of threads that wait for something to do.
_idle: list[Any] = []


def ask(
    calls: Sequence[Callable[[], T]],
    timeout: float,
    enough: Callable[[Sequence[T | StoreUnavailable | None]], bool] = lambda answers: False,
) -> list[T | StoreUnavailable | None]:
    """Makes calls, all at once.

    When there are enough answers, those that need about as long are waited for too: up to twice the time.

    Args:
        calls: What to do; `StoreUnavailable` is an answer too, and any other error is raised.
        timeout: How long to wait at most, in seconds.
        enough: Whether these answers will do.

    Returns:
        For each call, in order, what it returned; why it could not; or ``None`` where it is still under way.
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
    """Calls a function that raises nothing in another thread; in this one where the system has no more of them."""
    try:
        if threads.greenlets():
            threading.Thread(target=function, daemon=True).start()
        else:
            _start_thread(function)
    except RuntimeError:  # also at the end of the interpreter
        function()


def _start_thread(function: Callable[[], object]) -> None:
    """Starting a thread takes longer than a server that is near: one that has nothing to do is taken first."""
    try:
        work = _idle.pop()
    except IndexError:
        work = queue.SimpleQueue()
        threading.Thread(target=_work, args=(work,), name="celery-locks asks", daemon=True).start()
    work.put(function)


def _work(work: Any) -> None:
    while True:
        try:
            function = work.get(timeout=IDLE)
        except queue.Empty:
            try:
                _idle.remove(work)
            except ValueError:  # it was taken just now: something is about to come
                continue
            return
        if function is None:
            return
        function()
        del function
        _idle.append(work)


def end_idle() -> None:
    """End the threads that have nothing to do, after a store was closed."""
    while _idle:
        with suppress(IndexError):  # another thread took it
            _idle.pop().put(None)


os.register_at_fork(after_in_child=_idle.clear)
