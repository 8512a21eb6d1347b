"""Limits above one, and leases that begin with the call."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_celery import CeleryTestSetup

from celery_locks import LockContended, Locks
from tests.acceptance.runs import SOON, fences_grow, most_at_once, runs_of
from tests.acceptance.tasks import once_called, once_called_or_raises, once_in_line, retries, two_at_once
from tests.support.waiting import eventually


def test_as_many_runs_as_the_limit(
    celery_setup: CeleryTestSetup, celery_locks: Locks, held_lock: Any, assert_free: Any, key: str
) -> None:
    with held_lock("gate"):
        results = [two_at_once.delay(key, gate="gate") for _ in range(2)]
        eventually(lambda: celery_locks.semaphore(key, limit=2).available() == 0, SOON)
        results += [two_at_once.delay(key, seconds=0.05) for _ in range(4)]
        celery_setup.worker.wait_for_log("] deferred for ")
        assert not any(result.ready() for result in results)
    runs = runs_of(results)
    assert most_at_once(runs) == 2
    assert len({run["fence"] for run in runs}) == 6
    assert_free(key)


def test_until_executed_a_second_call_makes_no_second_run(
    celery_setup: CeleryTestSetup, held_lock: Any, assert_locked: Any, assert_free: Any, key: str
) -> None:
    with held_lock("gate"):
        first = once_called.delay(key, gate="gate")
        assert_locked(key, by=first.id)
        assert once_called.delay(key).id == first.id, "the call did not return the task that has the lease"
        assert_locked(key, by=first.id, within=SOON)
        with pytest.raises(LockContended):
            once_called_or_raises.delay(key)
    run = first.get(timeout=SOON)
    assert_free(key)
    again = once_called_or_raises.delay(key)
    assert fences_grow([run, again.get(timeout=SOON)])
    assert_free(key)


def test_until_executing_one_call_waits_while_others_run(
    celery_setup: CeleryTestSetup, held_lock: Any, assert_locked: Any, assert_free: Any, key: str
) -> None:
    with held_lock("gate"):
        with held_lock("first gate"):
            blockers = [retries.delay(f"{key}{number}", gate="first gate") for number in range(3)]
            for number, blocker in enumerate(blockers):  # the worker has no room for more
                assert_locked(f"{key}{number}", by=blocker.id, within=SOON)
            first = once_in_line.delay(key, gate="gate")
            assert_locked(key, by=first.id)
            assert once_in_line.delay(key).id == first.id
        assert_free(key, within=SOON)  # it runs
        second = once_in_line.delay(key, gate="gate")
        assert second.id != first.id
        assert_free(key, within=SOON)
    assert most_at_once(runs_of([first, second])) == 2
    assert len(runs_of(blockers)) == 3
