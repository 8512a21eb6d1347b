"""The policies by their names, and which of them is for the call and which for the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from celery_locks._validation import did_you_mean
from celery_locks.errors import LockConfigError
from celery_locks.settings import SCOPES, LockOptions
from celery_locks.tasks.policies.base import Contention, ContentionPolicy
from celery_locks.tasks.policies.basic import Park, Raise, RejectMessage, Replace, Retry, Skip, Wait
from celery_locks.tasks.policies.names import CallPolicyName
from celery_locks.tasks.scopes import scope_named


class CallablePolicy(ContentionPolicy):
    """A function as a policy."""

    def __init__(self, function: Callable[[Contention], Any]) -> None:
        self._function = function

    @property
    def name(self) -> str:
        return getattr(self._function, "__qualname__", repr(self._function))

    def contended(self, contention: Contention) -> Any:
        return self._function(contention)


#: By their names, which are those of `RunPolicyName`.
POLICIES: dict[str, ContentionPolicy] = {
    "retry": Retry(),
    "wait": Wait(),
    "skip": Skip(),
    "reject": RejectMessage(),
    "raise": Raise(),
    "park": Park(),
    "replace": Replace(),
}
CALL_POLICIES: tuple[CallPolicyName, ...] = get_args(CallPolicyName)
DEFAULT_CALL, DEFAULT_RUN = "existing", "retry"


def policy(value: Any, known: Iterable[str] = POLICIES) -> ContentionPolicy:
    """Return the policy for a run that an option names.

    Args:
        value: The option.
        known: The names that the error lists.

    Raises:
        LockConfigError: There is no such policy.
    """
    if isinstance(value, str):
        try:
            return POLICIES[value]
        except KeyError:
            raise LockConfigError(f"there is no on_contention {value!r}{did_you_mean(value, known)}") from None
    return value if isinstance(value, ContentionPolicy) else CallablePolicy(value)


def run_policy(options: LockOptions) -> ContentionPolicy:
    """The policy for a run that finds its key held."""
    return policy(_sides(options)[1])


def call_policy(options: LockOptions) -> str:
    """The policy for a call that finds its key held, one of `CALL_POLICIES`."""
    return str(_sides(options)[0])


def check_policies(value: Any) -> None:
    """Check the policies of both sides, whatever the scope.

    Raises:
        LockConfigError: There is no such policy, or none on that side.
    """
    if isinstance(value, Mapping):
        call = value.get("call", DEFAULT_CALL)
        if call not in CALL_POLICIES:
            raise LockConfigError(f'there is no on_contention["call"] {call!r}{did_you_mean(str(call), CALL_POLICIES)}')
        policy(value.get("run", DEFAULT_RUN))
    elif not (isinstance(value, str) and value in CALL_POLICIES):
        policy(value, tuple(dict.fromkeys((*POLICIES, *CALL_POLICIES))))


def check_call_side(value: Any, scope: str, task: str | None = None) -> None:
    """Check that only a scope that begins at the call has a policy for calls. (A run may contend in every scope.)

    Args:
        value: The option ``on_contention``.
        scope: The scope.
        task: The task's name, for the error.

    Raises:
        LockConfigError: It has one.
    """
    for_calls = "call" in value if isinstance(value, Mapping) else value == "existing"
    if not for_calls or scope_named(scope).call:
        return
    others = ", ".join(other for other in SCOPES if scope_named(other).call)
    raise LockConfigError(
        f"{f'{task}: ' if task else ''}on_contention={value!r} has no effect at the call with scope={scope!r}: "
        'its lease is taken at the run, so give a policy for "run" only, or choose a scope that begins at the call '
        f"({others})"
    )


def _sides(options: LockOptions) -> tuple[Any, Any]:
    """What the option says for the call and for the run.

    A policy without a side is for the call if there is a call's side and such a policy on it, else for the run.
    """
    value = options.on_contention
    if isinstance(value, Mapping):
        return value.get("call", DEFAULT_CALL), value.get("run", DEFAULT_RUN)
    at_call = scope_named(options.scope).call and isinstance(value, str) and value in CALL_POLICIES
    return (value, DEFAULT_RUN) if at_call else (DEFAULT_CALL, value)
