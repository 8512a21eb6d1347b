"""The policies by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_locks.errors import LockConfigError
from celery_locks.settings import did_you_mean
from celery_locks.tasks.contention import Contention, ContentionPolicy, Raise, RejectMessage, Retry, Skip, Wait
from celery_locks.tasks.park import Park


class CallablePolicy(ContentionPolicy):
    """A function as a policy."""

    def __init__(self, function: Callable[[Contention], Any]) -> None:
        self._function = function

    def contended(self, contention: Contention) -> Any:
        return self._function(contention)


POLICIES: dict[str, ContentionPolicy] = {
    "retry": Retry(),
    "wait": Wait(),
    "skip": Skip(),
    "reject": RejectMessage(),
    "raise": Raise(),
    "park": Park(),
}


def policy(value: Any) -> ContentionPolicy:
    """The policy that an option names.

    Raises:
        LockConfigError: There is no such policy.
    """
    if isinstance(value, str):
        try:
            return POLICIES[value]
        except KeyError:
            raise LockConfigError(f"there is no on_contention {value!r}{did_you_mean(value, POLICIES)}") from None
    return value if isinstance(value, ContentionPolicy) else CallablePolicy(value)
