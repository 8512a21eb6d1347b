"""Time that stands still or is moved, as tools for tests do it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    fakes = {id(function): _fake(function, ticking) for function in _FUNCTIONS}
    modules = [time, *(module for name, module in sys.modules.items() if name.startswith("celery_locks"))]
    patches = [
        patch.object(module, name, fakes[id(value)])
        for module in modules
        for name, value in vars(module).items()
        if id(value) in fakes
    ]
    # As time-machine does it: only this clock is moved.
    get = time.clock_gettime
    moved = fakes[id(time.time)]
    patches.append(patch.object(time, "clock_gettime", lambda clock: moved() if clock == 0 else get(clock)))
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def _fake(function: Callable[[], float], ticking: bool) -> Callable[[], float]:
    begun = function()
    return (lambda: DATE + function() - begun) if ticking else (lambda: DATE)
