"""A lease: held, released or lost, by its own clock."""

from __future__ import annotations

import json
import logging
import threading
from datetime import timedelta
from typing import Any

import pytest

from celery_locks import Lease, Lock, LockConfigError, LockKeyError, LockLost, LockNotOwned, Locks, StoreUnavailable
from celery_locks.errors import LossReason
from celery_locks.lease import release_or_later
from celery_locks.renewal import Keeper
from celery_locks.stores.types import Claim
from celery_locks.testing import MovableClock
from tests.support.faulty_store import FaultyStore, fail
from tests.support.waiting import eventually

Told = list[tuple[str, dict[str, Any]]]


def names(told: Told) -> list[str]:
    return [name for name, _ in told]


def reasons(lease: Lease) -> list[str]:
    """Filled when the lease is lost."""
    heard: list[str] = []
    lease.on_lost(lambda lease, reason: heard.append(reason))
    return heard


# --- Held, released, lost ---


def test_a_new_lease_is_held_for_its_ttl(lock: Lock) -> None:
    lease = lock.acquire()
    assert (lease.held, lease.lost, lease.lost_reason, lease.remaining()) == (True, False, None, 30)
    lease.check()


def test_a_released_lease_is_neither_held_nor_lost(lock: Lock, clock: MovableClock) -> None:
    lease = lock.acquire()
    assert lease.release() is True
    clock.advance(100)
    assert (lease.held, lease.lost, lease.lost_reason, lease.remaining()) == (False, False, None, 0)


def test_a_lost_lease_is_neither_held_nor_released(lock: Lock, clock: MovableClock) -> None:
    lease = lock.acquire()
    clock.advance(30)
    assert (lease.held, lease.lost, lease.lost_reason, lease.remaining()) == (False, True, "expired", 0)
    assert lease.release() is False
    assert lease.lost


def test_release_after_the_deadline_is_no_release_though_no_request_noticed(lock: Lock, clock: MovableClock) -> None:
    """Also while the store, whose deadline comes a little later, would still take it."""
    lease = lock.acquire()
    lease._deadline -= 1
    clock.advance(29)
    assert lease.release() is False
    assert lease.lost
    assert not lock.locked(), "it is freed in the store all the same"


def test_a_second_release_is_false_without_a_request(lock: Lock, store: FaultyStore) -> None:
    lease = lock.acquire()
    lease.release()
    asked = len(store.calls)
    assert lease.release() is False
    assert len(store.calls) == asked


def test_promise_22_remaining_counts_from_before_the_request(
    lock: Lock, store: FaultyStore, clock: MovableClock
) -> None:
    store.after["acquire"] = lambda: clock.advance(4)
    assert lock.acquire().remaining() == 26


def test_remaining_counts_from_before_a_renewal(lock: Lock, store: FaultyStore, clock: MovableClock) -> None:
    lease = lock.acquire()
    clock.advance(10)
    store.after["renew"] = lambda: clock.advance(4)
    lease.extend()
    assert lease.remaining() == 26


def test_check_sees_the_loss_at_the_first_instruction_after_a_suspend(lock: Lock, clock: MovableClock) -> None:
    """No thread needs to have run: the process was stopped, or the machine asleep."""
    lease = lock.acquire()
    clock.advance(30)
    with pytest.raises(LockLost, match="time ran out") as caught:
        lease.check()
    assert (caught.value.key, caught.value.reason) == ("k", "expired")


def test_it_is_held_until_its_deadline_and_not_at_it(lock: Lock, clock: MovableClock) -> None:
    lease = lock.acquire()
    clock.advance(29.999)
    assert lease.held
    clock.advance(0.0011)
    assert not lease.held


def test_check_after_release_reports_it(lock: Lock) -> None:
    lease = lock.acquire()
    lease.release()
    with pytest.raises(LockLost, match="was released") as caught:
        lease.check()
    assert caught.value.reason is None


