"""The types of lock options, for type checkers and editors; `celery_locks.settings` checks the values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypedDict

from celery_locks.backoff import Backoff
from celery_locks.settings import OnLost, ScopeName
from celery_locks.tasks._duration_texts import DurationText
from celery_locks.tasks.policies.base import Contention, ContentionPolicy
from celery_locks.tasks.policies.names import CallPolicyName, RunPolicyName

#: Seconds, a ``timedelta``, or a text such as ``"5m"``.
Duration = float | timedelta | DurationText
#: A template, a callable with the task's signature, or ``None`` for the task's name with all arguments.
Key = str | Callable[..., str] | None
RunPolicy = RunPolicyName | ContentionPolicy | Callable[[Contention], Any]


class ContentionSides(TypedDict, total=False):
    """A policy for each side."""

    call: CallPolicyName
    run: RunPolicy


OnContention = CallPolicyName | RunPolicy | ContentionSides


class LockKeywords(TypedDict, total=False):
    """The keywords of `single_instance`; `LockOptions` describes them.

    A function that passes them on takes ``**options: Unpack[LockKeywords]``.
    """

    key: Key
    ttl: Duration
    renew: bool | Duration
    max_hold: Duration | None
    limit: int
    permits: int
    scope: ScopeName
    on_contention: OnContention
    max_wait: Duration | None
    max_waiters: int | None
    park_safety_copy: bool | Duration
    backoff: Backoff
    on_lost: OnLost
    store: str
    enabled: bool
