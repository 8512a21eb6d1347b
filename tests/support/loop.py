"""Tests that are coroutines."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
Test = TypeVar("Test", bound=Callable[..., Coroutine[Any, Any, None]])


def on_a_loop(test: Test) -> Callable[..., None]:
    """Runs a test on an event loop of its own, for 100 s at most."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 100))

    return run


async def soon(condition: Callable[[], T | Awaitable[T]], timeout: float = 30, message: str = "") -> T:
    """Waits until a condition, or what it gives to await, is true, and returns its value; the loop goes on meanwhile.

    Raises:
        AssertionError: It did not come true within so many seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        last_try = time.monotonic() >= deadline
        answer = condition()
        value: Any = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value  # type: ignore[no-any-return]
        assert not last_try, f"{message or 'It did not come true'} (waited {timeout:g} s; last value: {value!r})"
        await asyncio.sleep(0.005)
