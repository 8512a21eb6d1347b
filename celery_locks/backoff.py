"""Growing pauses between attempts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from celery_locks._durations import Duration, is_number, seconds_of
from celery_locks.errors import LockConfigError


@dataclass(frozen=True, init=False)
class Backoff:
    """Exponential backoff: the pause before attempt ``n`` (from 0) is ``base * factor ** n``, at most ``cap``.

    With ``jitter="full"`` the pause is drawn evenly between 0 and that value. So tasks that met once do not meet again
    (M. Brooker: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    Args:
        base: The first pause: seconds, a ``timedelta`` or a text such as ``"250ms"``.
        factor: The ratio of each pause to the one before, at least 1.
        cap: The longest pause, in the same forms.
        jitter: ``"full"`` or ``"none"``.

    Raises:
        LockConfigError: An argument is wrong.

    Attributes:
        base: The first pause, in seconds.
        factor: The ratio of each pause to the one before.
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
            raise LockConfigError(f"factor={factor!r} is not a number: give a number of at least 1")
        vars(self).update(base=seconds_of("base", base), factor=factor, cap=seconds_of("cap", cap), jitter=jitter)
        if not (self.base > 0 and self.factor >= 1 and self.cap >= self.base):
            raise LockConfigError(f"{self}: base must be above 0, factor at least 1 and cap at least base")
        if self.jitter not in ("full", "none"):
            raise LockConfigError(f'jitter is "full" or "none", not {self.jitter!r}')

    def delay(self, attempt: int, cap: float | None = None) -> float:
        """Return the pause before an attempt.

        Args:
            attempt: The number of the attempt, from 0.
            cap: The longest pause in seconds, if it is to be shorter than the backoff's own cap.

        Returns:
            The pause in seconds.
        """
        cap = self.cap if cap is None else min(cap, self.cap)
        try:
            longest = max(0.0, min(cap, self.base * float(self.factor) ** attempt))
        except OverflowError:
            longest = max(0.0, cap)
        return random.uniform(0, longest) if self.jitter == "full" else longest
