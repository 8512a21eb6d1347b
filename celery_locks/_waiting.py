"""Standing in line for a key until it is had."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from celery_locks._runtime.clock import Clock
from celery_locks._sansio import Steps, Turn
from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Refused

R = TypeVar("R")

#: The longest pause after the first of a bounded number of attempts; each further one is twice as long.
FIRST_PAUSE_SECONDS = 0.25
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
    attempts: int | None = None,
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
        attempts: How many looks it takes at most, with growing pauses, in which a wake-up brings the next look;
            ``None`` for any number.

    Returns:
        Steps that return the last answer.
    """
    looks, place = 0, PLACE_KEPT if place is None else place
    gives_up = None if claim.patience is None else clock.now() + claim.patience
    while True:
        left = place if until is None else until - clock.now()
        looks += 1
        last = left <= 0 or looks == attempts
        answer: R | Refused | None = seen
        if answer is None:
            if gives_up is not None:
                claim.patience = max(0.0, gives_up - clock.now())
            answer = yield partial(look, claim, None if last and not stay else place)
        if not isinstance(answer, Refused):
            return answer
        if looks == 1:
            refused(answer)
        if last or answer.full or (looks == 1 and hopeless(answer)):
            return answer
        seen = None
        pause = min(answer.retry_in, left, place / 3)
        if attempts is not None:
            pause = min(pause, FIRST_PAUSE_SECONDS * 2.0 ** min(looks - 1, 10))
        yield Turn(store, claim.name, claim.token, max(0.0, pause))
