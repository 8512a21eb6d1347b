"""Workers that are killed or shut down, and a lock store that restarts."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pytest_celery import CeleryTestSetup, CeleryTestWorker, CeleryWorkerCluster

from tests.acceptance.runs import SOON, fences_grow, most_at_once, runs_of
from tests.acceptance.tasks import dies, parks, retries
from tests.support.waiting import eventually


def has_ended(worker: CeleryTestWorker) -> bool:
    worker.container.reload()
    return bool(worker.container.status == "exited")


@pytest.mark.slow
class TestKilled:
    @pytest.fixture
    def celery_worker_cluster(self, two_workers: CeleryWorkerCluster) -> CeleryWorkerCluster:
        return two_workers

    @pytest.fixture
    def worker_concurrency(self) -> int:
        return 1

    def test_the_key_of_a_killed_worker_is_free_after_its_ttl(
        self, celery_setup: CeleryTestSetup, held_lock: Any, assert_locked: Any, assert_free: Any, key: str
    ) -> None:
        with held_lock("gate"):
            first = dies.delay(key, gate="gate")
            dead = assert_locked(key, by=first.id, within=SOON)
            (killed,) = (each for each in celery_setup.worker_cluster if each.hostname() in dead.owner)
            (other,) = (each for each in celery_setup.worker_cluster if each is not killed)
            killed.kill()
            since = time.monotonic()
            waiting = dies.delay(key)
            run = waiting.get(timeout=SOON)
            assert run["began"] - since < 2 + 1, "the key was held for longer than its ttl of 2 s"
        assert run["worker"] == other.hostname()
        assert run["fence"] > dead.fencing_token
        assert has_ended(killed)
        assert not first.ready()
        assert_free(key)


@pytest.mark.parametrize("worker_pool", ["prefork", "threads"])
def test_a_warm_shutdown_finishes_the_run_and_releases_its_lease(
    worker_pool: str, celery_setup: CeleryTestSetup, held_lock: Any, assert_locked: Any, assert_free: Any, key: str
) -> None:
    worker = celery_setup.worker
    with held_lock("gate"):
        result = retries.delay(key, gate="gate")
        assert_locked(key, by=result.id, within=SOON)
        worker.kill("SIGTERM")
        worker.wait_for_log("Warm shutdown")
        assert_locked(key, by=result.id)
    assert result.get(timeout=SOON)["fence"] is not None
    eventually(lambda: has_ended(worker), SOON)
    assert worker.container.attrs["State"]["ExitCode"] == 0
    assert_free(key)


def test_a_lock_store_that_restarts_empty(celery_setup: CeleryTestSetup, celery_locks_store: Any, key: str) -> None:
    before = retries.delay(key).get(timeout=SOON)
    celery_locks_store.restart()
    after = runs_of([retries.delay(key, seconds=0.02) for _ in range(4)])
    assert most_at_once(after) == 1
    assert fences_grow([before, *after]), "the store forgot its tokens"


@pytest.mark.slow
@pytest.mark.parametrize("celery_locks_store", ["celery_locks_postgresql_store"], indirect=True)
def test_a_lock_store_that_restarts_with_its_data(
    celery_setup: CeleryTestSetup, celery_locks_store: Any, assert_locked: Any, key: str
) -> None:
    running = retries.delay(key, seconds=3)
    assert_locked(key, by=running.id, within=SOON)
    parked = parks.delay(key)
    eventually(lambda: celery_locks_store.locks.info(key).waiting == 1, SOON)
    celery_locks_store.restart()
    runs = runs_of([running, parked])
    assert most_at_once(runs) == 1
    assert fences_grow(runs)
