"""Durations: read from options, and formatted for people."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any

from celery_locks.errors import LockConfigError

#: A duration in an option: seconds, a ``timedelta``, or a text such as ``"30s"``, ``"5m"``, ``"1h30m"``.
Duration = float | timedelta | str

#: Milliseconds of each unit, in the order in which a text has them.
_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_TEXT = re.compile(r"\s*".join(rf"(?:(\d+(?:\.\d+)?)\s*{unit})?" for unit in _UNITS), re.ASCII)


def seconds_of(name: str, value: Any) -> float:
    """Return a duration in seconds, of any sign.

    Args:
        name: The option, for the error.
        value: The value of the option.

    Raises:
        LockConfigError: It is not a duration.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    seconds: Any = _seconds_of_text(value) if isinstance(value, str) else value
    if is_number(seconds):
        return float(seconds)
    raise LockConfigError(
        f"{name}={value!r} is not a duration: give seconds such as 30, a timedelta, or a text such as "
        '"30s", "5m" or "1h30m" (units d, h, m, s, ms)'
    )


def _seconds_of_text(text: str) -> float | None:
    found = _TEXT.fullmatch(text.strip())
    numbers = [] if found is None else found.groups()
    if not any(numbers):
        return None
    milliseconds = (float(number) * unit for number, unit in zip(numbers, _UNITS.values(), strict=True) if number)
    return sum(milliseconds) / 1_000


def is_number(value: object) -> bool:
    """Return whether a value is a finite number that a float can hold, and not a ``bool``."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int that is too large
        return False


def duration(seconds: float) -> str:
    """Return a duration for people to read."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
