"""Standing in line for a key until it is had."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from celery_locks.clock import Clock
from celery_locks.steps import Steps, Turn
from celery_locks.stores.base import Claim, Granted, Refused, Store

#: A waiter that has not confirmed its place in line for so many seconds is passed over.
PLACE_KEPT = 10.0


def wait_in_line(
    store: Store,
    clock: Clock,
    claim: Claim,
    until: float | None,
    refused: Callable[[Refused], object],
    place: float | None = None,
    stay: bool = False,
    seen: tuple[Refused, float] | None = None,
) -> Steps[tuple[Granted | Refused, float]]:
    """Waits in line until the claim is granted or it is too late; its place, if it has one, is kept.

    Args:
        store: Where to wait.
        clock: What ``until`` is a moment of.
        claim: What is asked for.
        until: When to stop waiting; ``None`` for never.
        refused: Called once, when it has to wait.
        place: For how many seconds the place is kept after each look at the store; `PLACE_KEPT` by default.
        stay: Stand in line also when it is too late already.
        seen: The answer to a first look that was taken already, and when it was asked for.

    Returns:
        Steps that return the last answer, and when it was asked for.
    """
    contended, place = False, PLACE_KEPT if place is None else place
    while True:
        answer: Granted | Refused
        if seen is not None:
            (answer, sent), seen = seen, None
            left = place if until is None else until - sent
        else:
            sent = clock.now()
            left = place if until is None else until - sent
            answer = yield partial(store.acquire, claim, place if left > 0 or stay else None)
        if isinstance(answer, Granted):
            return answer, sent
        if not contended:
            contended = True
            refused(answer)
        if left <= 0:
            return answer, sent
        yield Turn(store, claim.name, claim.token, max(0.0, min(answer.retry_in, left, place / 3)))
