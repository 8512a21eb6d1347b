"""The policies by their names, and which policy an option selects for the call and for the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, NoReturn, get_args

from celery_locks._validation import did_you_mean
from celery_locks.errors import LockConfigError
from celery_locks.lease import Lease
from celery_locks.settings import SCOPES, LockOptions
from celery_locks.tasks.policies.base import Contention, ContentionPolicy, Skipped
from celery_locks.tasks.policies.park import park
from celery_locks.tasks.scopes import scope_named

#: What may happen to a call that finds its key held.
CallPolicyName = Literal["existing", "raise", "skip", "replace"]
#: What may happen to a run that finds its key held.
RunPolicyName = Literal["retry", "wait", "skip", "reject", "raise", "park", "replace"]


class FunctionPolicy(ContentionPolicy):
    """A function as a policy. It has the contract of `ContentionPolicy.contended`."""

    def __init__(self, function: Callable[[Contention], Any]) -> None:
        self._function = function

    @property
    def name(self) -> str:
        """The name of the function, for error messages."""
        return getattr(self._function, "__qualname__", repr(self._function))

    def contended(self, contention: Contention) -> Any:
        """Call the function."""
        return self._function(contention)


class ParkPolicy(FunctionPolicy):
    """Parks the task: it waits in line in the store, first come first served."""

    def __init__(self) -> None:
        super().__init__(Contention.park)

    def enter(self, contention: Contention) -> Lease | Skipped:
        """Acquire the lease or park, in one step of the store."""
        if contention.local or contention.claim.adopts:
            return super().enter(contention)
        return park(contention)


def _wait(contention: Contention) -> Lease:
    """Wait in the worker's slot, up to ``max_wait``. The release ends the wait."""
    return contention.wait_locally() if contention.local else contention.wait()


def _reject(contention: Contention) -> Lease:
    """Reject the message, for a dead-letter queue. An eager run waits instead."""
    return contention.wait_locally() if contention.local else contention.reject()


def _raise(contention: Contention) -> NoReturn:
    """Fail the run with `LockContended`."""
    raise contention.error()


def _replace(contention: Contention) -> Lease:
    """Take the key from its holders, who lose their leases with the reason ``replaced``."""
    contention.lock._refuse_nested(contention.refused)
    answer = contention.lock._attempt(replace(contention.claim, replaces=True))
    if isinstance(answer, Lease):
        return answer
    contention.refused = answer
    raise contention.error()


#: The policies for a run; their names are those of `RunPolicyName`.
POLICIES: dict[str, ContentionPolicy] = {
    "retry": FunctionPolicy(Contention.retry),
    "wait": FunctionPolicy(_wait),
    "skip": FunctionPolicy(Contention.skip),
    "reject": FunctionPolicy(_reject),
    "raise": FunctionPolicy(_raise),
    "park": ParkPolicy(),
    "replace": FunctionPolicy(_replace),
}
CALL_POLICIES: tuple[CallPolicyName, ...] = get_args(CallPolicyName)
DEFAULT_CALL_POLICY, DEFAULT_RUN_POLICY = "existing", "retry"


def _policy_of(value: Any, known: Iterable[str] = POLICIES) -> ContentionPolicy:
    """Return the policy for a run: of a name, of a function, or the policy itself.

    Raises:
        LockConfigError: No policy has this name. The error lists the known names.
    """
    if isinstance(value, str):
        try:
            return POLICIES[value]
        except KeyError:
            raise LockConfigError(f"there is no on_contention {value!r}{did_you_mean(value, known)}") from None
    return value if isinstance(value, ContentionPolicy) else FunctionPolicy(value)


def run_policy(options: LockOptions) -> ContentionPolicy:
    """Return the policy for a run that finds its key held."""
    return _policy_of(_sides(options)[1])


def call_policy(options: LockOptions) -> str:
    """Return the policy for a call that finds its key held, one of `CALL_POLICIES`."""
    return str(_sides(options)[0])


def check_policies(value: Any) -> None:
    """Check the policies of both sides, for any scope.

    Raises:
        LockConfigError: No policy has this name, or none for this side.
    """
    if isinstance(value, Mapping):
        call = value.get("call", DEFAULT_CALL_POLICY)
        if call not in CALL_POLICIES:
            raise LockConfigError(f'there is no on_contention["call"] {call!r}{did_you_mean(str(call), CALL_POLICIES)}')
        _policy_of(value.get("run", DEFAULT_RUN_POLICY))
    elif not (isinstance(value, str) and value in CALL_POLICIES):
        _policy_of(value, tuple(dict.fromkeys((*POLICIES, *CALL_POLICIES))))


def check_call_side(value: Any, scope: str, task: str | None = None) -> None:
    """Check that ``on_contention`` has no policy for calls in a scope that begins at the run.

    Raises:
        LockConfigError: It has a policy for calls.
    """
    for_calls = "call" in value if isinstance(value, Mapping) else value == "existing"
    if not for_calls or scope_named(scope).call:
        return
    others = ", ".join(other for other in SCOPES if scope_named(other).call)
    raise LockConfigError(
        f"{task_prefix(task)}on_contention={value!r} has no effect at the call with scope={scope!r}: "
        'its lease is taken at the run, so give a policy for "run" only, or choose a scope that begins at the call '
        f"({others})"
    )


def _sides(options: LockOptions) -> tuple[Any, Any]:
    """Return the values of the option for the call and for the run.

    A policy without a side is for the call if the scope begins there and a call may have it. Otherwise it is for the
    run.
    """
    value = options.on_contention
    if isinstance(value, Mapping):
        return value.get("call", DEFAULT_CALL_POLICY), value.get("run", DEFAULT_RUN_POLICY)
    at_call = scope_named(options.scope).call and isinstance(value, str) and value in CALL_POLICIES
    return (value, DEFAULT_RUN_POLICY) if at_call else (DEFAULT_CALL_POLICY, value)


def task_prefix(task: str | None) -> str:
    """Return the prefix of an error's message that names a task; empty without a task."""
    return f"{task}: " if task else ""
