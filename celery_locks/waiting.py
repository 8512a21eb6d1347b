"""Standing in line for a key until it is had."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from celery_locks.clock import Clock
from celery_locks.steps import Steps, Turn
from celery_locks.stores.base import Claim, Refused, Store

R = TypeVar("R")

#: A waiter that has not confirmed its place in line for so many seconds is passed over.
PLACE_KEPT = 10.0


def wait_in_line(
    store: Store,
    clock: Clock,
    claim: Claim,
    until: float | None,
    look: Callable[[Claim, float | None], R | Refused],
    refused: Callable[[Refused], object],
    place: float | None = None,
    stay: bool = False,
    seen: Refused | None = None,
    hopeless: Callable[[Refused], bool] = lambda refused: False,
) -> Steps[R | Refused]:
    """Waits in line until the claim is granted or it is too late; its place, if it has one, is kept.

    Args:
        store: Where to wait.
        clock: What ``until`` is a moment of.
        claim: What is asked for.
        until: When to stop waiting; ``None`` for never.
        look: Asks for it, and for how many seconds to stand in line if it is not to be had; see `Store.acquire`.
        refused: Called once, when it has to wait.
        place: For how many seconds the place is kept after each look; `PLACE_KEPT` by default.
        stay: Stand in line also when it is too late already.
        seen: The answer to a first look, where that was taken already.
        hopeless: Whether no time is long enough; asked once, before it waits. Then it ends with that answer.

    Returns:
        Steps that return the last answer.
    """
    contended, place = False, PLACE_KEPT if place is None else place
    while True:
        left = place if until is None else until - clock.now()
        answer: R | Refused | None = seen
        if answer is None:
            answer = yield partial(look, claim, place if left > 0 or stay else None)
        if not isinstance(answer, Refused):
            return answer
        first, contended = not contended, True
        if first:
            refused(answer)
        if left <= 0 or (first and hopeless(answer)):
            return answer
        seen = None
        yield Turn(store, claim.name, claim.token, max(0.0, min(answer.retry_in, left, place / 3)))
