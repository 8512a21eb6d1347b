"""The local clock: seconds that only go forward, also while the machine sleeps."""

from __future__ import annotations

import time
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

    def now(self) -> float:
        return time.monotonic() if self._id is None else time.clock_gettime(self._id)


system_clock = SystemClock()
