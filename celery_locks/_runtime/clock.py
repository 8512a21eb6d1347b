"""The machine's clocks, which no tool that freezes or moves time in tests replaces."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """A clock for the deadlines of leases. Tests pass one that they can move."""

    def now(self) -> float:
        """Return the seconds since some fixed moment: never fewer than before, and counted through a suspend."""


class SystemClock:
    """The operating system's own clock.

    Linux counts a suspend only in ``CLOCK_BOOTTIME``, macOS in ``CLOCK_MONOTONIC``.
    """

    _id: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

    # The C function itself, not a method that calls it: each lease reads the clock several times.
    # Tools that freeze time replace `time.monotonic` in all modules, and `time.clock_gettime` for CLOCK_REALTIME.
    now = staticmethod(partial(time.monotonic) if _id is None else partial(time.clock_gettime, _id))


system_clock = SystemClock()

#: Return the seconds since some fixed moment: for timeouts and pauses, instead of ``time.monotonic``.
monotonic = system_clock.now

_CLOCK_REALTIME_COARSE = 5
_is_linux = sys.platform.startswith("linux")

#: Return the seconds since 1970, within a few milliseconds: for moments that processes compare, instead of
#: ``time.time``. Linux has a second clock for them, which no tool replaces.
wall_time = partial(time.clock_gettime, _CLOCK_REALTIME_COARSE if _is_linux else time.CLOCK_REALTIME)
