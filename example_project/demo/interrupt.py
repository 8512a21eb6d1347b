"""Signals such as Ctrl-C. The demo reacts to them only while it waits, so that no started process is forgotten."""

from __future__ import annotations

import signal
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: The longest time until a signal is noticed.
STEP_SECONDS = 0.05

_received: list[int] = []


class Interrupted(Exception):
    """A signal asks the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        #: The exit status that a shell expects.
        self.exit_status = 128 + number


def install() -> None:
    """Keep signals until the next `check`."""
    for number in SIGNALS:
        signal.signal(number, _note)


def check() -> None:
    """Raise `Interrupted` if a signal was received."""
    if _received:
        raise Interrupted(_received[0])


def pause(seconds: float) -> None:
    """Sleep, and raise `Interrupted` if a signal is received."""
    end = time.monotonic() + seconds
    check()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, STEP_SECONDS))
        check()


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(number)
