"""Ctrl-C and its like, noticed only where the demo waits: so no process is started and then forgotten."""

from __future__ import annotations

import signal
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds; a signal is noticed after no more than that.
STEP = 0.05

_received: list[int] = []


class Interrupted(Exception):
    """Somebody wants the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        #: As a shell would say it.
        self.exit_status = 128 + number


def install() -> None:
    """From now on signals wait for the next `check`."""
    for number in SIGNALS:
        signal.signal(number, _note)


def check() -> None:
    """Raises `Interrupted` if a signal has come."""
    if _received:
        raise Interrupted(_received[0])


def pause(seconds: float) -> None:
    """Sleeps, and raises `Interrupted` when a signal comes."""
    end = time.monotonic() + seconds
    check()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, STEP))
        check()


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(number)
