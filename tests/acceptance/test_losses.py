"""Leases that end before their run, on each pool."""

from __future__ import annotations

from typing import Any

import pytest
from celery.result import AsyncResult
from pytest_celery import CeleryTestSetup

from celery_locks import LockLost
from tests.acceptance.runs import SOON
from tests.acceptance.tasks import hangs, is_aborted, is_notified, outlasts_its_ttl, retries


def notices(setup: CeleryTestSetup, key: str) -> list[str]:
    """Return the reasons that `on_lock_lost` was called with for a key."""
    lines = [line for line in setup.worker.logs().splitlines() if line.endswith(f" of {key}")]
    return [line.partition("on_lock_lost: ")[2].split()[0] for line in lines]


def check(setup: CeleryTestSetup, result: AsyncResult, key: str, reason: str) -> None:
    """Check that a run failed with `LockLost`, and was notified once."""
    with pytest.raises(LockLost) as lost:
        result.get(timeout=SOON)
    assert (lost.value.key, lost.value.reason) == (key, reason)
    assert notices(setup, key) == [reason]


@pytest.fixture
def worker_concurrency() -> int:
    return 4


@pytest.mark.slow
@pytest.mark.parametrize("worker_pool", ["prefork", "threads", "gevent", "eventlet"])
def test_a_run_that_loses_its_lease_is_stopped(
    worker_pool: str, celery_setup: CeleryTestSetup, lock_lost_after: Any, assert_free: Any
) -> None:
    lock_lost_after(seconds=0.3, key="aborted")
    lock_lost_after(seconds=0.3, key="notified")
    aborted, notified = is_aborted.delay("aborted"), is_notified.delay("notified")
    hung, kept = hangs.delay("hung"), outlasts_its_ttl.delay("kept")
    check(celery_setup, aborted, "aborted", "deleted")
    check(celery_setup, hung, "hung", "max_hold")
    assert notified.get(timeout=SOON) == "never stopped"
    assert notices(celery_setup, "notified") == ["deleted"]
    run = kept.get(timeout=SOON)
    assert run["ended"] - run["began"] >= 3
    assert notices(celery_setup, "kept") == []
    assert retries.delay("kept").get(timeout=SOON)["fence"] > run["fence"]
    for key in ("aborted", "hung", "notified", "kept"):
        assert_free(key)


@pytest.mark.slow
@pytest.mark.parametrize("worker_pool", ["solo"])
def test_a_run_that_loses_its_lease_is_stopped_where_nothing_runs_alongside(
    worker_pool: str, celery_setup: CeleryTestSetup, lock_lost_after: Any, assert_free: Any
) -> None:
    lock_lost_after(seconds=0.1, key="aborted")
    check(celery_setup, is_aborted.delay("aborted"), "aborted", "deleted")
    lock_lost_after(seconds=0.1, key="notified")
    assert is_notified.delay("notified").get(timeout=SOON) == "never stopped"
    assert notices(celery_setup, "notified") == ["deleted"]
    check(celery_setup, hangs.delay("hung"), "hung", "max_hold")
    run = outlasts_its_ttl.delay("kept").get(timeout=SOON)
    assert run["ended"] - run["began"] >= 3
    assert notices(celery_setup, "kept") == []
    for key in ("aborted", "hung", "notified", "kept"):
        assert_free(key)
