"""The options of a locked task, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from celery_locks._validation import (
    DEFAULT_STORE,
    DEFAULT_TTL,
    SHORTEST_TTL,
    checked_count,
    checked_longest,
    checked_renew,
    checked_ttl,
    did_you_mean,
    renewal_interval,
)
from celery_locks.backoff import Backoff
from celery_locks.errors import LockConfigError

#: When a task holds its lease: from the start of a run to its end; from the call to the end of the run, retries
#: included; from the call to the start of the run; both, with a lease for each; from the call until the ttl ends.
ScopeName = Literal[
    "while_executing", "until_executed", "until_executing", "until_and_while_executing", "until_expired"
]
OnLost = Literal["abort", "signal"]


@dataclass(frozen=True)
class LockOptions:
    """The options of a locked task, all checked.

    Attributes:
        key: A template such as ``"user:<user_id>"``, a callable with the task's own signature that returns a ``str``,
            or ``None`` for the task's name with all its arguments.
        ttl: How long a lease lives without renewal, in seconds.
        renew: Whether to renew while the task runs: ``True`` for every ``ttl / 3``, or the seconds between renewals.
        max_hold: The longest holding in seconds, ``None`` for no bound.
        limit: How many permits a key has.
        permits: How many of them a run takes.
        scope: When the lease is held.
        on_contention: The policy for a task that finds its key held: a name or a policy, or one for each side:
            ``{"call": …, "run": …}``.
        max_wait: The longest wait in seconds, over all retries, ``None`` for no bound.
        max_waiters: How many may stand in line for a key under ``"park"``, ``None`` for any number.
        park_safety_copy: Whether a parked task also leaves a delayed message at the broker, in case the store loses its
            data: ``True``, or the delay in seconds.
        backoff: The delays of ``"retry"``.
        on_lost: Whether a lost lease aborts the task (``"abort"``) or only sends the signal (``"signal"``).
        store: The name of the store of the leases: one of the setting ``locks_stores``.
        enabled: Whether the task is locked.
    """

    key: str | Callable[..., str] | None = None
    ttl: float = DEFAULT_TTL
    renew: bool | float = True
    max_hold: float | None = None
    limit: int = 1
    permits: int = 1
    scope: ScopeName = "while_executing"
    on_contention: Any = "retry"
    max_wait: float | None = None
    max_waiters: int | None = None
    park_safety_copy: bool | float = False
    backoff: Backoff = Backoff()
    on_lost: OnLost = "abort"
    store: str = DEFAULT_STORE
    enabled: bool = True

    def __post_init__(self) -> None:
        if self.permits > self.limit:
            raise LockConfigError(
                f"permits={self.permits} is more than limit={self.limit}: raise limit or lower permits"
            )
        renewal_interval(self.ttl, self.renew)

    def with_values(self, values: Mapping[str, Any]) -> LockOptions:
        """Return these options with other values for some.

        Raises:
            LockConfigError: A value is wrong, or a name is not that of an option.
        """
        return replace(self, **{name: checked(name, value) for name, value in values.items()})


SCOPES: tuple[ScopeName, ...] = get_args(ScopeName)
#: The sides on which a task can find its key held.
SIDES = ("call", "run")
ON_LOST: tuple[OnLost, ...] = get_args(OnLost)
#: All options, in the order of the docs.
OPTION_NAMES = tuple(field.name for field in fields(LockOptions))


def checked(name: str, value: Any) -> Any:
    """Return the value of an option in its plain form, such as seconds for a duration.

    Raises:
        LockConfigError: The value is wrong, or there is no option of this name.
    """
    try:
        check = _CHECKS[name]
    except KeyError:
        raise LockConfigError(f"there is no lock option {name!r}{did_you_mean(name, OPTION_NAMES)}") from None
    return check(name, value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise LockConfigError(f"{name} must be True or False, not {value!r}")
    return value


def _store(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise LockConfigError(f"{name}={value!r} is not the name of a store: give one of the setting locks_stores")
    return value


def _one_of(known: tuple[str, ...]) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value not in known:
            raise LockConfigError(f"there is no {name} {value!r}{did_you_mean(str(value), known)}")
        return str(value)

    return check


def _key(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str) or callable(value):
        return value
    raise LockConfigError(f"{name} must be a template or a callable that returns a str, not {value!r}")


def _backoff(name: str, value: Any) -> Backoff:
    if isinstance(value, Mapping):  # as in a file of settings
        try:
            return Backoff(**value)
        except TypeError as error:
            raise LockConfigError(f"{name}: {error}") from None
    if not isinstance(value, Backoff):
        raise LockConfigError(f"{name} must be a Backoff, not {value!r}")
    return value


def _policy(name: str, value: Any) -> Any:
    # The layer of tasks has the policies, and checks their names.
    if isinstance(value, Mapping):
        for side, policy in value.items():
            if side not in SIDES:
                raise LockConfigError(f"{name} has no side {side!r}{did_you_mean(str(side), SIDES)}")
            _policy(f"{name}[{side!r}]", policy)
        return dict(value)
    if isinstance(value, str) or callable(value) or hasattr(value, "contended"):
        return value
    raise LockConfigError(f"{name} must be a policy's name, a callable or a ContentionPolicy, not {value!r}")


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "key": _key,
    "ttl": lambda name, value: checked_ttl(value, name),
    "renew": lambda _, value: checked_renew(value),
    "max_hold": lambda name, value: checked_longest(name, value, SHORTEST_TTL),
    "limit": checked_count,
    "permits": checked_count,
    "scope": _one_of(SCOPES),
    "on_contention": _policy,
    "max_wait": lambda name, value: checked_longest(name, value, 0),
    "max_waiters": lambda name, value: None if value is None else checked_count(name, value),
    "park_safety_copy": lambda name, value: value if isinstance(value, bool) else checked_ttl(value, name),
    "backoff": _backoff,
    "on_lost": _one_of(ON_LOST),
    "store": _store,
    "enabled": _flag,
}
