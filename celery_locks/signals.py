"""What happens to leases, told to whoever wants to know.

``holders`` are names. ``owner`` is the name that the holder would have had, ``None`` for host and process id.
``sender`` is the task, or the `Lock` outside a task. Signals are sent by the thread that notices: renewals and most
losses by a thread of this library, so receivers should be short and thread-safe.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, overload

from celery_locks import _logging

__all__ = [
    "Signal",
    "on_lock_acquired",
    "on_lock_contended",
    "on_lock_lost",
    "on_lock_released",
    "on_lock_renewed",
    "on_lock_timed_out",
]

logger = _logging.logger(__name__)

Receiver = Callable[..., object]
R = TypeVar("R", bound=Receiver)


class Signal:
    """A list of receivers, with the interface of Celery's signals (whose module would import Celery).

    Args:
        name: For the log.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._changes = threading.RLock()
        #: Replaced, never changed: `send` goes over it without a lock. Where a signal is sent most often, this is asked
        #: first whether anybody listens.
        self.receivers: tuple[tuple[Callable[[], Receiver | None], Any], ...] = ()

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return bool(self.receivers)

    @overload
    def connect(self, receiver: R, sender: Any = None, weak: bool = True) -> R: ...
    @overload
    def connect(self, receiver: None = None, sender: Any = None, weak: bool = True) -> Callable[[R], R]: ...
    def connect(self, receiver: Any = None, sender: Any = None, weak: bool = True) -> Any:
        """Calls ``receiver`` at every signal; also a decorator, with arguments or without.

        Args:
            receiver: Called with keyword arguments; it should accept ``**kwargs``, for those to come.
            sender: Only signals of this sender.
            weak: Keep no strong reference, so that the receiver goes when nothing else holds it. Lambdas and local
                functions need ``weak=False``.
        """
        if receiver is None:
            return lambda function: self.connect(function, sender, weak)
        entry = (_reference(receiver, weak), sender)
        with self._changes:
            self.disconnect(receiver, sender)
            self.receivers = (*self.receivers, entry)
        return receiver

    def disconnect(self, receiver: Receiver, sender: Any = None) -> bool:
        """Calls ``receiver`` no more for this sender. Returns whether it had been connected."""
        with self._changes:
            kept = tuple(entry for entry in self.receivers if not (entry[0]() == receiver and _is(entry[1], sender)))
            found = len(kept) < len(self.receivers)
            self.receivers = kept
        return found

    def send(self, sender: Any, **named: Any) -> None:
        """Calls the receivers of this sender. One that raises is logged and disturbs nothing."""
        for reference, wanted in self.receivers:
            receiver = reference()
            if receiver is None:
                with self._changes:
                    self.receivers = tuple(entry for entry in self.receivers if entry[0]() is not None)
            elif wanted is None or _is(wanted, sender):
                try:
                    receiver(sender=sender, **named)
                except Exception:
                    logger.exception("a receiver of %s raised: %r", self.name, receiver)


def _reference(receiver: Receiver, weak: bool) -> Callable[[], Receiver | None]:
    if not weak:
        return lambda: receiver
    try:
        return weakref.WeakMethod(receiver)
    except TypeError:
        return weakref.ref(receiver)


def _is(wanted: Any, sender: Any) -> bool:
    # A Celery task may be known by a proxy, which is equal to it and not the same object.
    return wanted is sender or (wanted is not None and bool(wanted == sender))


on_lock_acquired = Signal("on_lock_acquired")
"""A lease was had. Receivers get ``sender``, ``lease``."""
on_lock_contended = Signal("on_lock_contended")
"""A lease was not to be had. Receivers get ``sender``, ``key``, ``holders``, ``owner``, ``store``."""
on_lock_renewed = Signal("on_lock_renewed")
"""A lease was prolonged. Receivers get ``sender``, ``lease``."""
on_lock_timed_out = Signal("on_lock_timed_out")
"""The waiting for a lease ended with `LockTimeout`. Receivers get ``sender``, ``key``, ``holders``, ``owner``, ``store``.

Sent once for each `LockTimeout`: by ``acquire(timeout)``, and by a run under any policy whose ``max_wait`` is over.
Several keys together are one acquisition: ``key`` is the one that was not available.
"""
on_lock_released = Signal("on_lock_released")
"""A lease was released by its holder. Receivers get ``sender``, ``lease``."""
on_lock_lost = Signal("on_lock_lost")
"""A lease ended before its holder released it; told once. Receivers get ``sender``, ``lease``, ``reason``."""
