"""Waiting for locks, written as steps: the decisions are made here, and the caller runs the steps its own way.

A generator yields each step and is sent the step's answer, or thrown its error. `run` runs the steps in the calling
thread. `celery_locks.aio` runs the same steps without blocking its event loop. So each decision is written once: when
to try again, how long to wait, and what to release after an error.

A generator must not yield while it cleans up after an error: by then no one may run its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from math import inf
from typing import Any, TypeVar

from celery_locks._runtime.clock import Clock
from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Refused

T = TypeVar("T")
R = TypeVar("R")

#: A step is called without arguments. A step that is not a `Turn` is short: one request to the store.
Step = Callable[[], Any]
Steps = Generator[Step, Any, T]

#: The longest pause after the first of a bounded number of attempts. Each further pause is twice as long.
FIRST_PAUSE_SECONDS = 0.25
#: How long the store keeps the place of a waiter that does not confirm it.
PLACE_KEPT_SECONDS = 10.0
#: The longest wait between two requests in a store that keeps the place meanwhile, and watches all deadlines.
LONGEST_WAIT_SECONDS = 30.0


class Turn:
    """Waits until a token's turn may have come, for ``timeout`` seconds at most; see `Store.wait`."""

    def __init__(self, store: Store, name: str, token: str, timeout: float) -> None:
        self.store, self.name, self.token, self.timeout = store, name, token, timeout

    def __call__(self) -> None:
        self.store.wait(self.name, self.token, self.timeout)


class CallerCancelled(BaseException):
    """Thrown into steps whose caller was cancelled, by a thread that may block while it cleans up."""


def run(steps: Steps[T], error: BaseException | None = None) -> T:
    """Run all steps in this thread.

    Args:
        steps: The steps.
        error: The error of the current step, if the steps have begun already.

    Returns:
        The return value of the steps. Their error is raised.
    """
    try:
        # A function of its own: an interrupt at a loop's jump back is outside of every `try` of the loop's function.
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


def wait_in_line(
    store: Store,
    clock: Clock,
    claim: Claim,
    until: float | None,
    ask: Callable[[Claim, float | None], R | Refused],
    on_refused: Callable[[Refused], object],
    place: float | None = None,
    stay: bool = False,
    first_answer: Refused | None = None,
    is_hopeless: Callable[[Refused], bool] = lambda refused: False,
    attempts: int | None = None,
) -> Steps[R | Refused]:
    """Wait in line until the claim is granted, or the time or the attempts are over. A place in line is kept.

    Args:
        store: The store.
        clock: The clock of ``until``.
        claim: The claim.
        until: When to stop waiting; ``None`` for never.
        ask: Asks the store for the claim, and for a place in line for a number of seconds; see `Store.acquire`.
        on_refused: Called once, with the first refusal.
        place: For how many seconds the place is kept after each request; `PLACE_KEPT_SECONDS` by default.
        stay: Whether to stand in line also after the last request.
        first_answer: The answer to the first request, if the caller has made it already.
        is_hopeless: Whether no wait is long enough. Called with the first refusal; if so, the steps end with it.
        attempts: The highest number of requests, with growing pauses between them, which a wake-up ends; ``None`` for
            any number.

    Returns:
        Steps that return the store's last answer.
    """
    requests, place = 0, PLACE_KEPT_SECONDS if place is None else place
    patience_ends = None if claim.patience is None else clock.now() + claim.patience
    while True:
        left = inf if until is None else until - clock.now()
        requests += 1
        is_last = left <= 0 or requests == attempts
        answer: R | Refused | None = first_answer
        if answer is None:
            if patience_ends is not None:
                claim.patience = max(0.0, patience_ends - clock.now())
            answer = yield partial(ask, claim, None if is_last and not stay else place)
        if not isinstance(answer, Refused):
            return answer
        if requests == 1:
            on_refused(answer)
        if is_last or answer.full or (requests == 1 and is_hopeless(answer)):
            return answer
        first_answer = None
        pause = min(left, LONGEST_WAIT_SECONDS if store.keeps_places else min(answer.retry_in, place / 3))
        if attempts is not None:
            pause = min(pause, FIRST_PAUSE_SECONDS * 2.0 ** min(requests - 1, 10))
        yield Turn(store, claim.name, claim.token, max(0.0, pause))
