"""Backoff: exponential, capped, and drawn from all of its range."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_locks import Backoff, LockConfigError


def test_pauses_double_up_to_the_cap() -> None:
    backoff = Backoff(base=0.25, factor=2, cap=30, jitter="none")
    assert [backoff.delay(attempt) for attempt in range(9)] == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize("attempt", [1_000, 10**6])
@pytest.mark.parametrize("factor", [1.01, 1.1, 2, 1e300, 10**200])
def test_pauses_reach_the_cap_whatever_the_factor(attempt: int, factor: float) -> None:
    delay = Backoff(base=1, factor=factor, cap=30, jitter="none").delay(attempt)
    assert delay == 30


def test_a_factor_of_one_keeps_the_base() -> None:
    assert Backoff(base=0.5, factor=1, jitter="none").delay(10**6) == 0.5


@pytest.mark.parametrize(("cap", "delay"), [(5, 5), (60, 30), (0, 0), (-3, 0)])
def test_a_smaller_cap_may_be_given(cap: float, delay: float) -> None:
    assert Backoff(jitter="none").delay(50, cap) == delay
    assert 0 <= Backoff().delay(50, cap) <= delay


@settings(deadline=None)
@given(
    base=st.floats(0.001, 100),
    factor=st.floats(1, 1e6),
    more=st.floats(0, 1e4),
    attempt=st.integers(0, 10_000),
)
def test_every_pause_lies_between_nothing_and_the_cap(base: float, factor: float, more: float, attempt: int) -> None:
    backoff = Backoff(base, factor, base + more)
    assert 0 <= backoff.delay(attempt) <= backoff.cap
    grown = Backoff(base, factor, base + more, "none")
    assert base <= grown.delay(attempt) <= grown.delay(attempt + 1) <= grown.cap


def test_promise_08_full_jitter_spreads_a_herd(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 that met once: no slot of 100 ms holds more than a tenth of them."""
    monkeypatch.setattr("celery_locks.backoff.random", random.Random(8))
    for attempt in (4, 7, 20):
        delays = [Backoff().delay(attempt) for _ in range(200)]
        slots = Counter(int(delay * 10) for delay in delays)
        assert max(slots.values()) <= 20, attempt
        longest = Backoff(jitter="none").delay(attempt)
        assert min(delays) < longest * 0.05
        assert max(delays) > longest * 0.95


@pytest.mark.parametrize("name", ["base", "factor", "cap"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "2", None, True, 10**400], ids=repr)
def test_bad_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(LockConfigError, match=name):
        Backoff(**{name: value})


@pytest.mark.parametrize("values", [{"factor": 0.9}, {"base": 2, "cap": 1}, {"jitter": "half"}, {"jitter": None}])
def test_values_that_do_not_fit_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(LockConfigError):
        Backoff(**values)
