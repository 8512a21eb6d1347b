"""Options: what is wrong is refused where it is written, in words that say what to write."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_locks import Backoff, LockConfigError
from celery_locks._validation import LONGEST_TTL, checked_ttl, renewal_interval
from celery_locks.settings import OPTION_NAMES, LockOptions, checked

YEAR = 365 * 24 * 3600

BAD: list[tuple[str, Any]] = [
    *[
        (name, value)
        for name in ("ttl", "max_hold", "max_wait")
        for value in (-1, "30", float("nan"), float("inf"), True, [], 10**400, timedelta(seconds=-1))
    ],
    ("ttl", None),
    ("ttl", 0),
    ("ttl", timedelta(0)),
    ("ttl", 0.0009),
    ("ttl", YEAR + 1),
    ("ttl", timedelta(days=366)),
    ("max_hold", 0),
    ("max_hold", 0.0009),
    *[(name, value) for name in ("limit", "permits") for value in (0, -1, 1.0, "1", None, True)],
    ("renew", "yes"),
    ("renew", None),
    ("renew", float("nan")),
    ("enabled", 1),
    ("enabled", None),
    ("key", 7),
    ("on_contention", 7),
    ("on_contention", None),
    ("scope", None),
    ("on_lost", True),
    ("backoff", 5),
    ("backoff", {"bas": 1}),
    ("backoff", {"base": 0}),
    ("backoff", {"base": "1"}),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda part: str(part)[:20])
def test_a_bad_value_is_refused_and_named(name: str, value: Any) -> None:
    with pytest.raises(LockConfigError) as caught:
        LockOptions().with_values({name: value})
    assert name in str(caught.value) or (name == "backoff" and "base" in str(caught.value))


GOOD: list[tuple[str, Any, Any]] = [
    ("ttl", 30, 30.0),
    ("ttl", 0.001, 0.001),
    ("ttl", YEAR, YEAR),
    ("ttl", timedelta(minutes=2), 120.0),
    ("max_hold", None, None),
    ("max_hold", timedelta(hours=1), 3600.0),
    ("max_wait", None, None),
    ("max_wait", 0, 0.0),
    ("max_wait", timedelta(0), 0.0),
    ("renew", False, False),
    ("renew", 5, 5.0),
    ("renew", timedelta(seconds=5), 5.0),
    ("limit", 3, 3),
    ("backoff", Backoff(cap=5), Backoff(cap=5)),
    ("backoff", {"cap": 5, "jitter": "none"}, Backoff(cap=5, jitter="none")),
    ("on_lost", "signal", "signal"),
]


@pytest.mark.parametrize(("name", "value", "plain"), GOOD)
def test_a_good_value_is_taken_in_its_plain_form(name: str, value: Any, plain: Any) -> None:
    taken = getattr(LockOptions().with_values({name: value}), name)
    assert taken == plain
    assert type(taken) is type(plain) or isinstance(plain, int)


@pytest.mark.parametrize(
    ("name", "near"),
    [("tll", "ttl"), ("max_holds", "max_hold"), ("permit", "permits"), ("on_contension", "on_contention")],
)
def test_an_unknown_option_suggests_the_near_one(name: str, near: str) -> None:
    with pytest.raises(LockConfigError, match=f"no lock option '{name}'; did you mean '{near}'") as caught:
        checked(name, 1)
    assert "known: key, ttl" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [("scope", "while_execution", "while_executing"), ("on_lost", "abbort", "abort")],
)
def test_an_unknown_value_suggests_the_near_one(name: str, value: str, near: str) -> None:
    with pytest.raises(LockConfigError, match=f"no {name} '{value}'; did you mean '{near}'"):
        checked(name, value)


def test_a_value_near_to_none_names_the_known_ones() -> None:
    with pytest.raises(LockConfigError, match=r"known: abort, signal") as caught:
        checked("on_lost", "zzz")
    assert "did you mean" not in str(caught.value)


def test_more_permits_than_the_limit_are_refused() -> None:
    with pytest.raises(LockConfigError, match=r"permits=3 .* limit=2"):
        LockOptions().with_values({"limit": 2, "permits": 3})


@pytest.mark.parametrize("renew", [15.1, 30, 0, -1])
def test_promise_10_an_interval_above_half_the_ttl_is_refused(renew: float) -> None:
    with pytest.raises(LockConfigError, match=r"at most half the ttl apart, that is 15 s"):
        LockOptions().with_values({"ttl": 30, "renew": renew})


def test_promise_10_a_shorter_ttl_alone_may_refuse_the_interval() -> None:
    options = LockOptions().with_values({"renew": 10})
    with pytest.raises(LockConfigError, match="renew"):
        options.with_values({"ttl": 15})


def milliseconds(number: float) -> timedelta:
    return timedelta(milliseconds=number)


def test_intervals() -> None:
    assert renewal_interval(30, True) == 10
    assert renewal_interval(30, 15) == 15
    assert renewal_interval(30, 1) == 1
    assert renewal_interval(30, False) is None


@settings(deadline=None)
@given(st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), st.floats(0, 1e8).map(milliseconds)))
def test_a_ttl_is_a_time_in_bounds_or_refused(value: Any) -> None:
    try:
        ttl = checked_ttl(value)
    except LockConfigError:
        return
    assert 0.001 <= ttl <= LONGEST_TTL
    assert ttl == (value.total_seconds() if isinstance(value, timedelta) else value)


@settings(deadline=None)
@given(st.text().filter(lambda name: name not in OPTION_NAMES))
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(LockConfigError, match="there is no lock option"):
        LockOptions().with_values({name: None})