def test_repr_shows_no_owner_token(lock: Lock) -> None:
    lease = lock.acquire()
    assert lease.token not in repr(lease)
    assert "'k'" in repr(lease)


# --- Reasons ---


@pytest.mark.parametrize("reason", ["stolen", "deleted", "expired", "replaced", "force_released"])
def test_the_stores_reason_is_reported(lock: Lock, reason: LossReason) -> None:
    lease = lock.acquire()
    heard = reasons(lease)
    lease._apply_renewal(1_000, 30, reason)
    assert (lease.lost_reason, heard) == (reason, [reason])
    with pytest.raises(LockLost) as caught:
        lease.check()
    assert caught.value.reason == reason


def test_promise_09_a_stolen_key_is_noticed_by_extend(lock: Lock) -> None:
    lease = lock.acquire()
    lock._store.release(lock._name, lease.token)
    lock.acquire()
    with pytest.raises(LockLost) as caught:
        lease.extend()
    assert caught.value.reason == "stolen"


def test_promise_09_a_deleted_key_is_noticed_by_release(lock: Lock) -> None:
    lease = lock.acquire()
    heard = reasons(lease)
    lock._store.release(lock._name, lease.token)
    assert lease.release() is False
    assert heard == ["deleted"]


def test_promise_09_a_loss_that_release_finds_is_reported_though_the_store_goes_away(
    lock: Lock, store: FaultyStore
) -> None:
    lease = lock.acquire()
    heard = reasons(lease)
    lock.force_release()
    store.before["renew"] = fail
    assert lease.release() is False
    assert heard == ["deleted"]


def test_promise_03_release_leaves_the_next_holder_alone_and_reports_once(lock: Lock, clock: MovableClock) -> None:
    first = lock.acquire()
    heard = reasons(first)
    clock.advance(30)
    second = lock.acquire()
    assert first.release() is False
    assert first.release() is False
    assert heard == ["expired"]
    holder = lock.holders()[0]
    assert (holder.token, holder.fencing_token, holder.expires_in) == (second.token, second.fencing_token, 30)
    assert second.held


def test_promise_03_release_of_a_stolen_lease_leaves_the_thief_alone(lock: Lock) -> None:
    first = lock.acquire()
    lock._store.release(lock._name, first.token)
    second = lock.acquire()
    assert first.release() is False
    assert first.lost_reason == "stolen"
    assert second.release() is True


def test_unreachable_is_reported_where_the_last_question_had_no_answer(
    lock: Lock, store: FaultyStore, clock: MovableClock
) -> None:
    lease = lock.acquire()
    clock.advance(10)
    store.go_down()
    with pytest.raises(StoreUnavailable):
        lease.extend()
    assert lease.held, "an answer that did not come says nothing"
    clock.advance(20)
    assert lease.lost_reason == "unreachable"


def test_promise_12_max_hold_is_reported_on_time(locks: Locks, clock: MovableClock) -> None:
    lease = locks.lock("k", ttl=30, max_hold=45).acquire()
    clock.advance(20)
    lease.extend()
    assert lease.remaining() == 25
    clock.advance(25)
    assert lease.lost_reason == "max_hold"


def test_max_hold_below_the_ttl_bounds_the_lease_in_the_store_too(locks: Locks) -> None:
    lock = locks.lock("k", ttl=30, max_hold=5)
    assert lock.acquire().remaining() == 5
    assert lock.holders()[0].expires_in == 5


def test_an_answer_after_max_hold_names_max_hold(locks: Locks, clock: MovableClock) -> None:
    """The renewal was under way when the time was over, and the store says only that the lease has expired."""
    lease = locks.lock("k", ttl=30, max_hold=5).acquire()
    clock.advance(5)
    lease._apply_renewal(1_004, 1, "expired")
    assert lease.lost_reason == "max_hold"


