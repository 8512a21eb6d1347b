"""RabbitMQ as the broker: what becomes of tasks that are revoked, expire, are rejected, or lose their worker."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from celery.exceptions import TaskRevokedError

from celery_locks.testing.harness import AssertFree, AssertLocked
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop
from tests.tasks.rabbit_routes import SOON, kind, routes, send_parked, waiting

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def shop(rabbit_shop: Shop) -> Shop:
    return rabbit_shop


def test_promise_16_a_revoked_task_leaves_the_line(shop: Shop, key: str) -> None:
    with shop.lock(key, ttl=60):
        first, second = (send_parked(shop, shop.task(on_contention="park"), key) for _ in range(2))
        first.revoke()
        eventually(lambda: waiting(shop, key) == 1, SOON)
    assert second.get(timeout=SOON) == key
    assert [run.task_id for run in shop.journal.stretches(key)] == [second.id]


def test_promise_16_a_task_that_expires_in_line_is_ended_by_a_worker(
    shop: Shop, key: str, assert_free: AssertFree
) -> None:
    """Its message is sent on without a limit: RabbitMQ would drop it, and nobody would hear of it."""
    with shop.lock(key, ttl=60):
        result = send_parked(
            shop, shop.task(on_contention="park"), key, expires=datetime.now(timezone.utc) + timedelta(seconds=2)
        )
        with pytest.raises(TaskRevokedError):
            result.get(timeout=SOON)
    assert waiting(shop, key) == 0
    assert_free(key, within=SOON)
    assert not shop.journal.stretches(key)


def test_a_duplicate_gets_the_result_of_the_call_that_has_the_key(
    shop: Shop, key: str, assert_free: AssertFree, tmp_path: Path
) -> None:
    task, go = shop.task(scope="until_executed", ttl=2), tmp_path / "go"
    first = task.apply_async((key,), {"until": str(go)}, **routes(shop)["topic"])
    assert task.apply_async((key,), **routes(shop)["plain"]).id == first.id
    go.touch()
    assert first.get(timeout=SOON) == key
    assert_free(key, within=SOON)
    assert len(shop.journal.stretches(key)) == 1


def test_a_call_that_waits_for_its_time_keeps_the_key(
    shop: Shop, key: str, assert_free: AssertFree, assert_locked: AssertLocked, tmp_path: Path
) -> None:
    """Longer than its ttl of 2 s, at the broker or in a worker; a call that Celery refuses leaves nothing."""
    task = shop.task(scope="until_executed", ttl=2)
    if kind(shop) == "quorum":  # Celery's ladder of delays begins with a second
        with pytest.raises(ValueError, match="countdown"):
            task.apply_async((key,), countdown=0.5, **routes(shop)["plain"])
        assert_free(key)
    go = tmp_path / "go"
    first = task.apply_async((key,), {"until": str(go)}, countdown=3, **routes(shop)["plain"])
    while not shop.journal.entries("begin", key=key):
        assert_locked(key)
    assert task.apply_async((key,), **routes(shop)["plain"]).id == first.id
    go.touch()
    assert first.get(timeout=SOON) == key


def test_a_rejected_task_goes_to_the_dead_letter_queue(shop: Shop, key: str) -> None:
    with shop.lock(key, ttl=60), shop.app.connection_for_read() as connection:
        dead = shop.app.amqp.queues[f"{kind(shop)}-dead"].bind(connection.default_channel)
        result = shop.task(on_contention="reject", acks_late=True).apply_async((key,), **routes(shop)["direct"])
        letters = iter(lambda: eventually(lambda: dead.get(no_ack=True), SOON), None)  # those of other tests, too
        assert any(letter.headers["id"] == result.id for letter in letters)
    assert not shop.journal.stretches(key)


@pytest.mark.slow
def test_promise_05_a_killed_workers_messages_run_again_one_at_a_time(shop: Shop, key: str, tmp_path: Path) -> None:
    """RabbitMQ gives them to another worker at once, when the lease of the dead run still lives."""
    queue, go = f"{kind(shop)}-doomed", tmp_path / "go"
    late = {"acks_late": True, "reject_on_worker_lost": True, "ttl": 2}
    tasks = {
        f"{key}-park": shop.task(on_contention="park", **late),
        f"{key}-call": shop.task(scope="until_executed", **late),
        f"{key}-run": shop.task(**late),
    }
    victim = shop.start_worker(concurrency=3, queues=[queue])
    results = [task.apply_async((own,), {"until": str(go)}, queue=queue) for own, task in tasks.items()]
    for own in tasks:
        eventually(lambda own=own: shop.journal.stretches(own), SOON)
    in_line = send_parked(shop, shop.task(on_contention="park"), f"{key}-park")
    victim.kill()
    died = time.monotonic()
    go.touch()
    shop.app.control.add_consumer(queue, destination=[shop.worker.hostname()], reply=True, timeout=SOON, limit=1)
    try:
        assert [result.get(timeout=SOON) for result in results] == list(tasks)
        assert in_line.get(timeout=SOON) == f"{key}-park"
    finally:
        shop.app.control.cancel_consumer(queue, destination=[shop.worker.hostname()], reply=True, timeout=SOON, limit=1)
    for own in tasks:
        first, *others = shop.journal.stretches(own)
        assert first.end is None
        assert others
        assert shop.journal.most_at_once(own, died=died) == 1
        assert min(run.fence for run in others) > first.fence
