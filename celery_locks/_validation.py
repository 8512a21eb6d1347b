"""On what terms a lease is had, checked."""

from __future__ import annotations

from typing import Any

from celery_locks._durations import seconds_of
from celery_locks.errors import LockConfigError

SHORTEST_TTL = 0.001
LONGEST_TTL = 365 * 24 * 3600.0
DEFAULT_TTL = 30.0
DEFAULT_PREFIX = "celery-locks"
#: The name of the store that is used where no other is named.
DEFAULT_STORE = "default"
#: A lease is renewed every ``ttl / RENEWALS``.
RENEWALS = 3
#: The largest limit: every store counts exactly up to it. Lua in Redis has no other numbers than floats.
LARGEST_COUNT = 2**53


class Terms:
    """On what terms a lease is had; see `Locks.lock`. Not to be changed.

    Attributes:
        interval: Seconds between renewals, ``None`` for none.
        first_ttl: For how long the lease is asked for at first, in seconds.
    """

    def __init__(
        self,
        ttl: float = DEFAULT_TTL,
        renew: bool | float = True,
        max_hold: float | None = None,
        limit: int = 1,
        permits: int = 1,
        max_waiters: int = 0,
    ) -> None:
        self.ttl = ttl
        self.renew = renew
        self.max_hold = max_hold
        self.limit = limit
        self.permits = permits
        self.max_waiters = max_waiters
        self.interval = renewal_interval(ttl, renew)
        self.first_ttl = ttl if max_hold is None else min(ttl, max_hold)

    def for_permits(self, permits: int, limit: int | None = None) -> Terms:
        """The same, for so many permits."""
        limit = self.limit if limit is None else limit
        return Terms(self.ttl, self.renew, self.max_hold, limit, permits, self.max_waiters)


def checked_ttl(value: Any, name: str = "ttl") -> float:
    """The ttl in seconds.

    Raises:
        LockConfigError: It is no duration, or out of bounds.
    """
    seconds = seconds_of(name, value)
    if not SHORTEST_TTL <= seconds <= LONGEST_TTL:
        raise LockConfigError(
            f'{name}={value!r} is out of bounds: give a duration from 1 ms to a year, such as 30 or "5m"'
        )
    return seconds


def renewal_interval(ttl: float, renew: bool | float) -> float | None:
    """Seconds between renewals, ``None`` for no renewal.

    Raises:
        LockConfigError: The interval is above ``ttl / 2``: a single renewal that fails would lose the lease.
    """
    if renew is False:
        return None
    interval = ttl / RENEWALS if renew is True else renew
    if not 0 < interval <= ttl / 2:
        raise LockConfigError(f"renew={renew!r}: renewals must be at most half the ttl apart, that is {ttl / 2:g} s")
    return interval


def checked_renew(value: Any) -> bool | float:
    """Return whether to renew, or how often, in seconds.

    Raises:
        LockConfigError: It is neither.
    """
    return value if isinstance(value, bool) else seconds_of("renew", value)


def checked_timeout(timeout: Any) -> float:
    """Return the longest wait in seconds; 0 for one below 0.

    Raises:
        LockConfigError: It is no duration.
    """
    return max(0.0, seconds_of("timeout", timeout))


def checked_longest(name: str, value: Any, lowest: float = SHORTEST_TTL) -> float | None:
    """A bound in seconds, ``None`` for none.

    Raises:
        LockConfigError: It is no time, or below ``lowest``.
    """
    if value is None:
        return None
    seconds = seconds_of(name, value)
    if seconds < lowest:
        raise LockConfigError(f"{name}={value!r} is too short: give at least {lowest:g} s, or None for no bound")
    return seconds


def checked_count(name: str, value: Any) -> int:
    """A number of permits, waiters and such.

    Raises:
        LockConfigError: It is no whole number above 0, or above `LARGEST_COUNT`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise LockConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
    if value > LARGEST_COUNT:
        raise LockConfigError(f"{name}={value} is too large: give at most {LARGEST_COUNT}, which is 2**53")
    return value


def did_you_mean(name: str, known: Any) -> str:
    """``; did you mean …?`` for a name that is near a known one, and the known ones."""
    from difflib import get_close_matches  # for an error only

    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (known: {', '.join(map(str, known))})"