def test_an_answer_that_comes_too_late_does_not_revive(lock: Lock, clock: MovableClock, told: Told) -> None:
    lease = lock.acquire()
    clock.advance(30)
    lease._apply_renewal(1_029, 30, None)
    assert lease.lost
    assert "renewed" not in names(told)


def test_an_answer_in_the_wrong_order_does_not_shorten(lock: Lock, clock: MovableClock) -> None:
    lease = lock.acquire()
    clock.advance(10)
    lease._apply_renewal(1_010, 30, None)
    lease._apply_renewal(1_005, 30, None)
    assert lease.remaining() == 30


# --- Telling ---


def test_callbacks_are_called_in_order_with_lease_and_reason(lock: Lock, clock: MovableClock) -> None:
    heard: list[Any] = []
    lease = lock.acquire()
    lease.on_lost(lambda *told: heard.append((1, *told)))
    lease.on_lost(lambda *told: heard.append((2, *told)))
    clock.advance(30)
    assert lease.lost
    assert lease.lost
    assert heard == [(1, lease, "expired"), (2, lease, "expired")]


def test_a_callback_after_the_loss_is_called_immediately(lock: Lock, clock: MovableClock) -> None:
    lease = lock.acquire()
    clock.advance(30)
    assert reasons(lease) == ["expired"], "nobody had looked before"
    assert reasons(lease) == ["expired"]


def test_a_callback_after_the_release_is_never_called(lock: Lock, clock: MovableClock) -> None:
    lease = lock.acquire()
    lease.release()
    heard = reasons(lease)
    clock.advance(30)
    assert not lease.lost
    assert heard == []


def test_a_disconnected_callback_is_not_called(lock: Lock, clock: MovableClock) -> None:
    lease = lock.acquire()
    heard: list[str] = []
    forget = lease.on_lost(lambda lease, reason: heard.append(reason))
    forget()
    forget()
    clock.advance(30)
    assert lease.lost
    assert heard == []
    forget()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1)])
