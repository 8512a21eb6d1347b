"""The prefork and solo pools: a signal to the main thread, which stops a body that sleeps or waits for a socket too."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

from celery_locks.errors import LossReason
from celery_locks.lease import Lease
from celery_locks.tasks.abort.guard import Aborted, Guard

T = TypeVar("T")

try:  # the same, without making an enum's member of what it returns: that takes 60 times as long as all the rest
    from _signal import getsignal as _getsignal  # type: ignore[import-not-found]
except ImportError:  # an interpreter that keeps it elsewhere
    _getsignal = signal.getsignal

#: ``None`` where the system has no such signals. SIGUSR1 is Celery's soft time limit.
SIGNAL = getattr(signal, "SIGUSR2", None)


class SignalGuard(Guard):
    """For a body in the main thread.

    The abort lands where the frame that calls the body is on the stack, and nowhere else: that is true from the body's
    first instruction to its last, however it ends, also when something else strikes at that moment.
    """

    def __init__(self, lease: Lease) -> None:
        self.lost = False
        self._frame: FrameType | None = None
        super().__init__(lease)

    def abort(self, lease: Lease, reason: LossReason) -> None:
        self.lost = True
        main = threading.main_thread()
        if threading.current_thread() is main:
            self.strike(sys._getframe())
        elif self._frame is not None:
            assert SIGNAL is not None
            assert main.ident is not None
            _sent.add(True)
            signal.pthread_kill(main.ident, SIGNAL)

    def strike(self, frame: FrameType | None) -> None:
        """Raises `Aborted` if the body is to be stopped and this frame, of the main thread, is one of it.

        Raises:
            Aborted: So it is.
        """
        if self.lost and not self.sent and self._calls(frame):
            self.sent = True
            raise Aborted(self)

    def _call(self, body: Callable[[], T]) -> T:
        _install()
        _guards.append(self)
        return self._call_framed(body)

    def _call_framed(self, body: Callable[[], T]) -> T:
        self._frame = sys._getframe()
        if self.lost or self.lease.lost:  # before there was a frame
            self.lost = True
            self.strike(self._frame)
        return body()

    def _disarm(self) -> None:
        self._frame = None
        while self in _guards:  # those after it are of bodies within this one
            _guards.pop()

    def _calls(self, frame: FrameType | None) -> bool:
        while frame is not None and frame is not self._frame:
            frame = frame.f_back
        return frame is not None


#: Of the bodies that run in the main thread, outermost first. Only the main thread changes it.
_guards: list[SignalGuard] = []
_previous: Any = None
#: Set while a signal of ours is under way: it is not for the handler that was there before.
_sent: set[bool] = set()


def _install() -> None:
    """Takes the signal, unless it is taken: at every run, since billiard resets handlers after a child has started."""
    global _previous
    assert SIGNAL is not None
    current = _getsignal(SIGNAL)
    if current is not _on_signal:
        _previous = current
        signal.signal(SIGNAL, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    # No lock may be taken here: the main thread may hold it.
    ours = bool(_sent)
    _sent.clear()
    for guard in _guards:
        guard.strike(frame)
    if callable(_previous) and not ours:
        _previous(number, frame)
