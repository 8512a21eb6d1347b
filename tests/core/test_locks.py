"""`Locks` and `Lock`: taking a key, waiting for it, and what is left after an error: nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from celery_locks import (
    Lease,
    Lock,
    LockConfigError,
    LockKeyError,
    LockLost,
    Locks,
    LockTimeout,
    StoreUnavailable,
    renewal,
    signals,
)
from celery_locks.locks import app_store
from celery_locks.renewal import Keeper
from celery_locks.stores.memory import MemoryStore
from celery_locks.testing import MovableClock
from tests.support.faulty_store import FaultyStore, fail
from tests.support.waiting import eventually

Told = list[tuple[str, dict[str, Any]]]


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


# --- Acquire ---


def test_promise_22_fencing_tokens_grow(lock: Lock) -> None:
    tokens = []
    for _ in range(5):
        lease = lock.acquire()
        tokens.append(lease.fencing_token)
        lease.release()
    assert tokens == sorted(set(tokens))


def test_each_acquisition_has_an_owner_token_of_its_own(lock: Lock) -> None:
    first = lock.acquire()
    first.release()
    second = lock.acquire()
    assert len(first.token) >= 32
    assert first.token != second.token


def test_try_acquire_of_a_held_key_is_none_and_stands_in_no_line(lock: Lock, store: FaultyStore) -> None:
    lock.acquire()
    assert lock.try_acquire() is None
    assert store.in_line(lock._name) == 0


def test_promise_04_refusals_leave_the_holder_alone(lock: Lock) -> None:
    lease = lock.acquire()
    for _ in range(3):
        assert lock.try_acquire() is None
    assert lease.held
    assert lock.holders()[0].token == lease.token
    assert lock.try_acquire() is None


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5, timedelta(0), timedelta(seconds=-3)])
def test_a_timeout_that_is_over_is_a_single_try(lock: Lock, store: FaultyStore, timeout: Any) -> None:
    lock.acquire()
    store.calls.clear()
    with pytest.raises(LockTimeout):
        lock.acquire(timeout=timeout)
    assert store.calls == ["acquire"]
    assert store.in_line(lock._name) == 0


@pytest.mark.parametrize("timeout", [0, -1, timedelta(0), 10, None])
def test_a_free_key_is_acquired_with_any_timeout(lock: Lock, timeout: Any) -> None:
    assert lock.acquire(timeout=timeout).held


@pytest.mark.parametrize("timeout", ["10", True, False, float("nan"), float("inf"), 10**400, [1]], ids=repr)
def test_other_timeouts_are_refused_before_the_store_is_asked(lock: Lock, store: FaultyStore, timeout: Any) -> None:
    with pytest.raises(LockConfigError, match="timeout"):
        lock.acquire(timeout=timeout)
    renewal.keeper().tick()
    assert store.calls == []


@pytest.mark.parametrize("timeout", [0.05, timedelta(milliseconds=50)])
def test_a_timeout_names_the_holders_and_leaves_the_line(timeout: Any) -> None:
    store = FaultyStore()
    locks = Locks(store, owner="Anna")
    locks.lock("k").acquire()
    lock = locks.lock("k")
    with pytest.raises(LockTimeout, match="'k' was not acquired in time: it is held by Anna") as caught:
        lock.acquire(timeout=timeout)
    assert (caught.value.key, caught.value.holders) == ("k", ["Anna"])
    assert store.in_line(lock._name) == 0


def test_a_timeout_behind_others_in_line_reports_it(lock: Lock, store: FaultyStore) -> None:
    lease = lock.acquire()
    waiter = lock._new_claim()
    store.acquire(waiter, line_up=10)
    lease.release()
    with pytest.raises(LockTimeout, match="others are before in line"):
        lock.acquire(timeout=0)


def test_owners_are_named_by_lock_then_locks_then_process(store: FaultyStore) -> None:
    locks = Locks(store, owner="of locks")
    assert locks.lock("a", owner="of lock").acquire().owner == "of lock"
    assert locks.lock("b").acquire().owner == "of locks"
    assert ":" in Locks(store).lock("c").acquire().owner


def test_waiters_are_served_in_the_order_of_coming() -> None:
    store = FaultyStore()
    lock = Locks(store).lock("k")
    first, served, waiters = lock.acquire(), [], []

    def wait(number: int) -> None:
        with lock:
            served.append(number)

    for number in range(5):
        waiters.append(in_thread(lambda number=number: wait(number)))
        eventually(lambda number=number: store.in_line(lock._name) == number + 1)
    assert lock.try_acquire() is None
    first.release()
    for waiter in waiters:
        waiter.join(10)
    assert served == [0, 1, 2, 3, 4]


def test_a_waiter_is_woken_by_the_release() -> None:
    store = FaultyStore()
    lock = Locks(store).lock("k", ttl=60)
    lease, done = lock.acquire(), threading.Event()
    in_thread(lambda: (lock.acquire(timeout=30), done.set()))
    eventually(lambda: store.in_line(lock._name))
    started = time.monotonic()
    lease.release()
    assert done.wait(10)
    assert time.monotonic() - started < 1


def test_promise_01_a_dead_holder_is_passed_over_at_its_ttl() -> None:
    store = FaultyStore()
    lock = Locks(store).lock("k", ttl=0.2)
    store.acquire(lock._new_claim())  # nobody renews it
    lease = lock.acquire(timeout=5)
    assert lease.held


def test_a_waiter_keeps_its_place_for_longer_than_a_place_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_locks._sansio.PLACE_KEPT_SECONDS", 0.15)
    store = FaultyStore()
    lock = Locks(store).lock("k", ttl=60)
    lease = lock.acquire()
    waiter = in_thread(lambda: lock.acquire(timeout=10))
    eventually(lambda: store.calls.count("acquire") > 8)
    assert store.in_line(lock._name) == 1
    lease.release()
    waiter.join(5)
    assert not waiter.is_alive()


def test_force_release_names_the_holders_and_releases_the_key(locks: Locks) -> None:
    lock = locks.lock("k", owner="Anna")
    lease = lock.acquire()
    assert [holder.owner for holder in lock.force_release()] == ["Anna"]
    assert not lock.locked()
    assert lock.force_release() == ()
    assert lock.acquire().fencing_token > lease.fencing_token


# --- Errors while acquiring ---


ACQUIRES: list[Callable[[Lock], Any]] = [
    Lock.acquire,
    Lock.try_acquire,
    lambda lock: lock.acquire(timeout=5),
    Lock.__enter__,
]


@pytest.mark.parametrize("acquire", ACQUIRES)
@pytest.mark.parametrize("error", [StoreUnavailable, ValueError, KeyboardInterrupt])
def test_promise_23_a_lost_reply_is_not_acquired_and_its_lease_released(
    lock: Lock, store: FaultyStore, keeper: Keeper, acquire: Callable[[Lock], Any], error: type[BaseException]
) -> None:
    def lose_reply() -> None:
        raise error

    store.after["acquire"] = lose_reply
    with pytest.raises(error):
        acquire(lock)
    store.come_back()
    eventually(lambda: not lock.locked(), timeout=5)
    assert lock.acquire(timeout=0).held


def test_promise_10_a_store_that_is_away_is_not_acquired(lock: Lock, store: FaultyStore) -> None:
    store.go_down()
    with pytest.raises(StoreUnavailable):
        lock.acquire()
    with pytest.raises(StoreUnavailable):
        lock.try_acquire()


def test_promise_10_a_grant_that_took_longer_than_the_lease_lives_is_not_acquired(
    lock: Lock, store: FaultyStore, clock: MovableClock, told: Told
) -> None:
    """Else the body would run without a lease from its first line on."""
    store.after["acquire"] = lambda: clock.advance(30)
    with pytest.raises(StoreUnavailable, match="longer to answer than the 30 s") as caught:
        lock.acquire()
    assert caught.value.key == "k"
    with pytest.raises(StoreUnavailable):
        lock.try_acquire()
    assert told == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, StoreUnavailable])
def test_an_interrupted_waiter_leaves_the_line(lock: Lock, store: FaultyStore, error: type[BaseException]) -> None:
    def interrupt() -> None:
        assert store.in_line(lock._name) == 1
        raise error

    lease = lock.acquire()
    store.before["wait"] = interrupt
    with pytest.raises(error):
        lock.acquire(timeout=10)
    eventually(lambda: store.in_line(lock._name) == 0)
    assert lease.held


def test_a_timeout_whose_goodbye_fails_leaves_the_line_later(lock: Lock, store: FaultyStore) -> None:
    lock.acquire()
    lined_up = lock._new_claim()
    store.acquire(lined_up, line_up=60)
    store.before["leave"] = fail
    with pytest.raises(StoreUnavailable):
        lock.acquire(timeout=0, claim=lined_up)
    store.come_back()
    eventually(lambda: store.in_line(lock._name) == 0)


def test_an_interrupt_after_the_grant_releases_and_forgets_it(lock: Lock, keeper: Keeper) -> None:
    """A signal's receiver stands for whatever strikes between the store's yes and the caller."""

    def interrupt(**named: Any) -> None:
        raise KeyboardInterrupt

    signals.on_lock_acquired.connect(interrupt)
    for acquire in (lock.acquire, lock.try_acquire):
        with pytest.raises(KeyboardInterrupt):
            acquire()
        assert not lock.locked()
        assert keeper._watch._leases == {}


# --- with, run ---


def test_with_holds_and_releases(lock: Lock) -> None:
    with lock as lease:
        assert lease.held
        assert lock.locked()
    assert not lock.locked()


def test_with_releases_after_an_error_and_passes_it_on(lock: Lock) -> None:
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    assert not lock.locked()


def test_with_raises_at_its_end_when_the_lease_was_lost_within(lock: Lock, clock: MovableClock) -> None:
    with pytest.raises(LockLost) as caught, lock:
        clock.advance(30)
    assert (caught.value.key, caught.value.reason) == ("k", "expired")


def test_with_raises_at_its_end_when_the_key_was_stolen(lock: Lock) -> None:
    thieves = []
    with pytest.raises(LockLost) as caught, lock:
        thieves.append(lock._store.release(lock._name, lock.holders()[0].token) and lock.acquire())
    assert caught.value.reason == "stolen"
    assert thieves[0].held


def test_an_error_within_hides_the_loss(lock: Lock, clock: MovableClock) -> None:
    def broken() -> None:
        clock.advance(30)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), lock:
        broken()


def test_with_accepts_a_lease_that_was_released_within(lock: Lock) -> None:
    with lock as lease:
        assert lease.release()


def test_with_ends_well_while_the_store_is_away(lock: Lock, store: FaultyStore) -> None:
    with lock:
        store.go_down()
    store.come_back()
    eventually(lambda: not lock.locked())


def test_with_may_be_nested_and_shared_by_threads(locks: Locks) -> None:
    """One `Lock` object, with many permits: each block releases the lease that it took."""
    lock = locks.lock("k")
    lock._terms = type(lock._terms)(limit=100)
    start, wrong = threading.Barrier(4), []

    def nest(number: int) -> None:
        start.wait()
        for _ in range(20):
            with lock as outer, lock as inner:
                if outer.token == inner.token or not (outer.held and inner.held):
                    wrong.append(number)
            if outer.held or inner.held:
                wrong.append(number)

    threads = [in_thread(lambda number=number: nest(number)) for number in range(4)]
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert not lock.locked()


def test_run_returns_what_the_function_returns(lock: Lock) -> None:
    assert lock.run(lambda a, b: (a, b, lock.locked()), 1, b=2) == (1, 2, True)
    assert not lock.locked()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_run_passes_errors_on_and_releases(lock: Lock, error: type[BaseException]) -> None:
    def broken() -> None:
        raise error

    with pytest.raises(error):
        lock.run(broken)
    assert not lock.locked()


def test_run_raises_when_the_lease_was_lost(lock: Lock, clock: MovableClock) -> None:
    with pytest.raises(LockLost):
        lock.run(clock.advance, 30)


def test_run_waits_no_longer_than_it_may(lock: Lock) -> None:
    lock.acquire()
    with pytest.raises(LockTimeout):
        lock.run(pytest.fail, timeout=0)


# --- Signals ---


def test_signals_of_a_life(lock: Lock, clock: MovableClock, keeper: Keeper, told: Told) -> None:
    lease = lock.acquire()
    assert lock.try_acquire() is None
    clock.advance(10)
    keeper.tick()
    lease.release()
    assert [name for name, _ in told] == ["acquired", "contended", "renewed", "released"]
    assert {named["sender"] for _, named in told} == {lock}
    assert told[1][1] == {"sender": lock, "key": "k", "holders": [lease.owner], "owner": None, "store": "default"}
    assert all(told[i][1]["lease"] is lease for i in (0, 2, 3))


def test_promise_09_the_signal_of_a_loss_has_lease_and_reason(lock: Lock, clock: MovableClock, told: Told) -> None:
    lease = lock.acquire()
    clock.advance(30)
    assert lease.lost
    assert told[1:] == [("lost", {"sender": lock, "lease": lease, "reason": "expired"})]


def test_a_waiter_reports_contention_once(told: Told) -> None:
    store = FaultyStore()
    lock = Locks(store).lock("k", ttl=0.1, renew=False)
    lock.acquire()
    lock.acquire(timeout=5)
    assert [name for name, _ in told].count("contended") == 1


# --- Keys ---

ODD_KEYS = {
    "10 kB": "x" * 10_000,
    "newline": "a\nb",
    "nul": "a\0b",
    "4 bytes": "käse🧀",
    "}": "}",
    "begins with }": "}x",
    "begins with =": "=x",
    "braces": "{a}{b}",
    "spaces": "  ",
    "percent": "%s",
}


@pytest.mark.parametrize("key", ODD_KEYS.values(), ids=ODD_KEYS)
def test_odd_keys_lock_themselves_alone(locks: Locks, key: str) -> None:
    lease = locks.lock(key).acquire()
    assert locks.lock(key).try_acquire() is None
    assert locks.lock(key + "x").try_acquire()
    assert lease.release()


@pytest.mark.parametrize("key", ["", "\ud800", "a\udfff", None, 7, b"k"], ids=repr)
def test_what_can_be_no_key_is_refused(locks: Locks, key: Any) -> None:
    with pytest.raises(LockKeyError):
        locks.lock(key)


def hash_tag(name: str) -> str:
    """What Redis Cluster hashes."""
    start = name.find("{")
    end = name.find("}", start + 1)
    return name[start + 1 : end] if start >= 0 and end > start + 1 else name


RECORDS = ["", ":until", ":line", ":alive", ":wake:", ":wake:0123"]


@pytest.mark.parametrize("key", [*ODD_KEYS.values(), "}:until", "=}", "="])
def test_all_records_of_a_lock_have_one_hash_tag(locks: Locks, key: str) -> None:
    name = locks.lock(key)._name
    assert len({hash_tag(name + record) for record in RECORDS}) == 1


def test_no_key_can_forge_the_records_of_another() -> None:
    parts = ["", "}", "{", "=", ":", "a", ":until", ":line", "}:until", "=}", "{=}", ":{"]
    keys = {a + b + c for a in parts for b in parts for c in parts} - {""}
    seen: dict[str, tuple[str, str, str]] = {}
    for prefix in ("p", "p:", "p::", "p:="):
        locks = Locks(MemoryStore(), prefix=prefix)
        for key in keys:
            for record in RECORDS:
                name = locks._space.name(key) + record
                assert seen.setdefault(name, (prefix, key, record)) == (prefix, key, record), name


@pytest.mark.parametrize("prefix", ["", "{", "}", "a{b}", None])
def test_a_prefix_with_braces_or_none_is_refused(store: FaultyStore, prefix: Any) -> None:
    with pytest.raises(LockConfigError, match="prefix"):
        Locks(store, prefix=prefix)


def test_locks_of_different_prefixes_never_meet(store: FaultyStore) -> None:
    assert Locks(store, prefix="a").lock("k").try_acquire()
    assert Locks(store, prefix="b").lock("k").try_acquire()


# --- Options ---


@pytest.mark.parametrize("name", ["ttl", "max_hold"])
@pytest.mark.parametrize("value", [0, -1, "30", float("nan"), float("inf"), True, 0.0009, 10**400], ids=repr)
def test_bad_times_are_refused(locks: Locks, name: str, value: Any) -> None:
    with pytest.raises(LockConfigError, match=name):
        locks.lock("k", **{name: value})


@pytest.mark.parametrize("renew", [None, "yes", [], float("inf")], ids=repr)
def test_a_bad_renew_is_refused(locks: Locks, renew: Any) -> None:
    with pytest.raises(LockConfigError, match="renew"):
        locks.lock("k", renew=renew)


def test_times_may_be_timedeltas(locks: Locks) -> None:
    day = timedelta(days=1)
    terms = locks.lock("k", ttl=day, renew=day / 4, max_hold=day * 2)._terms  # type: ignore[arg-type]
    assert (terms.ttl, terms.interval, terms.max_hold) == (86_400, 21_600, 172_800)


# --- Which store ---


def test_without_a_url_it_states_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELERY_LOCKS_URL", raising=False)
    for make in (Locks, lambda: Locks(""), lambda: Locks.from_app(SimpleNamespace(conf={}))):
        with pytest.raises(LockConfigError, match=r"set locks_url .* or the variable CELERY_LOCKS_URL"):
            make()


def test_the_variable_names_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_LOCKS_URL", "memory://of-the-variable")
    assert Locks().store is Locks("memory://of-the-variable").store


LOCKS, VARIABLE = "redis://locks/1", "redis://variable/2"
RESULTS, BROKER = "redis://results/3", "redis://broker/4"


@pytest.mark.parametrize(
    ("conf", "variable", "url"),
    [
        ({"locks_url": LOCKS, "result_backend": RESULTS, "broker_url": BROKER}, VARIABLE, LOCKS),
        ({"result_backend": RESULTS, "broker_url": BROKER}, VARIABLE, VARIABLE),
        ({"result_backend": RESULTS, "broker_url": BROKER}, None, RESULTS),
        ({"result_backend": "db+sqlite:///x", "broker_url": BROKER}, None, BROKER),
        ({"result_backend": None, "broker_url": BROKER}, "", BROKER),
        ({"locks_url": "", "broker_url": BROKER}, None, BROKER),
        ({"broker_url": [BROKER, "redis://second/4"]}, None, BROKER),
        ({"broker_url": f"{BROKER};redis://second/4"}, None, BROKER),
        ({"broker_url": (f"{BROKER};redis://second/4",)}, None, BROKER),
        ({"broker_url": "rediss://b/0"}, None, "rediss://b/0"),
        ({"broker_url": "valkey://b/0"}, None, "valkey://b/0"),
        ({"broker_url": "redis+socket:///run/r.sock"}, None, "redis+socket:///run/r.sock"),
    ],
)
def test_the_first_source_that_is_set_names_the_store(
    conf: dict[str, Any], variable: str | None, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is None:
        monkeypatch.delenv("CELERY_LOCKS_URL", raising=False)
    else:
        monkeypatch.setenv("CELERY_LOCKS_URL", variable)
    assert app_store(conf) == url


@pytest.mark.parametrize("variable", ["CELERY_RESULT_BACKEND", "CELERY_BROKER_URL"])
def test_celerys_own_variables_name_the_store_too(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELERY_LOCKS_URL", raising=False)
    monkeypatch.setenv(variable, RESULTS)
    app = Celery("by-variables", set_as_current=False)
    assert app_store(app.conf) == RESULTS


@pytest.mark.parametrize(
    "conf",
    [
        {"broker_url": "amqp://guest@localhost//"},
        {"broker_url": ["amqp://a", "redis://b"]},
        {"broker_url": []},
        {"broker_url": [None]},
        {"result_backend": "rpc://", "broker_url": "sqs://"},
        {"result_backend": object(), "broker_url": None},
    ],
)
def test_a_broker_that_is_no_redis_is_no_store(conf: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELERY_LOCKS_URL", raising=False)
    with pytest.raises(LockConfigError, match="set locks_url"):
        app_store(conf)


def test_from_app_takes_the_prefix_too() -> None:
    locks = Locks.from_app(SimpleNamespace(conf={"locks_url": "memory://", "locks_prefix": "shop"}))
    assert locks.prefix == "shop"
    assert Locks.from_app(SimpleNamespace(conf={"locks_url": "memory://"})).prefix == "celery-locks"


def test_promise_21_no_repr_or_url_has_the_password() -> None:
    locks = Locks("redis://anna:s%40cret@localhost:1/0")
    shown = f"{locks!r} {locks.url} {locks.lock('k')!r} {vars(locks.lock('k'))!r}"
    assert "cret" not in shown
    assert "redis://anna:***@localhost:1/0" in shown


def test_promise_21_no_error_of_a_store_that_is_away_has_the_password(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        Locks("redis://anna:s%40cret@localhost:1/0").lock("k", ttl=0.2).try_acquire()
    assert "cret" not in f"{caught.value!r} {caplog.text}"
    assert "anna:***@localhost:1" in str(caught.value)


# --- All of it, in any order ---


class Leases(RuleBasedStateMachine):
    """Two keys and a clock; renewals, releases, thefts and outages in any order."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.clock = MovableClock()
        self.store = FaultyStore(self.clock)
        self.locks = Locks(self.store, clock=self.clock)
        self.before, self.keeper = renewal.keeper(), renewal.Keeper()
        renewal.keeper._values["value"] = self.keeper
        self.all: list[Lease] = []
        self.ends: dict[str, str] = {}
        self.stolen_at: dict[str, float] = {}
        self.told: dict[str, list[str]] = {}
        self.fences: dict[str, int] = {}

    def teardown(self) -> None:
        for lease in self.all:
            self.keeper.forget(lease)
        renewal.keeper._values["value"] = self.before

    @rule(
        target=leases,
        key=st.sampled_from("ab"),
        ttl=st.sampled_from([10, 30]),
        max_hold=st.sampled_from([None, 25]),
        renew=st.booleans(),
    )
    def acquire(self, key: str, ttl: int, max_hold: int | None, renew: bool) -> Any:
        lock = self.locks.lock(key, ttl=ttl, max_hold=max_hold, renew=renew)
        free = not MemoryStore.holders(self.store, lock._name)
        try:
            lease = lock.try_acquire()
        except StoreUnavailable:
            assert self.store.before
            # Its clean-up belongs to a thread of its own and may come at any time: do it now, when nothing was done.
            self.keeper._releaser(self.store)._releases.clear()
            return None
        assert free == (lease is not None)
        if lease is None:
            return None
        assert lease.fencing_token > self.fences.get(key, 0)
        self.fences[key] = lease.fencing_token
        self.all.append(lease)
        self.told[lease.token] = []
        lease.on_lost(lambda lease, reason: self.told[lease.token].append(reason))
        return lease

    @rule(seconds=st.sampled_from([0.5, 3.0, 9.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def tick(self) -> None:
        self.keeper.tick()

    @rule(lease=consumes(leases))
    def release(self, lease: Lease | None) -> None:
        if lease is None:
            return
        held = lease.held
        try:
            released = lease.release()
        except StoreUnavailable:
            assert self.store.before
            return
        assert held or not released
        assert released or lease.lost or not held

    @rule(lease=leases)
    def extend(self, lease: Lease | None) -> None:
        if lease is None:
            return
        held, before = lease.held, lease.remaining()
        try:
            lease.extend()
        except (LockLost, StoreUnavailable):
            return
        assert held
        assert lease.remaining() >= before

    @rule(key=st.sampled_from("ab"))
    @precondition(lambda self: not self.store.before)
    def steal(self, key: str) -> None:
        for holder in self.locks.lock(key).force_release():
            self.stolen_at[holder.token] = self.clock.now()

    @rule()
    def outage(self) -> None:
        if self.store.before:
            self.store.come_back()
        else:
            self.store.go_down()

    @invariant()
    def ends_are_final(self) -> None:
        for lease in self.all:
            assert not (lease.held and lease.lost)
            state = "held" if lease.held else "lost" if lease.lost else "released"
            assert self.ends.get(lease.token, state) == state
            if state != "held":
                self.ends[lease.token] = state
                assert lease.remaining() == 0
            assert self.told[lease.token] == ([lease.lost_reason] if state == "lost" else [])

    @invariant()
    def one_holder_by_the_clock(self) -> None:
        """Who was robbed may believe in its lease until its next renewal; nobody else."""
        for key in "ab":
            held = [lease for lease in self.all if lease.key == key and lease.held]
            assert len([lease for lease in held if lease.token not in self.stolen_at]) <= 1

    @invariant()
    def what_is_held_here_is_held_in_the_store_as_long(self) -> None:
        for lease in self.all:
            if lease.held and lease.token not in self.stolen_at:
                holders = MemoryStore.holders(self.store, lease._claim.name)
                assert [holder.token for holder in holders] == [lease.token]
                assert lease.remaining() <= holders[0].expires_in + 1e-6


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_promise_19_threads_never_hold_a_key_together() -> None:
    """Who waits and who only tries, renewed or not."""
    store, dice = FaultyStore(), random.Random(19)
    locks = Locks(store)
    inside: list[str] = []
    wrong: list[object] = []
    fences: list[int] = []

    def work() -> None:
        for _ in range(60):
            lock = locks.lock("k", ttl=20, renew=dice.random() < 0.5)
            lease = lock.acquire(timeout=20) if dice.random() < 0.5 else lock.try_acquire()
            if lease is None:
                continue
            inside.append(lease.token)
            fences.append(lease.fencing_token)
            if len(inside) != 1:
                wrong.append(list(inside))
            if dice.random() < 0.2:
                time.sleep(dice.random() / 500)
            inside.remove(lease.token)
            if not lease.release():
                wrong.append(lease)

    threads = [in_thread(work) for _ in range(6)]
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert fences == sorted(set(fences))
    assert not store._locks


@pytest.mark.slow
def test_a_lease_that_is_neither_renewed_nor_released_outlives_its_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'locks.db'}"
    code = f"from celery_locks import Locks; print(Locks({url!r}).lock('k', ttl=4, renew=False).try_acquire())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "held" in done.stdout
    with closing(Locks(url)) as locks:
        assert locks.lock("k").try_acquire() is None
        eventually(lambda: not locks.lock("k").locked(), 10, "it did not end with its ttl")
