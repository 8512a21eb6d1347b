"""Growing pauses between tries."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from celery_locks.errors import LockConfigError


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff: the pause before try ``n`` (from 0) is ``base * factor ** n``, at most ``cap``.

    With ``jitter="full"`` it is drawn evenly between 0 and that ("Exponential Backoff And Jitter", M. Brooker, AWS
    Architecture Blog, 2015), so that tasks which met once do not meet again.

    Attributes:
        base: The first pause, in seconds.
        factor: How much longer each pause is than the one before.
        cap: The longest pause, in seconds.
        jitter: ``"full"`` or ``"none"``.
    """

    base: float = 0.25
    factor: float = 2
    cap: float = 30
    jitter: Literal["full", "none"] = "full"

    def __post_init__(self) -> None:
        if not (self.base > 0 and self.factor >= 1 and self.cap >= self.base):
            raise LockConfigError(f"{self}: base must be above 0, factor at least 1 and cap at least base")
        if self.jitter not in ("full", "none"):
            raise LockConfigError(f'jitter is "full" or "none", not {self.jitter!r}')

    def delay(self, attempt: int, cap: float | None = None) -> float:
        """The pause in seconds before try ``attempt`` (from 0), at most ``cap`` where that is less than its own."""
        cap = self.cap if cap is None else min(cap, self.cap)
        # Past 64 doublings every pause is the cap; a larger power would overflow.
        longest = min(cap, self.base * self.factor ** min(attempt, 64))
        return random.uniform(0, longest) if self.jitter == "full" else longest
