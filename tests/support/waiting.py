"""Waiting for something to become true, instead of sleeping for as long as it probably takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout: float = 5, message: str = "", interval: float = 0.01) -> T:
    """Waits until ``condition()`` is true, and returns its value.

    An exception of the condition counts as "not yet": a server that is still starting refuses connections.

    Args:
        condition: What to wait for. A failing ``assert`` in it serves too, where it returns something true at its end.
        timeout: Seconds to wait at most. The condition is tried once more when they are over.
        message: What was waited for, or what its absence means.
        interval: Seconds between two tries.

    Raises:
        AssertionError: It did not come true. Says the message and the last value or exception.
    """
    deadline = time.monotonic() + timeout
    while True:
        last_try = time.monotonic() >= deadline
        error: Exception | None = None
        try:
            if value := condition():
                return value
            seen = f"last value: {value!r}"
        except Exception as caught:
            error, seen = caught, f"last exception: {caught!r}"
        if last_try:
            raise AssertionError(f"{message or 'It did not come true'} (waited {timeout:g} s; {seen})") from error
        time.sleep(interval)
