"""What waits for locks, written as steps: what to do next is decided here, how it is done by whoever runs them.

A generator yields each step and is sent its answer, or thrown its error. `run` takes them in the calling thread, one
after the other; `celery_locks.aio` takes the same ones without holding up its event loop. So every decision (when to
try again, for how long to wait, what is given back when it fails) is written once.

Cleaning up after an error may not yield: nobody may be there any more to take a step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from celery_locks.stores.base import Store

T = TypeVar("T")

#: A step is called without arguments. One that is neither `Turn` nor `Pause` is short: one request to the store.
Step = Callable[[], Any]
Steps = Generator[Step, Any, T]


class Turn:
    """Waits until it may be a token's turn, for ``timeout`` seconds at most; see `Store.wait`."""

    def __init__(self, store: Store, name: str, token: str, timeout: float) -> None:
        self.store, self.name, self.token, self.timeout = store, name, token, timeout

    def __call__(self) -> None:
        self.store.wait(self.name, self.token, self.timeout)


class Pause:
    """Waits for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self) -> None:
        time.sleep(self.seconds)


class Abandoned(BaseException):
    """Thrown into steps whose caller has gone, by a thread that has the time to clean up after it."""


def run(steps: Steps[T], error: BaseException | None = None) -> T:
    """Takes all steps in this thread.

    Args:
        steps: What to do.
        error: What the step that was under way raised, where they are under way already.

    Returns:
        What they return; raises what they raise.
    """
    try:
        # In a function of its own: where a loop jumps back, an interrupt is outside of every `try` of that function.
        answer = _run(steps, error)
        return answer  # noqa: RET504 - a call in the return is outside the try
    finally:
        steps.close()  # this thread may have been interrupted between two steps


def _run(steps: Steps[T], error: BaseException | None) -> T:
    try:
        step = next(steps) if error is None else steps.throw(error)
        while True:
            try:
                answer = step()
            except BaseException as raised:  # noqa: PERF203 - each step has errors of its own
                step = steps.throw(raised)
            else:
                step = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
