"""Growing pauses between tries."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from celery_locks._durations import Duration, is_number, seconds_of
from celery_locks.errors import LockConfigError


@dataclass(frozen=True, init=False)
class Backoff:
    """Exponential backoff: the pause before try ``n`` (from 0) is ``base * factor ** n``, at most ``cap``.

    With ``jitter="full"`` it is drawn evenly between 0 and that ("Exponential Backoff And Jitter", M. Brooker, AWS
    Architecture Blog, 2015), so that tasks which met once do not meet again.

    Args:
        base: The first pause: seconds, a ``timedelta`` or a text such as ``"250ms"``.
        factor: How much longer each pause is than the one before.
        cap: The longest pause.
        jitter: ``"full"`` or ``"none"``.

    Attributes:
        base: The first pause, in seconds.
        factor: How much longer each pause is than the one before.
        cap: The longest pause, in seconds.
        jitter: ``"full"`` or ``"none"``.
    """

    base: float
    factor: float
    cap: float
    jitter: Literal["full", "none"]

    def __init__(
        self,
        base: Duration = 0.25,
        factor: float = 2,
        cap: Duration = 30,
        jitter: Literal["full", "none"] = "full",
    ) -> None:
        if not is_number(factor):
            raise LockConfigError(f"factor={factor!r} is not a number: give one from 1 on")
        vars(self).update(base=seconds_of("base", base), factor=factor, cap=seconds_of("cap", cap), jitter=jitter)
        if not (self.base > 0 and self.factor >= 1 and self.cap >= self.base):
            raise LockConfigError(f"{self}: base must be above 0, factor at least 1 and cap at least base")
        if self.jitter not in ("full", "none"):
            raise LockConfigError(f'jitter is "full" or "none", not {self.jitter!r}')

    def delay(self, attempt: int, cap: float | None = None) -> float:
        """The pause in seconds before try ``attempt`` (from 0), at most ``cap`` where that is less than its own."""
        cap = self.cap if cap is None else min(cap, self.cap)
        try:
            longest = max(0.0, min(cap, self.base * float(self.factor) ** attempt))
        except OverflowError:
            longest = max(0.0, cap)
        return random.uniform(0, longest) if self.jitter == "full" else longest