def test_a_callback_that_raises_disturbs_nothing(
    lock: Lock, clock: MovableClock, told: Told, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def broken(lease: Lease, reason: LossReason) -> None:
        raise error

    lease = lock.acquire()
    lease.on_lost(broken)
    heard = reasons(lease)
    clock.advance(30)
    assert lease.lost
    assert heard == ["expired"]
    assert names(told) == ["acquired", "lost"]
    assert "a callback for the lost lease of 'k' raised" in caplog.text


class Stop(BaseException):
    """Like the abort of a body, that lands in the thread which notices the loss."""


def test_a_callback_that_stops_its_thread_does_so_after_all_others(lock: Lock, clock: MovableClock, told: Told) -> None:
    def stop(lease: Lease, reason: LossReason) -> None:
        raise Stop

    lease = lock.acquire()
    lease.on_lost(stop)
    heard = reasons(lease)
    clock.advance(30)
    with pytest.raises(Stop):
        lease.check()
    assert heard == ["expired"]
    assert names(told) == ["acquired", "lost"]
    assert lease.lost


def test_a_loss_is_logged_without_the_token(lock: Lock, clock: MovableClock, caplog: pytest.LogCaptureFixture) -> None:
    lease = lock.acquire()
    clock.advance(30)
    with caplog.at_level(logging.WARNING):
        assert lease.lost
    assert "lost the lease of 'k': expired" in caplog.text
    assert lease.token not in caplog.text


def test_promise_09_a_loss_is_reported_once_in_a_race_of_threads(locks: Locks, clock: MovableClock) -> None:
    """Some notice, some connect, all at once: whoever is connected hears it once."""
    for turn in range(50):
        lease = locks.lock(f"k{turn}", ttl=30).acquire()
        heard: list[int] = []
        start = threading.Barrier(9)

        def notice(lease: Lease = lease, start: threading.Barrier = start) -> None:
            start.wait()
            assert lease.lost

        def connect(
            number: int, lease: Lease = lease, start: threading.Barrier = start, heard: list[int] = heard
        ) -> None:
            start.wait()
            for i in range(5):
                lease.on_lost(lambda lease, reason: heard.append(number * 5 + i))  # noqa: B023

        threads = [threading.Thread(target=notice) for _ in range(4)]
        threads += [threading.Thread(target=connect, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        clock.advance(30)
        start.wait()
        for thread in threads:
            thread.join()
        assert len(heard) == 20, turn


def test_release_races_with_a_renewal_that_finds_nothing(lock: Lock, store: FaultyStore, told: Told) -> None:
    """The store has released it, the reply is under way, and a renewal that was under way is told that it is gone."""
    lease = lock.acquire()
    store.after["release"] = lambda: lease._apply_renewal(1_000, 30, "deleted")
    assert lease.release() is True
    assert not lease.lost
    assert names(told) == ["acquired", "released"]


def test_a_lease_is_not_held_while_its_release_is_under_way(lock: Lock, store: FaultyStore) -> None:
    """The store may have given it to someone else already."""
    lease, held = lock.acquire(), []
    store.after["release"] = lambda: held.append(lease.held)
    lease.release()
    assert held == [False]


def test_promise_23_of_releases_by_many_threads_one_is_true(locks: Locks, told: Told) -> None:
    for turn in range(50):
        lease = locks.lock(f"k{turn}").acquire()
        start, released = threading.Barrier(4), []

        def release(lease: Lease = lease, start: Any = start, released: list[bool] = released) -> None:
            start.wait()
            released.append(lease.release())

        threads = [threading.Thread(target=release) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(released) == [False, False, False, True]
    assert names(told).count("released") == 50
    assert "lost" not in names(told)


def test_two_concurrent_releases_do_not_take_each_other_for_a_loss(lock: Lock, store: FaultyStore, told: Told) -> None:
    """The second asks while the first has not heard yet that it succeeded."""
    lease, answers = lock.acquire(), []
    second = threading.Thread(target=lambda: answers.append(lease.release()))

    def meanwhile() -> None:
        store.after.clear()
        second.start()
        second.join(0.1)

    store.after["release"] = meanwhile
    assert lease.release() is True
    second.join()
    assert answers == [False]
    assert names(told) == ["acquired", "released"]


def test_a_release_that_another_thread_makes_meanwhile_is_no_loss(lock: Lock, store: FaultyStore, told: Told) -> None:
    """The second overtakes the first on the way to the store."""
    lease, overtaken, done = lock.acquire(), threading.Event(), threading.Event()
    second = threading.Thread(target=lease.release)

    def overtake() -> None:
        store.before.clear()
        second.start()
        overtaken.wait(0.1)

    def hold_up() -> None:
        if threading.current_thread() is second:
            overtaken.set()
            done.wait(5)

    store.before["release"], store.after["release"] = overtake, hold_up
    lease.release()
    done.set()
    second.join()
    assert names(told) == ["acquired", "released"]


def test_a_signals_handler_may_ask_and_release_within_any_step(lock: Lock, clock: MovableClock) -> None:
    """It interrupts its own thread, which may hold any of the lease's mutexes."""

    def interrupted() -> None:
        lease = lock.acquire()
        with lease._mutex, lease._releases:
            assert lease.held
            assert lease.release()

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


# --- The store is away ---


def test_promise_23_release_while_the_store_is_away_can_be_repeated(lock: Lock, store: FaultyStore, told: Told) -> None:
    lease = lock.acquire()
    store.go_down()
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            lease.release()
    assert (lease.held, lease.lost) == (False, False)
    store.come_back()
    assert lock.locked()
    assert lease.release() is True
    assert not lock.locked()
    assert names(told) == ["acquired", "released"]
    assert lease.release() is False


def test_promise_23_a_release_whose_reply_was_lost_is_no_loss(lock: Lock, store: FaultyStore, told: Told) -> None:
    lease = lock.acquire()
    store.after["release"] = fail
    with pytest.raises(StoreUnavailable):
        lease.release()
    store.come_back()
    assert lease.release() is False, "the one before did it"
    assert not lease.lost
    assert names(told) == ["acquired", "released"]


def test_a_release_that_failed_does_not_become_a_loss(lock: Lock, store: FaultyStore, clock: MovableClock) -> None:
    lease = lock.acquire()
    heard = reasons(lease)
    store.go_down()
    with pytest.raises(StoreUnavailable):
        lease.release()
    clock.advance(100)
    assert not lease.lost
    store.come_back()
    assert lease.release() is False
    assert heard == []


def test_a_failed_release_is_no_longer_renewed(
    lock: Lock, store: FaultyStore, clock: MovableClock, keeper: Keeper
) -> None:
    lease = lock.acquire()
    store.before["release"] = fail
    with pytest.raises(StoreUnavailable):
        lease.release()
    clock.advance(10)
    keeper.tick()
    assert "renew" not in store.calls
    with pytest.raises(LockLost):
        lease.extend()


def test_a_release_that_is_made_later_is_reported_then(lock: Lock, store: FaultyStore, told: Told) -> None:
    lease = lock.acquire()
    store.go_down()
    assert release_or_later(lease) is True
    assert names(told) == ["acquired"]
    store.come_back()
    eventually(lambda: names(told) == ["acquired", "released"])
    assert not lock.locked()


def test_an_interrupted_release_is_made_up_for(lock: Lock, store: FaultyStore) -> None:
    """Ctrl-C, or a soft time limit, while the thread waits for the store."""

    def interrupt() -> None:
        store.come_back()
        raise KeyboardInterrupt

    lease = lock.acquire()
    store.before["release"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        release_or_later(lease)
    eventually(lambda: not lock.locked())


# --- Extend ---


def test_extend_extends_here_and_in_the_store(lock: Lock, clock: MovableClock) -> None:
    lease = lock.acquire()
    clock.advance(10)
    lease.extend(60)
    assert (lease.remaining(), lock.holders()[0].expires_in) == (60, 60)


def test_extend_never_shortens(lock: Lock) -> None:
    lease = lock.acquire()
    lease.extend(1)
    assert (lease.remaining(), lock.holders()[0].expires_in) == (30, 30)


def test_promise_35_an_extension_that_nothing_is_known_of_is_no_loss(
    lock: Lock, store: FaultyStore, locks: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = lock.acquire()
    text = lease.serialize()
    monkeypatch.setattr(store, "renew", lambda renewals: ["unreachable"] * len(renewals))
    with pytest.raises(StoreUnavailable):
        lease.extend(60)
    assert lease.held
    with pytest.raises(StoreUnavailable):
        locks.restore(text)


def test_extend_takes_a_timedelta(lock: Lock) -> None:
    lease = lock.acquire()
    lease.extend(timedelta(minutes=1))
    assert lease.remaining() == 60


@pytest.mark.parametrize("ttl", [0, -1, "60", float("nan"), True])
def test_extend_refuses_what_is_no_ttl(lock: Lock, store: FaultyStore, ttl: Any) -> None:
    lease = lock.acquire()
    with pytest.raises(LockConfigError, match="ttl"):
        lease.extend(ttl)
    assert "renew" not in store.calls


def test_extend_after_the_deadline_sends_no_request(lock: Lock, clock: MovableClock, store: FaultyStore) -> None:
    lease = lock.acquire()
    clock.advance(30)
    with pytest.raises(LockLost):
        lease.extend()
    assert "renew" not in store.calls


def test_extend_whose_answer_comes_after_the_deadline_is_a_loss(
    lock: Lock, clock: MovableClock, store: FaultyStore
) -> None:
    lease = lock.acquire()
    clock.advance(29)
    store.after["renew"] = lambda: clock.advance(2)
    with pytest.raises(LockLost):
        lease.extend()


# --- As text ---


def test_a_restored_lease_is_the_same_holding(lock: Lock, locks: Locks) -> None:
    lease = lock.acquire()
    restored = locks.restore(lease.serialize())
    for name in ("key", "owner", "token", "fencing_token", "ttl"):
        assert getattr(restored, name) == getattr(lease, name)
    assert restored.held
    assert restored.release() is True
    assert not lock.locked()


def test_restoring_extends_and_is_watched_but_not_renewed(
    lock: Lock, locks: Locks, clock: MovableClock, keeper: Keeper
) -> None:
    text = lock.acquire().serialize()
    keeper.forget(next(iter(keeper._watch._leases.values())))  # as if its process had ended
    clock.advance(20)
    restored = locks.restore(text)
    heard = reasons(restored)
    assert restored.remaining() == 30
    clock.advance(30)
    keeper.tick()
    assert heard == ["expired"]


def test_promise_09_a_restored_lease_does_not_end_its_holders_renewal(
    lock: Lock, locks: Locks, clock: MovableClock, keeper: Keeper
) -> None:
    lease = lock.acquire()
    restored = locks.restore(lease.serialize())
    heard = reasons(lease)
    assert keeper.kept(lease.token) is lease
    restored.release()
    clock.advance(10)
    keeper.tick()
    assert heard == ["deleted"]


def test_a_restored_lease_keeps_to_max_hold(locks: Locks, clock: MovableClock) -> None:
    lease = locks.lock("k", ttl=30, max_hold=40).acquire()
    clock.advance(20)
    restored = locks.restore(lease.serialize())
    assert restored.remaining() == 20
    clock.advance(20)
    assert restored.lost_reason == "max_hold"


@pytest.mark.parametrize("end", ["release", "expire", "force", "steal"])
def test_a_lease_that_ended_is_not_restored(lock: Lock, locks: Locks, clock: MovableClock, end: str) -> None:
    lease = lock.acquire()
    text = lease.serialize()
    if end == "release":
        lease.release()
    elif end == "expire":
        clock.advance(30)
    else:
        lock.force_release()
    if end == "steal":
        lock.acquire()
    with pytest.raises(LockNotOwned) as caught:
        locks.restore(text)
    assert caught.value.key == "k"


def test_restore_while_the_store_is_away_reports_it(lock: Lock, locks: Locks, store: FaultyStore) -> None:
    text = lock.acquire().serialize()
    store.go_down()
    with pytest.raises(StoreUnavailable):
        locks.restore(text)


@pytest.mark.parametrize(
    "change",
    [
        {"key": 5},
        {"key": ""},
        {"key": "\ud800"},
        {"token": None},
        {"token": ["x"]},
        {"owner": 1},
        {"fencing_token": "1"},
        {"fencing_token": True},
        {"ttl": float("nan")},
        {"ttl": 0},
        {"ttl": "30"},
        {"limit": 0},
        {"permits": 1.5},
        {"hold_left": "x"},
    ],
    ids=str,
)
def test_text_with_a_wrong_value_is_refused(
    lock: Lock, locks: Locks, store: FaultyStore, change: dict[str, Any]
) -> None:
    text = json.dumps({**json.loads(lock.acquire().serialize()), **change})
    with pytest.raises(LockKeyError, match="not the text of a lease"):
        locks.restore(text)
    assert "renew" not in store.calls


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '"key"', "{", "7", None, b"\xff", "[" * 100_000])
def test_other_text_is_refused(locks: Locks, text: Any) -> None:
    with pytest.raises(LockKeyError, match="not the text of a lease"):
        locks.restore(text)


def test_a_lease_that_no_keeper_has_can_be_released(store: FaultyStore, clock: MovableClock) -> None:
    claim = Claim("n", "t", "o", 30)
    store.acquire(claim)
    assert Lease(store, claim, "k", 1, clock.now(), clock=clock).release() is True
