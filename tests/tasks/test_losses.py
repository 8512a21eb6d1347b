"""What becomes of a run whose lease is lost, on real workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from celery_locks import LockLost
from celery_locks.stores.types import Granted
from tests.support.cli import Run
from tests.support.waiting import eventually
from tests.tasks.conftest import Shop

SOON = 100
#: Far longer than any of these tests may take: a body that is aborted never sleeps it out.
LONG = 60
#: Seconds until a run is stopped whose lease is taken by force, on a slow machine with greenlets and threads.
PROMPT = 5.0


def begun(shop: Shop, key: str) -> None:
    eventually(lambda: shop.lock(key).locked(), SOON)


def delete(shop: Shop, key: str) -> None:
    """Have the store forget the lease of a key, so that its holder is not notified."""
    lock = shop.lock(key)
    assert lock._store.release(lock._name, lock.holders()[0].token)


def steal(shop: Shop, key: str) -> None:
    """Have the store forget the lease of a key, and acquire the key."""
    delete(shop, key)
    assert shop.lock(key, renew=False).try_acquire() is not None


def release_by_command(shop: Shop, key: str) -> None:
    """Release a key as an operator does."""
    assert "Released" in Run(shop.app)("release", key, "--yes").output


def replace_holder(shop: Shop, key: str) -> None:
    """Take the key as a run with the policy ``replace`` does."""
    lock = shop.lock(key, renew=False)
    assert isinstance(lock._store.acquire(replace(lock._new_claim(), replaces=True)), Granted)


@pytest.mark.parametrize(
    ("force", "reason"),
    [(release_by_command, "force_released"), (replace_holder, "replaced")],
    ids=["release", "replace"],
)
def test_promise_34_a_run_whose_lease_is_taken_by_force_is_stopped_promptly(
    any_shop: Shop, key: str, force: Callable[[Shop, str], object], reason: str
) -> None:
    shop = any_shop
    result = shop.task("blocks", ttl=60).delay(key, "naps")
    begun(shop, key)
    started = time.monotonic()
    force(shop, key)
    with pytest.raises(LockLost) as caught:
        result.get(timeout=SOON)
    assert (caught.value.key, caught.value.reason) == (key, reason)
    lost = shop.journal.entries("lost", key=key)
    assert [entry["reason"] for entry in lost] == [reason]
    # Renewals are 20 s apart. What is above a tenth of a second is the machine's.
    assert lost[0]["time"] - started < PROMPT


@pytest.mark.parametrize(("how", "reason"), [("delete", "deleted"), ("steal", "stolen")])
def test_promise_09_a_lost_lease_is_reported_once_and_ends_the_run(
    any_shop: Shop, key: str, how: str, reason: str
) -> None:
    shop = any_shop
    result = shop.task("blocks").delay(key, "naps")
    begun(shop, key)
    token = shop.lock(key).holders()[0].token
    started = time.monotonic()
    delete(shop, key) if how == "delete" else steal(shop, key)
    with pytest.raises(LockLost) as caught:
        result.get(timeout=SOON)
    assert result.state == "FAILURE"
    assert (caught.value.key, caught.value.reason) == (key, reason)
    lost = shop.journal.entries("lost", key=key)
    assert [(entry["token"], entry["reason"]) for entry in lost] == [(token, reason)]
    # Renewals are 0.5 s apart. What is above that second is the machine's.
    assert lost[0]["time"] - started < 0.5 + 1


@pytest.mark.slow
def test_a_loop_may_look_for_itself(any_shop: Shop, key: str) -> None:
    result = any_shop.task("checks").delay(key, LONG)
    begun(any_shop, key)
    any_shop.lock(key).force_release()
    with pytest.raises(LockLost):
        result.get(timeout=SOON)
    assert result.state == "FAILURE"


@pytest.mark.slow
def test_promise_03_a_run_that_expired_leaves_its_successor_alone(any_shop: Shop, key: str) -> None:
    shop = any_shop
    result = shop.task("swallows_errors", ttl=0.5, renew=False, on_lost="signal").delay(key, 2)
    begun(shop, key)
    lock = shop.lock(key)
    with lock as lease:  # waits for the end of the first lease, while its body still runs
        assert not result.ready()
        assert result.get(timeout=SOON) == key
        held = lock.holders()
        assert [(h.token, h.fencing_token) for h in held] == [(lease.token, lease.fencing_token)]
        assert lease.held
        lease.extend()
    assert [entry["reason"] for entry in shop.journal.entries("lost", key=key)] == ["expired"]


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "eventlet"])
def test_promise_09_a_process_that_was_stopped_knows_immediately(
    open_shop: Callable[..., Shop], key: str, pool: str
) -> None:
    shop = open_shop()
    shop.start_worker(pool=pool, concurrency=1)
    result = shop.task("reports_loss_after_stop").delay(key)
    eventually(lambda: shop.journal.entries("begin", key=key), SOON)
    pid = shop.journal.stretches(key)[0].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        lease = shop.lock(key).acquire(timeout=SOON)
        eventually(lambda: time.monotonic() - stopped > 1.5 + 0.5, SOON)  # as long as the body looks for
        os.kill(pid, signal.SIGCONT)
        found = result.get(timeout=SOON)
        assert lease.release(), "the one that was stopped left it alone"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert found["reason"] in ("expired", "unreachable")
    assert (found["lost"], found["held"], found["left"]) == (True, False, 0)
    assert [entry["reason"] for entry in shop.journal.entries("lost", key=key)] == [found["reason"]]


@pytest.mark.slow
def test_the_worker_is_well_after_an_abort(any_shop: Shop, key: str) -> None:
    for number in range(5):
        mine = f"{key}-{number}"
        result = any_shop.task("blocks").delay(mine, "naps")
        begun(any_shop, mine)
        any_shop.lock(mine).force_release()
        with pytest.raises(LockLost):
            result.get(timeout=SOON)
        assert any_shop.task().delay(mine).get(timeout=SOON) == mine
    assert any_shop.worker.container.status == "running"
