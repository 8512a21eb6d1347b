"""Time that stands still or is moved, as tools for tests do it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

#: The date that the tools are set to: seconds since 1970.
DATE = 946_684_800.0
_FUNCTIONS = (time.time, time.monotonic, time.perf_counter)


@contextmanager
def frozen_time(ticking: bool = False) -> Iterator[None]:
    """Set the functions of `time` to a date, as freezegun does: also where a module has imported them.

    Args:
        ticking: Whether time goes on from that date.
    """
    real_time = time.time
    fakes = {id(function): _fake(function, ticking) for function in _FUNCTIONS}
    get = time.clock_gettime

    def moved(clock: int) -> float:
        """As time-machine does it: only this clock is moved."""
        return fakes[id(real_time)]() if clock == time.CLOCK_REALTIME else get(clock)

    modules = [time, *(module for name, module in sys.modules.items() if name.startswith("celery_locks"))]
    with ExitStack() as patches:
        for module in modules:
            for name, value in list(vars(module).items()):
                if id(value) in fakes:
                    patches.enter_context(patch.object(module, name, fakes[id(value)]))
        patches.enter_context(patch.object(time, "clock_gettime", moved))
        yield


def _fake(function: Callable[[], float], ticking: bool) -> Callable[[], float]:
    begun = function()
    return (lambda: DATE + function() - begun) if ticking else (lambda: DATE)
