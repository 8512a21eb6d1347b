"""What becomes of a task that finds its key held."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_celery import CeleryTestSetup

from celery_locks import LockContended, LockLost, Locks, LockTimeout, Skipped
from tests.acceptance.runs import SOON, fences_grow, most_at_once, runs_of
from tests.acceptance.tasks import (
    parks,
    parks_briefly,
    raises,
    rejects,
    replaces,
    retries,
    retries_briefly,
    skips,
    waits,
    waits_briefly,
)


def test_refused_tasks_end_without_a_run(
    celery_setup: CeleryTestSetup, celery_locks: Locks, held_lock: Any, key: str
) -> None:
    with held_lock(key, by="an import") as held:
        skipped = Skipped.of(skips.delay(key).get(timeout=SOON))
        assert skipped is not None
        assert (skipped["key"], skipped["holders"]) == (key, ["an import"])

        with pytest.raises(LockContended) as contended:
            raises.delay(key).get(timeout=SOON)
        assert (contended.value.key, contended.value.holders) == (key, ["an import"])

        rejected = rejects.delay(key)
        celery_setup.worker.wait_for_log(f"{rejected.id}] reject requeue=False")

        (holder,) = celery_locks.lock(key).holders()
        assert (holder.token, holder.fencing_token) == (held.token, held.fencing_token), "a refusal cost the holder"
    for task in (skips, raises, rejects):
        assert task.delay(key).get(timeout=SOON)["fence"] > held.fencing_token, f"{task.name} is refused a free key"


def test_waiting_tasks_run_when_the_key_is_free(
    celery_setup: CeleryTestSetup, held_lock: Any, assert_free: Any, key: str
) -> None:
    with held_lock(key):
        results = [task.delay(key, seconds=0.02) for task in (retries, waits, parks, retries, parks)]
        assert skips.delay(f"{key}0").get(timeout=SOON), "tasks that wait leave no room for others"
        assert not any(result.ready() for result in results)
    runs = runs_of(results)
    assert most_at_once(runs) == 1
    assert fences_grow(runs)
    assert [run["retries"] for run in runs] == [0] * 5, "the tasks' own retries were used"
    assert_free(key)


def test_max_wait_ends_in_lock_timeout(celery_setup: CeleryTestSetup, held_lock: Any, key: str) -> None:
    with held_lock(key, by="an import"):
        results = [task.delay(key) for task in (retries_briefly, waits_briefly, parks_briefly)]
        for result in results:
            with pytest.raises(LockTimeout) as late:
                result.get(timeout=SOON)
            assert (late.value.key, late.value.holders) == (key, ["an import"])


def test_a_newcomer_replaces_the_run(celery_setup: CeleryTestSetup, assert_locked: Any, key: str) -> None:
    replaced = replaces.delay(key, seconds=60)
    first = assert_locked(key, by=replaced.id, within=SOON)
    newcomer = replaces.delay(key, seconds=5)  # so long that its lease is seen, also on a busy machine
    assert assert_locked(key, by=newcomer.id, within=SOON).fencing_token > first.fencing_token
    with pytest.raises(LockLost) as lost:
        replaced.get(timeout=SOON)
    assert lost.value.reason == "replaced"
    assert newcomer.get(timeout=SOON) == "never stopped"
