"""The local clock: seconds that only go forward, also while the machine sleeps."""

from __future__ import annotations

import time
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """What leases read the time from; tests pass one that they can move."""

    def now(self) -> float:
        """Seconds since some fixed moment. Never goes back, and goes on through a suspend of the machine."""


class SystemClock:
    """The operating system's own clock.

    Linux counts a suspend only in ``CLOCK_BOOTTIME``, macOS in ``CLOCK_MONOTONIC``.
    """

    _id: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

    # No method of ours: it is asked several times for each lease, and so the C function answers.
    now = staticmethod(time.monotonic if _id is None else partial(time.clock_gettime, _id))


system_clock = SystemClock()
