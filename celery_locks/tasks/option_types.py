"""The types of lock options, for type checkers and editors. `celery_locks.settings` checks the values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, TypedDict

from celery_locks.backoff import Backoff
from celery_locks.settings import OnLost, ScopeName
from celery_locks.tasks.policies.base import Contention, ContentionPolicy
from celery_locks.tasks.policies.basic import CallPolicyName, RunPolicyName

# fmt: off
#: Usual durations. With ``str`` no type checker would find a misspelt one. Any other text works as well, and is checked
#: when the task is defined; a type checker accepts seconds or a ``timedelta`` in its place.
DurationText = Literal[
    "50ms", "100ms", "150ms", "200ms", "250ms", "300ms", "400ms", "500ms", "600ms", "700ms", "750ms", "800ms",
    "900ms",
    "1s", "2s", "3s", "4s", "5s", "6s", "7s", "8s", "9s", "10s", "11s", "12s", "13s", "14s", "15s", "16s", "17s",
    "18s", "19s", "20s", "21s", "22s", "23s", "24s", "25s", "26s", "27s", "28s", "29s", "30s", "31s", "32s", "33s",
    "34s", "35s", "36s", "37s", "38s", "39s", "40s", "41s", "42s", "43s", "44s", "45s", "46s", "47s", "48s", "49s",
    "50s", "51s", "52s", "53s", "54s", "55s", "56s", "57s", "58s", "59s", "60s", "75s", "90s", "100s", "120s",
    "150s", "180s", "240s", "300s", "600s", "900s", "1800s", "3600s",
    "1m", "2m", "3m", "4m", "5m", "6m", "7m", "8m", "9m", "10m", "11m", "12m", "13m", "14m", "15m", "16m", "17m",
    "18m", "19m", "20m", "21m", "22m", "23m", "24m", "25m", "26m", "27m", "28m", "29m", "30m", "31m", "32m", "33m",
    "34m", "35m", "36m", "37m", "38m", "39m", "40m", "41m", "42m", "43m", "44m", "45m", "46m", "47m", "48m", "49m",
    "50m", "51m", "52m", "53m", "54m", "55m", "56m", "57m", "58m", "59m", "60m", "75m", "90m", "120m", "180m",
    "1h", "2h", "3h", "4h", "5h", "6h", "7h", "8h", "9h", "10h", "11h", "12h", "13h", "14h", "15h", "16h", "17h",
    "18h", "19h", "20h", "21h", "22h", "23h", "24h", "36h", "48h", "72h",
    "1d", "2d", "3d", "4d", "5d", "6d", "7d", "8d", "9d", "10d", "11d", "12d", "13d", "14d", "15d", "16d", "17d",
    "18d", "19d", "20d", "21d", "22d", "23d", "24d", "25d", "26d", "27d", "28d", "29d", "30d", "31d", "60d", "90d",
    "180d", "365d",
    "1m30s", "2m30s", "1h15m", "1h30m", "1h45m", "2h30m", "1d12h",
]
# fmt: on

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
