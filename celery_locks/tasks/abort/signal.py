"""The abort in prefork and solo pools: a signal to the main thread. It also ends a sleep or a wait for a socket."""

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

try:  # signal.getsignal() converts the handler to an enum, which takes 60 times as long
    from _signal import getsignal as _getsignal  # type: ignore[import-not-found]
except ImportError:  # not in every interpreter
    _getsignal = signal.getsignal

#: ``None`` on systems without it. SIGUSR1 is Celery's soft time limit.
ABORT_SIGNAL = getattr(signal, "SIGUSR2", None)


class SignalGuard(Guard):
    """For a body in the main thread.

    The abort is raised only while the frame that calls the body is on the stack. That is true from the first
    instruction of the body to its last one, also when another signal interrupts it.
    """

    def __init__(self, lease: Lease) -> None:
        self.lost = False
        self._frame: FrameType | None = None
        super().__init__(lease)

    def abort(self, lease: Lease, reason: LossReason) -> None:
        self.lost = True
        main = threading.main_thread()
        if threading.current_thread() is main:
            self.raise_if_lost(sys._getframe())
        elif self._frame is not None:
            assert ABORT_SIGNAL is not None
            assert main.ident is not None
            _handler.is_ours = True
            signal.pthread_kill(main.ident, ABORT_SIGNAL)

    def raise_if_lost(self, frame: FrameType | None) -> None:
        """Stop the body if its lease is lost and this frame of the main thread belongs to it.

        Raises:
            Aborted: The body is stopped.
        """
        if self.lost and not self.sent and self._is_called_from(frame):
            self.sent = True
            raise Aborted(self)

    def _call(self, body: Callable[[], T]) -> T:
        _handler.install()
        _guards.append(self)
        return self._call_in_frame(body)

    def _call_in_frame(self, body: Callable[[], T]) -> T:
        self._frame = sys._getframe()
        if self.lost or self.lease.lost:  # before the frame was known
            self.lost = True
            self.raise_if_lost(self._frame)
        return body()

    def _disarm(self) -> None:
        self._frame = None
        while self in _guards:  # the guards after it are of bodies within this one
            _guards.pop()

    def _is_called_from(self, frame: FrameType | None) -> bool:
        while frame is not None and frame is not self._frame:
            frame = frame.f_back
        return frame is not None


class _Handler:
    """The handler of the abort signal. A forked child inherits it, with the signal.

    Attributes:
        is_ours: Whether this library has sent the signal that comes next. It is not for the previous handler then.
        previous: The handler that was installed before.
    """

    is_ours = False
    previous: Any = None

    def install(self) -> None:
        """Install the handler for the abort signal. At every run, since billiard resets handlers in a new process."""
        assert ABORT_SIGNAL is not None
        current = _getsignal(ABORT_SIGNAL)
        if current is not self:
            self.previous = current
            signal.signal(ABORT_SIGNAL, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # No lock may be acquired here, because the main thread may hold it.
        is_ours, self.is_ours = self.is_ours, False
        for guard in _guards:
            guard.raise_if_lost(frame)
        if callable(self.previous) and not is_ours:
            self.previous(number, frame)


_handler = _Handler()
#: The guards of the bodies that run in the main thread, outermost first. Only the main thread changes the list.
_guards: list[SignalGuard] = []
