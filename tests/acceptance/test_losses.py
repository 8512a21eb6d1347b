"""Leases that end before their run, on each pool."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_celery import CeleryTestSetup

from celery_locks import LockLost
from tests.acceptance.runs import SOON
from tests.acceptance.tasks import hangs, is_aborted, is_notified, outlasts_its_ttl, retries

POOLS = ["prefork", "threads", "gevent", "eventlet"]


def notices(setup: CeleryTestSetup, key: str) -> list[str]:
    """Return the reasons that `on_lock_lost` was called with for a key."""
    lines = [line for line in setup.worker.logs().splitlines() if line.endswith(f" of {key}")]
    return [line.partition("on_lock_lost: ")[2].split()[0] for line in lines]


@pytest.mark.parametrize("worker_pool", POOLS)
def test_a_run_that_loses_its_lease_is_stopped(
    worker_pool: str, celery_setup: CeleryTestSetup, lock_lost_after: Any, assert_free: Any
) -> None:
    lock_lost_after(seconds=0.3, key="aborted")
    lock_lost_after(seconds=0.3, key="notified")
    aborted, notified, kept = is_aborted.delay("aborted"), is_notified.delay("notified"), outlasts_its_ttl.delay("kept")

    with pytest.raises(LockLost) as lost:
        aborted.get(timeout=SOON)
    assert (lost.value.key, lost.value.reason) == ("aborted", "deleted")
    assert notified.get(timeout=SOON) == "never stopped"
    assert notices(celery_setup, "aborted") == notices(celery_setup, "notified") == ["deleted"]

    run = kept.get(timeout=SOON)
    assert run["ended"] - run["began"] >= 3
    assert notices(celery_setup, "kept") == []
    again = [retries.delay(key).get(timeout=SOON) for key in ("aborted", "notified", "kept")]
    assert again[-1]["fence"] > run["fence"]
    for key in ("aborted", "notified", "kept"):
        assert_free(key)


def test_max_hold_ends_a_run_that_hangs(celery_setup: CeleryTestSetup, assert_free: Any, key: str) -> None:
    with pytest.raises(LockLost) as lost:
        hangs.delay(key).get(timeout=SOON)
    assert lost.value.reason == "max_hold"
    assert notices(celery_setup, key) == ["max_hold"]
    assert_free(key)


class TestSolo:
    """One task after the other: a lost lease is the whole of a test."""

    @pytest.mark.parametrize("worker_pool", ["solo"])
    def test_a_run_that_loses_its_lease_is_stopped(
        self, worker_pool: str, celery_setup: CeleryTestSetup, lock_lost_after: Any, assert_free: Any, key: str
    ) -> None:
        lock_lost_after(seconds=0.1, key=key)
        with pytest.raises(LockLost) as lost:
            is_aborted.delay(key).get(timeout=SOON)
        assert lost.value.reason == "deleted"
        assert notices(celery_setup, key) == ["deleted"]
        run = outlasts_its_ttl.delay(key).get(timeout=SOON)
        assert run["ended"] - run["began"] >= 3
        assert notices(celery_setup, key) == ["deleted"]
        assert_free(key)
