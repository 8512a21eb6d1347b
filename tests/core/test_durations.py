"""Durations: seconds, a ``timedelta``, or a text such as ``"1h30m"``, wherever one is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_locks import Backoff, LockConfigError, Locks
from celery_locks._durations import seconds_of
from celery_locks.aio import AsyncLocks
from celery_locks.settings import LockOptions
from celery_locks.stores.memory import MemoryStore
from celery_locks.tasks.option_types import DurationText
from celery_locks.tasks.settings_check import check_settings

TEXTS = {
    "250ms": 0.25,
    "30s": 30,
    "1.5s": 1.5,
    "5m": 300,
    "2h": 7_200,
    "2d": 172_800,
    "1h30m": 5_400,
    "1d 2h 3m 4s 5ms": 93_784.005,
    " 10 s ": 10,
    "0s": 0,
}


@pytest.mark.parametrize(("text", "seconds"), TEXTS.items())
def test_a_text_is_a_duration(text: str, seconds: float) -> None:
    assert seconds_of("ttl", text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "30", "s", "5 minutes", "sixty", "5M", "1m1h", "1h1h", "-5s", "+5s", "1e3s", ".5s", "5,5s", "٣s", "1w"],
)
def test_any_other_text_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(LockConfigError) as caught:
        seconds_of("max_wait", text)
    assert str(caught.value).startswith(f"max_wait={text!r} is not a duration: give ")
    for accepted in ("30,", "timedelta", '"30s"', '"5m"', '"1h30m"', "units d, h, m, s, ms"):
        assert accepted in str(caught.value)


def test_a_text_that_no_float_can_hold_is_refused() -> None:
    with pytest.raises(LockConfigError, match="not a duration"):
        seconds_of("ttl", f"{'9' * 400}d")


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_whole_milliseconds_are_the_same_in_each_form(number: int) -> None:
    assert seconds_of("ttl", f"{number}ms") == seconds_of("ttl", timedelta(milliseconds=number)) == number / 1_000


def test_the_texts_that_type_checkers_know_are_durations_in_bounds() -> None:
    for text in get_args(DurationText):
        assert LockOptions().with_values({"ttl": text}).ttl > 0


@pytest.mark.parametrize("name", ["ttl", "max_hold", "max_wait", "park_safety_copy"])
def test_options_of_tasks(name: str) -> None:
    assert getattr(LockOptions().with_values({name: "5m"}), name) == 300
    with pytest.raises(LockConfigError, match=f"{name}='5 min' is not a duration"):
        LockOptions().with_values({name: "5 min"})


def test_intervals_and_backoffs_of_tasks() -> None:
    options = LockOptions().with_values({"renew": "5s", "backoff": {"base": "250ms", "cap": timedelta(minutes=1)}})
    assert (options.renew, options.backoff) == (5, Backoff(0.25, cap=60))
    assert Backoff("1s", cap="1m") == Backoff(1, cap=60)
    with pytest.raises(LockConfigError, match="cap='long' is not a duration"):
        Backoff(cap="long")


@pytest.mark.parametrize("name", ["locks_ttl", "locks_sweep_interval", "locks_call_ttl"])
def test_settings_of_the_app(name: str) -> None:
    check_settings({name: "10s"})
    with pytest.raises(LockConfigError, match="='ten' is not a duration"):
        check_settings({name: "ten"})


MADE: dict[str, Callable[..., Any]] = {
    "lock": lambda locks, **terms: locks.lock("k", **terms),
    "semaphore": lambda locks, **terms: locks.semaphore("k", 3, **terms),
    "read_write": lambda locks, **terms: locks.read_write("k", **terms).write,
    "multi": lambda locks, **terms: locks.multi(["k"], **terms),
    "lockable": lambda locks, **terms: locks.lockable("<id>", **terms)("k"),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_terms_and_timeouts_of_locks(make: Callable[..., Any]) -> None:
    locks = Locks(MemoryStore())
    with make(locks, ttl="1m", renew="10s", max_hold="1h").acquire(timeout="5s") as leases:
        lease = getattr(leases, "leases", [leases])[0]
        assert (lease.ttl, lease._renew_every) == (60, 10)
        assert 50 < lease.remaining() <= 60
        leases.extend("2m")
        assert 110 < lease.remaining() <= 120
    for name in ("ttl", "renew", "max_hold"):
        with pytest.raises(LockConfigError, match=f"{name}='soon' is not a duration"):
            make(locks, **{name: "soon"})
    with pytest.raises(LockConfigError, match="timeout='soon' is not a duration"):
        make(locks).acquire(timeout="soon")


def test_other_durations_of_locks() -> None:
    locks = Locks(MemoryStore())
    lock = locks.lock("k")
    assert lock.wait(timeout="1s")
    assert lock.run(lambda: 7, timeout="1s") == 7
    lock.enqueue().wait(timeout=timedelta(seconds=1)).release()
    with lock as lease:
        lease.update(7, keep="1h")
        assert locks.stats(near="1m").near_expiry == 1
    assert locks.value("k") == 7


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_durations_of_coroutines(make: Callable[..., Any]) -> None:
    async def main() -> None:
        async with await make(AsyncLocks(MemoryStore()), ttl="1m").acquire(timeout="5s") as lease:
            await lease.extend("2m")
            assert 110 < lease.remaining() <= 120

    asyncio.run(main())
