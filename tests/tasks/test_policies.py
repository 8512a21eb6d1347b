"""What becomes of a task that finds its key held, on real workers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError, MaxRetriesExceededError
from celery.exceptions import TimeoutError as CeleryTimeout

from celery_locks import LockContended, LockLost, LockTimeout, Skipped, owners
from celery_locks.testing.harness import AssertFree, HeldLock
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop
from tests.tasks.shop import skip_by_function

#: Seconds within which a result must be there; what is slow here is the machine, not the lock.
SOON = 100


@pytest.fixture
def shop(prefork_shop: Shop) -> Shop:
    return prefork_shop


def test_reject_rejects_the_message(shop: Shop, key: str, held_lock: HeldLock) -> None:
    with held_lock(key):
        result = shop.task(on_contention="reject", acks_late=True).delay(key)
        shop.worker.wait_for_log(f"[{result.id}] reject requeue=False")
        eventually(lambda: not any(result.id in message for message in _all_messages(shop)), SOON)
    assert not shop.journal.stretches(key)


def test_reject_without_late_acknowledgement_logs_that_it_comes_too_late(
    shop: Shop, key: str, held_lock: HeldLock
) -> None:
    with held_lock(key):
        shop.task(on_contention="reject").delay(key)
        shop.worker.wait_for_log("without acks_late=True")
    assert not shop.journal.stretches(key)


def test_a_callable_is_a_policy(shop: Shop, key: str, held_lock: HeldLock) -> None:
    with held_lock(key):
        assert shop.task(on_contention=skip_by_function).delay(key).get(timeout=SOON)["skipped"] is True


def test_wait_is_served_first_come_first_served(shop: Shop, key: str, held_lock: HeldLock) -> None:
    results = []
    with held_lock(key):
        for number in range(3):
            results.append(shop.task(on_contention="wait").delay(key))
            eventually(lambda waiting=number + 1: _in_line(shop, key) == waiting, SOON)
    for result in results:
        result.get(timeout=SOON)
    assert [s.task_id for s in shop.journal.stretches(key)] == [result.id for result in results]


@pytest.mark.parametrize("policy", ["retry", "wait", "park"])
def test_promise_07_max_wait_ends_in_lock_timeout(shop: Shop, key: str, policy: str) -> None:
    task = shop.task(on_contention=policy, max_wait=0.5)
    with shop.lock(key) as lease:
        result = task.delay(key)
        with pytest.raises(LockTimeout) as caught:
            result.get(timeout=SOON)
    assert caught.value.key == key
    assert not shop.journal.stretches(key)
    (reported,) = shop.journal.entries("timed_out", key=key)
    assert (reported["task"], reported["holders"]) == (task.name, [lease.owner])
    assert owners.task_id_of(reported["owner"]) == result.id


def test_promise_04_refusals_leave_the_holder_alone(shop: Shop, key: str) -> None:
    lock = shop.lock(key)
    with lock as lease:
        before = lock.holders()[0]
        for _ in range(4):
            assert Skipped.of(shop.task(on_contention="skip").delay(key).get(timeout=SOON)) is not None
        after = lock.holders()[0]
        assert (after.token, after.fencing_token) == (lease.token, before.fencing_token)
        lease.extend()
    assert not lock.locked()


@pytest.mark.slow
def test_promise_07_deferrals_leave_the_users_retries_alone(shop: Shop, key: str, held_lock: HeldLock) -> None:
    with held_lock(key):
        # It may retry once: were a deferral counted, its own retry would be refused.
        waiting = shop.task("retries_once").delay(key)
        eventually(lambda: _deferrals(_all_messages(shop), waiting) >= 50, 60, "the task was not deferred fifty times")
    assert waiting.get(timeout=SOON) == 1


def test_promise_07_contenders_are_never_more_messages_than_tasks(shop: Shop, key: str, held_lock: HeldLock) -> None:
    with held_lock(key):
        results = [shop.task().delay(key) for _ in range(10)]
        counts = []

        def deferred() -> bool:
            messages = _all_messages(shop)
            counts.append(len(messages))
            deferrals = [_deferrals(messages, result) for result in results]
            return all(deferrals) and sum(deferrals) >= 60

        eventually(deferred, SOON, interval=0.002)
    for result in results:
        result.get(timeout=SOON)
    assert len(shop.journal.stretches(key)) == 10
    # A message is for a moment twice there: the new one is sent before the old one is forgotten.
    assert 0 < max(counts) <= 10 + 4


@pytest.mark.parametrize(
    ("policy", "first"), [("skip", "skipped"), (skip_by_function, "skipped"), ("retry", "key"), ("wait", "key")]
)
def test_promise_18_a_refused_member_does_not_stop_chain_or_chord(
    shop: Shop, key: str, held_lock: HeldLock, policy: Any, first: str
) -> None:
    member, then = shop.task(on_contention=policy).si(key), shop.task("then").s("then")
    with held_lock(key):
        in_chain = chain(member, then).apply_async()
        in_chord = chord(group(member, shop.task("then").si("free")), shop.task("add_up").s()).apply_async()
        if first != "key":
            assert first in str(in_chain.get(timeout=SOON))
            assert first in str(in_chord.get(timeout=SOON))
    if first == "key":
        assert in_chain.get(timeout=SOON) == [key, "then"]
        assert in_chord.get(timeout=SOON) == [key, ["free"]]


@pytest.mark.parametrize("options", [{"on_contention": "raise"}, {"max_wait": 1}], ids=str)
def test_promise_18_a_member_that_fails_calls_the_errbacks(
    shop: Shop, key: str, held_lock: HeldLock, options: dict[str, Any]
) -> None:
    error = shop.task("on_error").s()
    with held_lock(key):
        member = shop.task(**options).si(key).on_error(error)
        in_chain = chain(member, shop.task("then").s()).apply_async()
        in_chord = chord([member, shop.task("then").si("free")], shop.task("add_up").s().on_error(error)).apply_async()
        failed = in_chain.parent
        with pytest.raises((LockContended, LockTimeout)):
            failed.get(timeout=SOON)
        with pytest.raises((LockContended, LockTimeout, ChordError, CeleryTimeout)):
            in_chord.get(timeout=SOON)
        eventually(lambda: shop.journal.entries("errback", task_id=failed.id), SOON)


@pytest.mark.parametrize("how", ["reject", "ignore"])
def test_promise_06_a_body_that_ends_with_reject_or_ignore_gives_the_key_back(
    shop: Shop, key: str, assert_free: AssertFree, how: str
) -> None:
    shop.task("ends_with").delay(key, how)
    eventually(lambda: [stretch.end for stretch in shop.journal.stretches(key)] != [], SOON)
    assert_free(key, within=SOON)
    assert len(shop.journal.stretches(key)) == 1


@pytest.mark.parametrize("policy", ["retry", "skip", "raise"])
@pytest.mark.parametrize(("kind", "error"), [("retries", MaxRetriesExceededError), ("autoretries", ValueError)])
def test_promise_06_a_tasks_own_retries_all_run(
    shop: Shop, key: str, assert_free: AssertFree, kind: str, error: type[Exception], policy: str
) -> None:
    result = shop.task(kind, on_contention=policy).delay(key)
    with pytest.raises(error):
        result.get(timeout=SOON)
    assert result.state == "FAILURE"
    assert [entry["retries"] for entry in shop.journal.entries("begin", key=key)] == [0, 1, 2, 3]
    assert_free(key)


def test_the_key_is_free_before_the_result_is_there(shop: Shop, key: str) -> None:
    for _ in range(20):
        shop.task().delay(key).get(timeout=SOON)
        lease = shop.lock(key).try_acquire()
        assert lease is not None
        lease.release()


def test_a_task_sent_by_name_is_locked_as_well(shop: Shop, key: str) -> None:
    """Promise 17: the sender may not know the task."""
    from celery import Celery

    stranger = Celery("stranger", broker=shop.app.conf.broker_url, backend=shop.app.conf.result_backend)
    results = [stranger.send_task("work", (key,), {"seconds": 0.05}) for _ in range(6)]
    for result in results:
        result.get(timeout=SOON)
    assert shop.journal.most_at_once(key) == 1
    assert len(shop.journal.stretches(key)) == 6


def test_errors_come_back_whole_from_the_result_backend(shop: Shop, key: str) -> None:
    """Promise 24: JSON keeps the type and the parts."""
    with shop.lock(key) as lease:
        with pytest.raises(LockContended) as caught:
            shop.task(on_contention="raise").delay(key).get(timeout=SOON)
        assert not isinstance(caught.value, LockLost)
        assert caught.value.key == key
        assert caught.value.holders == [lease.owner]
        assert key in str(caught.value)


def _in_line(shop: Shop, key: str) -> int:
    count: Any = _client(shop).zcard(f"celery-locks:{{{key}}}:line")
    return int(count)


def _client(shop: Shop) -> Any:
    return shop.journal._redis


def _deferrals(messages: list[str], result: Any) -> int:
    """How often a task was sent again: the counter in its message, wherever that is now."""
    for message in messages:
        if result.id in message:
            body = json.loads(message)
            body = body[0] if isinstance(body, list) else body
            return int((body["headers"].get("celery_locks") or {}).get("deferrals", 0))
    return 0


def _all_messages(shop: Shop) -> list[str]:
    client = _client(shop)
    found = [*client.lrange("celery", 0, -1), *client.hvals("unacked")]
    return [message.decode() for message in found]
