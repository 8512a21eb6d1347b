"""The errors of celery-locks; each carries the ``key`` it is about.

Every error survives pickle and Celery's JSON results: its ``args`` are all that it is made of, and all of them are
plain text, numbers or lists of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

LossReason = Literal["expired", "stolen", "deleted", "unreachable", "max_hold", "replaced", "force_released"]
"""Why a lease ended before its holder released it.

``expired``: its time ran out; ``stolen``: someone else has the key; ``deleted``: its record is gone from the store;
``unreachable``: the store did not answer in time; ``max_hold``: it was held for as long as it may be; ``replaced``: a
newcomer took the key over; ``force_released``: it was released by force, such as by `Lock.force_release`.
"""
LOSS_REASONS: tuple[LossReason, ...] = get_args(LossReason)
"""Every `LossReason`."""


class LockError(Exception):
    """Base of all errors of celery-locks.

    Args:
        message: What happened and what to do about it.
        key: The key it is about, or ``None`` where it is about no single key.
    """

    def __init__(self, message: str = "", key: str | None = None) -> None:
        # Not by `super`: OSError, a base of `LockTimeout`, would take two arguments for an error number and its text.
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
        holders: Names of those who hold it, as far as they are known.
    """

    def __init__(self, message: str = "", key: str | None = None, holders: Sequence[str] = ()) -> None:
        super().__init__(message, key)
        self.holders = list(holders)
        self.args = (message, key, self.holders)


class LockTimeout(LockContended, TimeoutError):
    """The key was still held by others when the waiting time was over. Also a `TimeoutError`."""


class LockLost(LockError):
    """A lease ended before its holder released it.

    Args:
        message: What happened.
        key: The key.
        reason: Why, see `LossReason`.
    """

    def __init__(self, message: str = "", key: str | None = None, reason: LossReason | None = None) -> None:
        super().__init__(message, key)
        self.reason = reason
        self.args = (message, key, reason)


class LockNotOwned(LockError):
    """The lease asked for is not one that this token holds."""


class LockKeyError(LockError, ValueError):
    """A key can't be made: a template doesn't fit its task, or an argument has no stable text. Also a `ValueError`."""


class LockConfigError(LockError, ValueError):
    """A setting or option is wrong; the message states which, and what to write instead. Also a `ValueError`."""


class StoreUnavailable(LockError):
    """The store can't be reached or can't serve: nothing was acquired."""


class LockQueueFull(LockError):
    """The line for the key is as long as it may be."""
