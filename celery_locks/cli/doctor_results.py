"""Results of ``doctor``, and calls with a timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Literal, TypeVar

from celery_locks._addresses import mask_text

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: The name of the check.
        status: ``error`` if locks don't work, ``warning`` if they may break.
        text: The result, with the remedy if the status is not ok.
        store: The name of the store that was checked; empty for other checks.
    """

    check: str
    status: Literal["ok", "warning", "error"]
    text: str
    store: str = ""


def line_of(error: BaseException) -> str:
    """Return an error as one line, without its full stop and without the passwords of the URLs in it."""
    # The text of a KeyError is the repr of its argument.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return mask_text(" ".join(text.split()).rstrip(".") or type(error).__name__)


def within(seconds: float, function: Callable[[], T]) -> T:
    """Call a function in a thread, and wait this many seconds at most. A broker's client may wait forever.

    Raises:
        TimeoutError: The function has not returned. Its thread continues.
        Exception: The function raised it.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="celery-locks-doctor", daemon=True).start()
    if not wait([result], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return result.result()
