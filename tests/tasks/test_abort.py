"""A body whose lease is lost is stopped, in every pool, and its run fails whatever the body makes of that."""

from __future__ import annotations

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from celery_locks import LockedTask, LockLost, Locks
from celery_locks.testing.harness import AssertFree
from tests.support.waiting import eventually
from tests.tasks.bodies import BLOCKS
from tests.tasks.conftest import Shop

SOON = 100

#: What a body may be doing so that it is stopped at once.
SIGNALLED = tuple(BLOCKS)
GREENLETS = ("naps", "sleep", "recv", "lock", "event")
STOPPED_IN = {
    "prefork": SIGNALLED,
    "solo": SIGNALLED,
    "threads": ("loop", "naps"),
    "gevent": GREENLETS,
    "eventlet": GREENLETS,
}
PAIRS = [(pool, how) for pool, hows in STOPPED_IN.items() for how in hows]


def begun(shop: Shop, key: str) -> None:
    eventually(lambda: shop.journal.entries("begin", key=key), SOON)


def lose(shop: Shop, key: str) -> None:
    begun(shop, key)
    shop.lock(key).force_release()


def ends_lost(shop: Shop, result: object, key: str) -> None:
    with pytest.raises(LockLost) as caught:
        result.get(timeout=SOON)  # type: ignore[attr-defined]
    assert result.state == "FAILURE"  # type: ignore[attr-defined]
    assert (caught.value.key, caught.value.reason) == (key, "force_released")
    # Told before the run has ended, though it was stopped first.
    assert [entry["reason"] for entry in shop.journal.entries("lost", key=key)] == ["force_released"]
    assert not shop.journal.entries("after", key=key)


@pytest.mark.parametrize(("pool", "how"), PAIRS)
def test_promise_09_a_body_is_stopped_wherever_it_is(
    request: pytest.FixtureRequest, key: str, pool: str, how: str
) -> None:
    shop: Shop = request.getfixturevalue(f"{pool}_shop")
    result = shop.task("blocks").delay(key, how)
    lose(shop, key)
    ends_lost(shop, result, key)


def test_promise_09_errbacks_and_on_failure_run(any_shop: Shop, key: str) -> None:
    shop = any_shop
    result = shop.task("blocks").apply_async((key, "naps"), link_error=shop.task("on_error").s())
    lose(shop, key)
    ends_lost(shop, result, key)
    for event in ("failed", "errback"):
        written = eventually(lambda event=event: shop.journal.entries(event, task_id=result.id), SOON)
        assert [entry["error"] for entry in written] == ["LockLost"]


def test_promise_09_a_body_that_swallows_everything_fails_all_the_same(any_shop: Shop, key: str) -> None:
    result = any_shop.task("swallows_all").delay(key, "naps")
    lose(any_shop, key)
    ends_lost(any_shop, result, key)
    assert [entry["is_exception"] for entry in any_shop.journal.entries("saw", key=key)] == [False]


def test_promise_09_a_body_that_makes_another_error_of_it_fails_with_lock_lost(any_shop: Shop, key: str) -> None:
    result = any_shop.task("wraps_the_error").delay(key, "naps")
    lose(any_shop, key)
    ends_lost(any_shop, result, key)


def test_a_body_may_clean_up(any_shop: Shop, key: str) -> None:
    result = any_shop.task("cleans_up").delay(key, "naps")
    lose(any_shop, key)
    ends_lost(any_shop, result, key)
    assert len(any_shop.journal.entries("cleaned", key=key)) == 1


def test_autoretry_for_lock_lost_tries_again(any_shop: Shop, key: str) -> None:
    result = any_shop.task("retries_when_lost").delay(key, "naps")
    lose(any_shop, key)
    assert result.get(timeout=SOON) == "run 1"


def test_a_task_within_a_task_is_stopped_alone_when_its_own_lease_is_lost(any_shop: Shop, key: str) -> None:
    inner = f"{key}-inner"
    result = any_shop.task("runs_inner").delay(key, inner, "naps")
    lose(any_shop, inner)
    assert result.get(timeout=SOON) == ["FAILURE", True]
    assert [entry["error"] for entry in any_shop.journal.entries("inner", key=key)] == ["LockLost"]
    assert not any_shop.journal.entries("lost", key=key)


def test_a_task_within_a_task_is_stopped_with_it(any_shop: Shop, key: str, assert_free: AssertFree) -> None:
    inner = f"{key}-inner"
    result = any_shop.task("runs_inner").delay(key, inner, "naps")
    begun(any_shop, inner)
    any_shop.lock(key).force_release()
    ends_lost(any_shop, result, key)
    assert not any_shop.journal.entries("inner", key=key)
    assert not any_shop.journal.entries("lost", key=inner)
    assert_free(inner)


def test_a_plain_call_within_a_task_is_stopped_with_it(any_shop: Shop, key: str, assert_free: AssertFree) -> None:
    inner = f"{key}-inner"
    result = any_shop.task("calls_inner").delay(key, inner, "naps")
    begun(any_shop, inner)
    assert_free(inner)
    any_shop.lock(key).force_release()
    ends_lost(any_shop, result, key)


@pytest.mark.parametrize("how", ["loop", "naps"])
def test_in_a_worker_off_the_main_thread(key: str, how: str) -> None:
    """As of the ``celery_worker`` fixture of Celery's pytest plugin, where no signal handler can be set."""
    app = Celery("here", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(locks_url="memory://")

    @app.task(base=LockedTask, lock_key="<key>", lock_ttl=1.5, shared=False)
    def blocks(key: str, how: str) -> str:
        BLOCKS[how]()
        return "never stopped"

    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=SOON):
        result = blocks.delay(key, how)
        lock = Locks.from_app(app).lock(key)
        eventually(lock.locked, SOON)
        lock.force_release()
        with pytest.raises(LockLost):
            result.get(timeout=SOON)
        assert result.state == "FAILURE"
