"""The terms of a lease, and the checks of options."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from celery_locks._durations import Duration, seconds_of
from celery_locks.errors import LockConfigError

#: The bounds of a ttl, and its default, in seconds.
SHORTEST_TTL, LONGEST_TTL, DEFAULT_TTL = 0.001, 365 * 24 * 3600.0, 30.0
DEFAULT_PREFIX = "celery-locks"
#: The name of the store that is used by default.
DEFAULT_STORE = "default"
#: A lease is renewed every ``ttl / RENEWALS_PER_TTL`` by default.
RENEWALS_PER_TTL = 3
#: The largest limit up to which every store counts exactly: numbers in Redis's Lua are floats.
LARGEST_COUNT = 2**53


class Terms:
    """The terms on which a lease is acquired; see `Locks.lock`. They are shared, so they must not be changed.

    Attributes:
        ttl: The time to live without renewal, in seconds.
        renew: Whether the lease is renewed, or every how many seconds.
        max_hold: The longest holding in seconds, ``None`` for no bound.
        limit: How many permits the key has.
        permits: How many of them the lease takes.
        max_waiters: How many may stand in line, 0 for any number.
        interval: The seconds between two renewals, ``None`` for no renewal.
        first_ttl: The ttl of the first request, in seconds.
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
        """Return the same terms with other permits, and with another limit if one is given."""
        limit = self.limit if limit is None else limit
        return Terms(self.ttl, self.renew, self.max_hold, limit, permits, self.max_waiters)


def checked_terms(
    ttl: Duration,
    renew: bool | Duration,
    max_hold: Duration | None,
    limit: int = 1,
    max_waiters: int | None = None,
) -> Terms:
    """Return the terms of the arguments of `Locks.lock`.

    Raises:
        LockConfigError: An argument is wrong.
    """
    try:
        return _cached_terms(ttl, renew, max_hold, limit, max_waiters)
    except TypeError:  # a value without a hash: the check names it
        return _new_terms(ttl, renew, max_hold, limit, max_waiters)


def _new_terms(
    ttl: Duration, renew: bool | Duration, max_hold: Duration | None, limit: int, max_waiters: int | None
) -> Terms:
    longest = checked_longest("max_hold", max_hold)
    waiters = 0 if max_waiters is None else checked_count("max_waiters", max_waiters)
    return Terms(checked_ttl(ttl), checked_renew(renew), longest, checked_count("limit", limit), 1, waiters)


#: Programs make a lock at each use, nearly all on the same few terms. Typed, since 1 is not ``True`` here.
_cached_terms = lru_cache(maxsize=256, typed=True)(_new_terms)


def checked_ttl(value: Any, name: str = "ttl") -> float:
    """Return a ttl in seconds.

    Raises:
        LockConfigError: It is not a duration, or it is out of bounds.
    """
    seconds = seconds_of(name, value)
    if not SHORTEST_TTL <= seconds <= LONGEST_TTL:
        raise LockConfigError(
            f'{name}={value!r} is out of bounds: give a duration from 1 ms to a year, such as 30 or "5m"'
        )
    return seconds


def renewal_interval(ttl: float, renew: bool | float) -> float | None:
    """Return the seconds between two renewals, ``None`` for no renewal.

    Raises:
        LockConfigError: The interval is above ``ttl / 2``, so that one failed renewal would lose the lease.
    """
    if renew is False:
        return None
    interval = ttl / RENEWALS_PER_TTL if renew is True else renew
    if not 0 < interval <= ttl / 2:
        raise LockConfigError(f"renew={renew!r}: renewals must be at most half the ttl apart, that is {ttl / 2:g} s")
    return interval


def checked_renew(value: Any) -> bool | float:
    """Return whether to renew, or the seconds between two renewals.

    Raises:
        LockConfigError: It is neither.
    """
    return value if isinstance(value, bool) else seconds_of("renew", value)


def checked_timeout(timeout: Any) -> float:
    """Return the longest wait in seconds, at least 0.

    Raises:
        LockConfigError: It is not a duration.
    """
    return max(0.0, seconds_of("timeout", timeout))


def checked_longest(name: str, value: Any, lowest: float = SHORTEST_TTL) -> float | None:
    """Return an upper bound in seconds, ``None`` for no bound.

    Raises:
        LockConfigError: It is not a duration, or it is below ``lowest`` seconds.
    """
    if value is None:
        return None
    seconds = seconds_of(name, value)
    if seconds < lowest:
        raise LockConfigError(f"{name}={value!r} is too short: give at least {lowest:g} s, or None for no bound")
    return seconds


def checked_count(name: str, value: Any) -> int:
    """Return a number of permits, waiters or attempts.

    Raises:
        LockConfigError: It is not a whole number from 1 to `LARGEST_COUNT`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise LockConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
    if value > LARGEST_COUNT:
        raise LockConfigError(f"{name}={value} is too large: give at most {LARGEST_COUNT}, which is 2**53")
    return value


def did_you_mean(name: str, known: Any) -> str:
    """Return the end of an error for an unknown name: the nearest known name, if one is near, and all known names."""
    from difflib import get_close_matches  # for an error only

    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (known: {', '.join(map(str, known))})"
