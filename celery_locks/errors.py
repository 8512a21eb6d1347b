"""The errors of celery-locks. Each has the ``key`` that it is about.

Every error survives pickle and Celery's JSON results: its ``args`` are all its arguments, as plain text, numbers or
lists of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

LossReason = Literal["expired", "stolen", "deleted", "unreachable", "max_hold", "replaced", "force_released"]
"""Why a lease ended before its holder released it.

``expired``: its ttl ran out; ``stolen``: another holder has the key; ``deleted``: its record is gone from the store;
``unreachable``: the store did not answer in time; ``max_hold``: it reached its longest holding; ``replaced``: a
newcomer took the key over; ``force_released``: it was released by force, such as by `Lock.force_release`.
"""
LOSS_REASONS: tuple[LossReason, ...] = get_args(LossReason)
"""Every `LossReason`."""


class LockError(Exception):
    """Base of all errors of celery-locks.

    Args:
        message: What happened, and what to do about it.
        key: The key that the error is about, or ``None`` if it is not about a single key.
    """

    def __init__(self, message: str = "", key: str | None = None) -> None:
        # Not by `super`: OSError, a base of `LockTimeout`, would read two arguments as an error number and its text.
        Exception.__init__(self, message, key)
        self.message = message
        self.key = key

    def __str__(self) -> str:
        return self.message


class LockContended(LockError):
    """The key is held by others.

    Args:
        message: What happened.
        key: The key.
        holders: The names of the holders, as far as they are known.
    """

    def __init__(self, message: str = "", key: str | None = None, holders: Sequence[str] = ()) -> None:
        super().__init__(message, key)
        self.holders = list(holders)
        self.args = (message, key, self.holders)


class LockTimeout(LockContended, TimeoutError):
    """The key was still held by others when the timeout was over. Also a `TimeoutError`."""


class LockLost(LockError):
    """A lease ended before its holder released it.

    Args:
        message: What happened.
        key: The key.
        reason: Why it ended; see `LossReason`.
    """

    def __init__(self, message: str = "", key: str | None = None, reason: LossReason | None = None) -> None:
        super().__init__(message, key)
        self.reason = reason
        self.args = (message, key, reason)


class LockNotOwned(LockError):
    """The lease is not held any more, or the ticket was cancelled."""


class LockKeyError(LockError, ValueError):
    """A key can't be made: a template doesn't fit its task, or an argument has no stable text. Also a `ValueError`."""


class LockConfigError(LockError, ValueError):
    """A setting or option is wrong. The message states which, and what to write instead. Also a `ValueError`."""


class StoreUnavailable(LockError):
    """The store can't be reached or can't serve the request. Nothing was acquired."""


class LockQueueFull(LockError):
    """The line for the key has ``max_waiters`` waiters already."""
