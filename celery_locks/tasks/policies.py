"""The policies by their names, and which of them is for the call and which for the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from celery_locks.errors import LockConfigError
from celery_locks.settings import LockOptions
from celery_locks.tasks.contention import (
    Contention,
    ContentionPolicy,
    Raise,
    RejectMessage,
    Replace,
    Retry,
    Skip,
    Wait,
)
from celery_locks.tasks.park import Park
from celery_locks.tasks.scopes import scope_named
from celery_locks.terms import did_you_mean


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
    "replace": Replace(),
}
#: What may happen to a call that finds its key held.
CALL_POLICIES = ("existing", "raise", "skip", "replace")
DEFAULT_CALL, DEFAULT_RUN = "existing", "retry"


def policy(value: Any) -> ContentionPolicy:
    """The policy for a run that an option names.

    Raises:
        LockConfigError: There is no such policy.
    """
    if isinstance(value, str):
        try:
            return POLICIES[value]
        except KeyError:
            raise LockConfigError(_unknown(value, POLICIES)) from None
    return value if isinstance(value, ContentionPolicy) else CallablePolicy(value)


def run_policy(options: LockOptions) -> ContentionPolicy:
    """The policy for a run that finds its key held."""
    return policy(_sides(options)[1])


def call_policy(options: LockOptions) -> str:
    """The policy for a call that finds its key held, one of `CALL_POLICIES`."""
    return str(_sides(options)[0])


def check_policies(options: LockOptions, scope_known: bool = True) -> None:
    """Checks the policies of both sides.

    Args:
        options: The options.
        scope_known: Whether their scope is that of a task, and not what may yet come from elsewhere.

    Raises:
        LockConfigError: There is no such policy, or none on that side.
    """
    value = options.on_contention
    if value == "existing" and not scope_named(options.scope).call:
        if not scope_known:
            return
        raise LockConfigError(
            f'on_contention="existing" is for calls, and with scope={options.scope!r} no lease is taken at the call: '
            'set scope="until_executed", or another policy'
        )
    if isinstance(value, str) and value not in POLICIES and value not in CALL_POLICIES:
        raise LockConfigError(_unknown(value, tuple(dict.fromkeys((*POLICIES, *CALL_POLICIES)))))
    call, run = _sides(options)
    if call not in CALL_POLICIES:
        raise LockConfigError(f'there is no on_contention["call"] {call!r}{did_you_mean(str(call), CALL_POLICIES)}')
    policy(run)


def _sides(options: LockOptions) -> tuple[Any, Any]:
    """What the option says for the call and for the run.

    A policy without a side is for the call if there is a call's side and such a policy on it, else for the run.
    """
    value = options.on_contention
    if isinstance(value, Mapping):
        return value.get("call", DEFAULT_CALL), value.get("run", DEFAULT_RUN)
    at_call = scope_named(options.scope).call and isinstance(value, str) and value in CALL_POLICIES
    return (value, DEFAULT_RUN) if at_call else (DEFAULT_CALL, value)


def _unknown(value: str, known: Any) -> str:
    return f"there is no on_contention {value!r}{did_you_mean(value, known)}"
