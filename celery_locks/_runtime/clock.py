"""The machine's clocks, which no tool that freezes or moves time in tests replaces."""

from __future__ import annotations

import sys
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
    # Tools that freeze time replace `time.monotonic` in all modules, and `time.clock_gettime` for CLOCK_REALTIME.
    now = staticmethod(partial(time.monotonic) if _id is None else partial(time.clock_gettime, _id))


system_clock = SystemClock()

#: Return the seconds since some fixed moment: for timeouts and pauses, instead of ``time.monotonic``.
monotonic = system_clock.now

_CLOCK_REALTIME_COARSE = 5
_linux = sys.platform.startswith("linux")

#: Return the seconds since 1970, within a few milliseconds: for moments that processes compare, instead of
#: ``time.time``. Linux has a second clock for them, which no tool knows.
wall_time = partial(time.clock_gettime, _CLOCK_REALTIME_COARSE if _linux else time.CLOCK_REALTIME)
