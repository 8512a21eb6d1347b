"""Tests for stores of your own: subclass `StoreCompliance`, give it a ``store``, and pytest runs the contract.

    import pytest
    from celery_locks.testing import StoreCompliance

    pytest.register_assert_rewrite("celery_locks.testing")   # before the import: asserts that show their values

    class TestMyStore(StoreCompliance):
        @pytest.fixture
        def store(self):
            return MyStore(...)

The only module of the package that needs pytest.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock, Thread

import pytest

from celery_locks.stores.base import MOST_HOLDERS, Claim, Granted, Holder, Refused, Renewal, Store

#: Names that break quoting, globs, hash tags and C strings.
ODD_NAMES = {
    "newline": "a\nb",
    "nul": "a\0b",
    "4-byte": "käse🧀",
    "200 bytes": "n" * 200,
    "braces": "}{",
    "hash tag": "{a}:{b}",
    "empty tag": "{}",
    "glob": "*[a-z]?",
    "quotes": "'\"\\;--",
    "spaces": "  a\tb ",
    "percent": "%s%00%(a)s",
}


class MovableClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves it; below 0 it goes back, as only a wall clock may."""
        self._now += seconds


class StoreTests:
    """What tests of a store are written with. Give ``store``; the rest is to be set where it differs.

    Names are made afresh for each test, so one server may serve all of them.
    """

    #: Seconds a lease or place lives that a test lets end.
    short = 0.2
    #: Seconds a lease lives that must outlive its test.
    long = 120.0
    #: Seconds until a test gives up waiting for something that must happen.
    patience = 30.0
    #: Seconds within which a waiter is woken, if the store wakes.
    wakes_within = 5.0
    #: Threads and acquisitions of each in the tests under load.
    threads, rounds = 6, 20
    #: Whether `Store.renew` still knows a lease right after its deadline. Without, ``deleted`` will do.
    tells_expired = True

    @pytest.fixture
    def store(self) -> Store:
        """The store under test."""
        raise NotImplementedError("give a fixture named store")

    @pytest.fixture
    def another(self, store: Store) -> Store:
        """A second store object on the same data, like another process would have."""
        return store

    @pytest.fixture(autouse=True)
    def _closed_at_the_end(self, store: Store, another: Store) -> Iterator[None]:
        yield
        store.close()
        another.close()

    def pass_time(self, seconds: float) -> None:
        """Lets at least that much time pass on the store's clock."""
        time.sleep(seconds + 0.02)

    @pytest.fixture
    def name(self) -> str:
        return f"compliance:{uuid.uuid4().hex}"

    # What the tests are written with

    def claim(self, name: str, ttl: float | None = None, limit: int = 1, permits: int = 1) -> Claim:
        token = uuid.uuid4().hex
        return Claim(name, token, f"owner-{token[:6]}", self.long if ttl is None else ttl, limit, permits)

    def granted(self, store: Store, claim: Claim, line_up: float | None = None) -> int:
        """The fencing token; fails when the claim is refused."""
        answer = store.acquire(claim, line_up)
        assert isinstance(answer, Granted), f"refused though free: {answer}"
        return answer.fencing_token

    def refused(self, store: Store, claim: Claim, line_up: float | None = None) -> Refused:
        answer = store.acquire(claim, line_up)
        assert isinstance(answer, Refused), f"granted though not to be had: {answer}"
        return answer

    def in_line(self, store: Store, *claims: Claim) -> None:
        """Lines them up, in this order, for as long as the test runs."""
        for claim in claims:
            self.refused(store, claim, self.long)

    def until_granted(self, store: Store, claim: Claim) -> Granted:
        """Acquires like a client: in line, and again after each wait."""
        give_up = time.monotonic() + self.patience
        while isinstance(answer := store.acquire(claim, self.long), Refused):
            assert time.monotonic() < give_up, f"still refused after {self.patience} s: {answer}"
            store.wait(claim.name, claim.token, min(answer.retry_in, self.patience))
        return answer

    @contextmanager
    def waiting(self, store: Store, claim: Claim) -> Iterator[Callable[[], None]]:
        """Waits in a thread; the function given checks that the wait has ended in time."""
        thread = Thread(target=store.wait, args=(claim.name, claim.token, 2 * self.patience), daemon=True)
        thread.start()

        def ended() -> None:
            thread.join(self.wakes_within if store.wakes else self.patience)
            assert not thread.is_alive(), "its turn has come, and its wait goes on"

        yield ended
        thread.join(self.patience)

    def names(self, holders: Sequence[Holder]) -> list[str]:
        return [holder.owner for holder in holders]


class StoreCompliance(StoreTests):
    """What every store promises, as tests."""

    # Promise 1: the limit

    def test_a_held_lock_is_refused_to_others(self, store: Store, another: Store, name: str) -> None:
        first = self.claim(name)
        self.granted(store, first)
        assert self.names(self.refused(another, self.claim(name)).holders) == [first.owner]

    def test_locks_are_independent(self, store: Store, name: str) -> None:
        for suffix in ("", "x", ":x", " "):
            self.granted(store, self.claim(name + suffix))

    def test_as_many_holders_as_the_limit(self, store: Store, another: Store, name: str) -> None:
        for holder in range(3):
            self.granted((store, another)[holder % 2], self.claim(name, limit=3))
        self.refused(store, self.claim(name, limit=3))
        self.refused(another, self.claim(name, limit=3))

    def test_weights_add_up(self, store: Store, name: str) -> None:
        self.granted(store, self.claim(name, limit=5, permits=2))
        self.refused(store, self.claim(name, limit=5, permits=4))
        self.granted(store, self.claim(name, limit=5, permits=3))
        self.refused(store, self.claim(name, limit=5))

    def test_more_than_the_limit_is_never_granted(self, store: Store, name: str) -> None:
        answer = self.refused(store, self.claim(name, limit=2, permits=3))
        assert answer.holders == ()
        assert answer.retry_in > 0

    def test_a_lowered_limit_counts_those_who_hold(self, store: Store, name: str) -> None:
        holders = [self.claim(name, limit=3) for _ in range(2)]
        for holder in holders:
            self.granted(store, holder)
        self.refused(store, self.claim(name, limit=1))
        store.release(name, holders[0].token)
        self.refused(store, self.claim(name, limit=1))
        store.release(name, holders[1].token)
        self.granted(store, self.claim(name, limit=1))

    def test_an_expired_holder_is_passed_over(self, store: Store, another: Store, name: str) -> None:
        self.granted(store, self.claim(name, ttl=self.short))
        self.pass_time(self.short)
        assert another.holders(name) == ()
        self.granted(another, self.claim(name))

    def test_an_expired_holder_frees_its_permits_only(self, store: Store, name: str) -> None:
        self.granted(store, self.claim(name, limit=5, permits=3))
        self.granted(store, self.claim(name, ttl=self.short, limit=5, permits=2))
        self.pass_time(self.short)
        self.refused(store, self.claim(name, limit=5, permits=3))
        self.granted(store, self.claim(name, limit=5, permits=2))

    @pytest.mark.parametrize(("limit", "weights"), [(1, (1,)), (4, (1, 2, 3))], ids=["lock", "semaphore"])
    def test_the_limit_under_load(
        self, store: Store, another: Store, name: str, limit: int, weights: tuple[int, ...]
    ) -> None:
        used, most, tokens, guard = 0, 0, list[int](), Lock()

        def work(number: int) -> None:
            nonlocal used, most
            mine = (store, another)[number % 2]
            for turn in range(self.rounds):
                claim = self.claim(name, limit=limit, permits=weights[(number + turn) % len(weights)])
                fencing_token = self.until_granted(mine, claim).fencing_token
                with guard:
                    used += claim.permits
                    most = max(most, used)
                    tokens.append(fencing_token)
                time.sleep(0)
                with guard:
                    used -= claim.permits
                assert mine.release(name, claim.token)

        self._run_all(work)
        assert most <= limit
        assert len(set(tokens)) == self.threads * self.rounds
        assert limit > 1 or tokens == sorted(tokens)

    def _run_all(self, work: Callable[[int], None]) -> None:
        with ThreadPoolExecutor(self.threads) as pool:
            futures: list[Future[None]] = [pool.submit(work, number) for number in range(self.threads)]
            for future in futures:
                future.result()

    # Semaphores: limits above one, and who is served when

    def test_held_counts_the_permits(self, store: Store, another: Store, name: str) -> None:
        assert store.held(name) == 0
        claims = [self.claim(name, limit=9, permits=permits) for permits in (1, 2, 4)]
        for claim in claims:
            self.granted(store, claim)
        self.granted(store, claims[2])
        self.refused(store, self.claim(name, limit=9, permits=3), self.long)
        assert another.held(name) == 7
        store.release(name, claims[1].token)
        store.release(name, claims[1].token)
        assert another.held(name) == 5
        another.force_release(name)
        assert store.held(name) == 0

    def test_held_counts_no_expired_ones(self, store: Store, another: Store, name: str) -> None:
        self.granted(store, self.claim(name, limit=9, permits=4))
        self.granted(store, self.claim(name, ttl=self.short, limit=9, permits=3))
        self.granted(store, self.claim(name + "x", ttl=self.short, limit=9, permits=3))
        self.pass_time(self.short)
        assert another.held(name) == 4
        assert another.held(name + "x") == 0
        assert store.held(name) == 4, "asking changed something"

    def test_held_counts_more_than_are_named(self, store: Store, name: str) -> None:
        for _ in range(MOST_HOLDERS + 5):
            self.granted(store, self.claim(name, limit=1000, permits=2))
        assert store.held(name) == 2 * (MOST_HOLDERS + 5)

    def test_each_acquisition_goes_by_its_own_limit(self, store: Store, another: Store, name: str) -> None:
        for _ in range(3):
            self.granted(store, self.claim(name, limit=5))
        self.refused(another, self.claim(name, limit=3))
        self.granted(another, self.claim(name, limit=4))
        self.refused(store, self.claim(name, limit=1))
        self.granted(store, self.claim(name, limit=5))
        self.refused(store, self.claim(name, limit=5))
        assert store.held(name) == 5

    def test_a_heavy_one_is_not_starved(self, store: Store, another: Store, name: str) -> None:
        """Light ones come and go without end; the heavy one is served when those before it have gone."""
        light = [self.claim(name, limit=3) for _ in range(3)]
        for claim in light:
            self.granted(store, claim)
        heavy = self.claim(name, limit=3, permits=3)
        self.in_line(another, heavy)
        behind = [self.claim(name, limit=3) for _ in light]
        for holder, newcomer in zip(light, behind, strict=True):
            self.refused(store, newcomer, self.long)
            self.refused(another, heavy)
            store.release(name, holder.token)
            self.refused(store, newcomer)
            self.refused(store, self.claim(name, limit=3))
        self.granted(another, heavy)
        self.refused(store, behind[0])
        another.release(name, heavy.token)
        for claim in behind:
            self.granted(store, claim)

    def test_the_line_is_served_in_its_order_whatever_the_weights(self, store: Store, name: str) -> None:
        weights = (3, 1, 1, 2, 3, 1)
        holder, waiters = self.claim(name, limit=3, permits=3), [self.claim(name, limit=3, permits=w) for w in weights]
        self.granted(store, holder)
        self.in_line(store, *waiters)
        store.release(name, holder.token)
        served: list[int] = []
        for turn in range(len(waiters)):  # the last one asks first: only the order of the line may decide
            for number in reversed(range(len(waiters))):
                if number not in served and isinstance(store.acquire(waiters[number]), Granted):
                    served.append(number)
                    store.release(name, waiters[number].token)
            assert len(served) > turn
        assert served == list(range(len(waiters)))

    def test_an_end_of_a_deadline_makes_room_for_a_heavy_one(self, store: Store, another: Store, name: str) -> None:
        self.granted(store, self.claim(name, limit=3))
        self.granted(store, self.claim(name, ttl=self.short, limit=3, permits=2))
        heavy = self.claim(name, limit=3, permits=2)
        store.acquire(heavy, self.long)
        self.pass_time(self.short)
        self.granted(another, heavy)

    def test_a_heavy_release_wakes_all_for_whom_there_is_room(self, store: Store, another: Store, name: str) -> None:
        holder = self.claim(name, limit=4, permits=4)
        waiters = [self.claim(name, limit=4) for _ in range(4)]
        self.granted(store, holder)
        self.in_line(another, *waiters)
        store.release(name, holder.token)
        for waiter in waiters:
            with self.waiting(another, waiter) as ended:
                ended()
            self.granted(another, waiter)

    def test_heavy_and_light_ones_all_get_a_turn(self, store: Store, another: Store, name: str) -> None:
        def work(number: int) -> None:
            mine = (store, another)[number % 2]
            for _ in range(self.rounds if number else 3):  # number 0 needs all there is, beside many that need little
                claim = self.claim(name, limit=3, permits=1 if number else 3)
                self.until_granted(mine, claim)
                assert mine.release(name, claim.token)

        self._run_all(work)
        assert store.held(name) == 0

    # Promise 2: the owner token

    def test_release_frees_the_lock_once(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        assert store.release(name, claim.token) is True
        assert store.release(name, claim.token) is False
        self.granted(another, self.claim(name))

    def test_release_of_what_was_never_held(self, store: Store, name: str) -> None:
        assert store.release(name, "nobody") is False

    def test_release_of_an_expired_lease(self, store: Store, name: str) -> None:
        claim = self.claim(name, ttl=self.short)
        self.granted(store, claim)
        self.pass_time(self.short)
        assert store.release(name, claim.token) is False

    def test_release_counts_for_the_own_lock_only(self, store: Store, name: str) -> None:
        claim, other = self.claim(name), self.claim(name + "x")
        self.granted(store, claim)
        self.granted(store, other)
        assert store.release(other.name, claim.token) is False
        assert self.names(store.holders(name)) == [claim.owner]
        assert self.names(store.holders(other.name)) == [other.owner]

    def test_a_stale_token_changes_nothing(self, store: Store, another: Store, name: str) -> None:
        stale, current = self.claim(name), self.claim(name)
        self.granted(store, stale)
        store.release(name, stale.token)
        self.granted(another, current)
        assert store.release(name, stale.token) is False
        assert store.renew([Renewal(name, stale.token, 10 * self.long)]) == ["stolen"]
        store.leave(name, current.token)
        (holder,) = store.holders(name)
        assert holder.token == current.token
        assert holder.expires_in <= self.long

    def test_one_holder_of_several_releases(self, store: Store, name: str) -> None:
        claims = [self.claim(name, limit=3) for _ in range(3)]
        for claim in claims:
            self.granted(store, claim)
        assert store.release(name, claims[1].token)
        assert self.names(store.holders(name)) == [claims[0].owner, claims[2].owner]

    def test_force_release_takes_it_from_all(self, store: Store, another: Store, name: str) -> None:
        claims = [self.claim(name, limit=3) for _ in range(3)]
        for claim in claims:
            self.granted(store, claim)
        assert self.names(another.force_release(name)) == [claim.owner for claim in claims]
        assert store.holders(name) == ()
        assert store.release(name, claims[0].token) is False
        self.granted(store, self.claim(name))

    def test_force_release_of_a_free_lock(self, store: Store, name: str) -> None:
        assert store.force_release(name) == ()

    def test_force_release_does_not_name_the_expired(self, store: Store, name: str) -> None:
        self.granted(store, self.claim(name, ttl=self.short))
        self.pass_time(self.short)
        assert store.force_release(name) == ()

    # Renewal

    def test_renew_prolongs(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name, ttl=self.long)
        self.granted(store, claim)
        assert another.renew([Renewal(name, claim.token, 10 * self.long)]) == [None]
        (holder,) = store.holders(name)
        assert self.long < holder.expires_in <= 10 * self.long

    def test_renew_never_shortens(self, store: Store, name: str) -> None:
        claim = self.claim(name, ttl=self.long)
        self.granted(store, claim)
        assert store.renew([Renewal(name, claim.token, self.short)]) == [None]
        self.pass_time(self.short)
        self.refused(store, self.claim(name))
        assert store.release(name, claim.token) is True

    def test_renew_counts_from_now(self, store: Store, name: str) -> None:
        claim = self.claim(name, ttl=self.long)
        self.granted(store, claim)
        before = store.holders(name)[0].expires_in
        self.pass_time(self.short)
        assert store.holders(name)[0].expires_in <= before - self.short + 0.01
        store.renew([Renewal(name, claim.token, self.long)])
        (holder,) = store.holders(name)
        assert holder.expires_in <= self.long
        assert holder.held_for >= self.short - 0.01

    def test_renew_tells_each_reason_in_order(self, store: Store, another: Store, name: str) -> None:
        claims = {what: self.claim(f"{name}:{what}") for what in ("live", "deleted", "stolen", "live too")}
        expired = self.claim(f"{name}:expired", ttl=self.short)
        for claim in (expired, *claims.values()):
            self.granted(store, claim)
        another.force_release(claims["deleted"].name)
        another.force_release(claims["stolen"].name)
        self.granted(another, self.claim(claims["stolen"].name))
        self.pass_time(self.short)
        order = [claims["live"], claims["stolen"], expired, claims["deleted"], claims["live too"]]
        reasons = store.renew([Renewal(claim.name, claim.token, 10 * self.long) for claim in order])
        late = reasons.pop(2)
        assert reasons == [None, "stolen", "deleted", None]
        assert late == "expired" or (late == "deleted" and not self.tells_expired)
        for claim in (claims["live"], claims["live too"]):
            assert store.holders(claim.name)[0].expires_in > self.long

    def test_renew_never_revives(self, store: Store, name: str) -> None:
        claim = self.claim(name, ttl=self.short)
        self.granted(store, claim)
        self.pass_time(self.short)
        assert store.renew([Renewal(name, claim.token, self.long)]) != [None]
        assert store.holders(name) == ()
        self.granted(store, self.claim(name))

    def test_renew_after_another_took_the_expired(self, store: Store, name: str) -> None:
        claim, newcomer = self.claim(name, ttl=self.short), self.claim(name)
        self.granted(store, claim)
        self.pass_time(self.short)
        self.granted(store, newcomer)
        assert store.renew([Renewal(name, claim.token, self.long)])[0] in ("expired", "stolen")
        assert self.names(store.holders(name)) == [newcomer.owner]

    def test_renew_of_nothing(self, store: Store, name: str) -> None:
        assert store.renew([]) == []
        assert store.renew([Renewal(name, "nobody", self.long)]) == ["deleted"]

    def test_renew_of_many(self, store: Store, name: str) -> None:
        claims = [self.claim(f"{name}:{number}") for number in range(150)]
        for claim in claims:
            self.granted(store, claim)
        store.release(claims[70].name, claims[70].token)
        reasons = store.renew([Renewal(claim.name, claim.token, self.long) for claim in claims])
        assert [number for number, reason in enumerate(reasons) if reason is not None] == [70]
        assert len(reasons) == len(claims)

    # Promise 3: fencing

    def test_fencing_grows_after_a_release(self, store: Store, another: Store, name: str) -> None:
        fencing_tokens = []
        for turn in range(5):
            claim = self.claim(name)
            fencing_tokens.append(self.granted((store, another)[turn % 2], claim))
            store.release(name, claim.token)
        assert fencing_tokens == sorted(set(fencing_tokens))

    def test_fencing_grows_after_an_expiry(self, store: Store, another: Store, name: str) -> None:
        before = self.granted(store, self.claim(name, ttl=self.short))
        self.pass_time(self.short)
        assert self.granted(another, self.claim(name)) > before

    def test_fencing_grows_after_a_force_release(self, store: Store, another: Store, name: str) -> None:
        before = self.granted(store, self.claim(name))
        another.force_release(name)
        assert self.granted(another, self.claim(name)) > before

    def test_fencing_tells_holders_apart(self, store: Store, another: Store, name: str) -> None:
        fencing_tokens = [self.granted((store, another)[turn % 2], self.claim(name, limit=4)) for turn in range(4)]
        assert fencing_tokens == sorted(set(fencing_tokens))

    def test_fencing_fits_into_64_bits(self, store: Store, name: str) -> None:
        assert 0 < self.granted(store, self.claim(name)) < 2**63

    # Promise 5: the same token again

    def test_the_same_acquire_again(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name, limit=3, permits=2)
        fencing_token = self.granted(store, claim)
        assert self.granted(another, claim) == fencing_token
        assert [holder.permits for holder in store.holders(name)] == [2]
        self.granted(store, self.claim(name, limit=3))
        assert store.release(name, claim.token)
        assert not store.release(name, claim.token)

    def test_the_same_acquire_again_past_a_line(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        fencing_token = self.granted(store, claim)
        self.in_line(store, self.claim(name))
        assert self.granted(store, claim, self.long) == fencing_token

    def test_the_same_acquire_again_never_shortens(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        self.granted(store, Claim(name, claim.token, claim.owner, self.short))
        self.pass_time(self.short)
        self.refused(store, self.claim(name))

    def test_the_same_acquire_again_counts_its_ttl_from_now(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        self.granted(store, Claim(name, claim.token, claim.owner, 10 * self.long))
        assert self.long < store.holders(name)[0].expires_in <= 10 * self.long

    def test_the_same_token_after_its_lease_ended(self, store: Store, name: str) -> None:
        claim = self.claim(name, ttl=self.short)
        first = self.granted(store, claim)
        self.pass_time(self.short)
        assert self.granted(store, claim) > first

    # Promise 6: the line

    def test_first_come_first_served(self, store: Store, another: Store, name: str) -> None:
        holder, waiters = self.claim(name), [self.claim(name) for _ in range(4)]
        self.granted(store, holder)
        self.in_line(another, *waiters)
        for turn, waiter in enumerate(waiters):
            store.release(name, holder.token)
            for later in reversed(waiters[turn + 1 :]):
                self.refused(store, later, self.long)
            self.granted(another, waiter)
            holder = waiter

    def test_positions(self, store: Store, name: str) -> None:
        self.granted(store, self.claim(name))
        waiters = [self.claim(name) for _ in range(3)]
        assert [self.refused(store, waiter, self.long).position for waiter in waiters] == [0, 1, 2]
        assert [self.refused(store, waiter, self.long).position for waiter in waiters] == [0, 1, 2]
        assert self.refused(store, self.claim(name)).position is None
        assert [self.refused(store, waiter).position for waiter in waiters] == [0, 1, 2]
        store.leave(name, waiters[1].token)
        assert [self.refused(store, waiter).position for waiter in waiters] == [0, None, 1]
        assert self.refused(store, waiters[1], self.long).position == 2

    def test_nobody_barges_past_the_line(self, store: Store, another: Store, name: str) -> None:
        holder, waiter, newcomer = self.claim(name), self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(store, waiter)
        store.release(name, holder.token)
        answer = self.refused(another, newcomer)
        assert answer.holders == ()
        assert self.refused(another, newcomer, self.long).position == 1
        self.granted(store, waiter)

    def test_light_ones_do_not_overtake_a_heavy_one(self, store: Store, name: str) -> None:
        holder = self.claim(name, limit=3, permits=2)
        heavy, light = self.claim(name, limit=3, permits=3), self.claim(name, limit=3)
        self.granted(store, holder)
        self.in_line(store, heavy)
        self.refused(store, light, self.long)  # one permit is free
        store.release(name, holder.token)
        self.refused(store, light, self.long)
        self.granted(store, heavy)
        store.release(name, heavy.token)
        self.granted(store, light)

    def test_those_behind_a_heavy_one_follow_when_it_leaves(self, store: Store, name: str) -> None:
        heavy, light = self.claim(name, limit=3, permits=3), self.claim(name, limit=3)
        self.granted(store, self.claim(name, limit=3, permits=2))
        self.in_line(store, heavy, light)
        with self.waiting(store, light) as ended:
            store.leave(name, heavy.token)
            ended()
        self.granted(store, light)

    def test_a_grant_ends_the_waiting(self, store: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(store, waiter)
        store.release(name, holder.token)
        self.granted(store, waiter)
        store.release(name, waiter.token)
        self.granted(store, self.claim(name))

    def test_a_dead_waiter_is_passed_over(self, store: Store, another: Store, name: str) -> None:
        holder, dead, waiter = self.claim(name), self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.refused(store, dead, self.short)
        self.in_line(another, waiter)
        self.pass_time(self.short)
        assert self.refused(another, waiter).position == 0
        store.release(name, holder.token)
        self.granted(another, waiter)

    def test_a_dead_waiter_is_passed_over_when_its_turn_had_come(self, store: Store, name: str) -> None:
        holder, dead = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.refused(store, dead, self.short)
        store.release(name, holder.token)
        self.pass_time(self.short)
        self.granted(store, self.claim(name))

    def test_a_dead_holder_makes_room_for_the_line(self, store: Store, name: str) -> None:
        waiter = self.claim(name)
        self.granted(store, self.claim(name, ttl=self.short))
        store.acquire(waiter, self.long)
        self.pass_time(self.short)
        self.granted(store, waiter, self.long)

    def test_a_place_that_ended_is_lost(self, store: Store, name: str) -> None:
        first, second = self.claim(name), self.claim(name)
        self.granted(store, self.claim(name))
        self.refused(store, first, self.short)
        self.in_line(store, second)
        self.pass_time(self.short)
        assert self.refused(store, first, self.long).position == 1
        assert self.refused(store, second).position == 0

    def test_a_place_is_kept_by_repeating(self, store: Store, name: str) -> None:
        first, second = self.claim(name), self.claim(name)
        self.granted(store, self.claim(name))
        self.refused(store, first, self.short)
        self.refused(store, first, self.long)
        self.in_line(store, second)
        self.pass_time(self.short)
        assert self.refused(store, first).position == 0

    def test_a_place_is_kept_by_an_acquire_without_lining_up(self, store: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(store, waiter)
        assert self.refused(store, waiter).position == 0
        store.release(name, holder.token)
        self.refused(store, self.claim(name))

    def test_without_lining_up_there_is_no_place(self, store: Store, name: str) -> None:
        holder = self.claim(name)
        self.granted(store, holder)
        self.refused(store, self.claim(name))
        store.release(name, holder.token)
        self.granted(store, self.claim(name))

    def test_leave_is_for_the_own_place_only(self, store: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(store, waiter)
        store.leave(name, "nobody")
        store.leave(name + "x", waiter.token)
        store.leave(name, holder.token)
        assert self.refused(store, waiter).position == 0
        assert self.names(store.holders(name)) == [holder.owner]

    # Promise 7: waking

    def test_wait_ends_with_its_timeout(self, store: Store, name: str) -> None:
        waiter = self.claim(name)
        self.granted(store, self.claim(name))
        self.in_line(store, waiter)
        start = time.monotonic()
        store.wait(name, waiter.token, 0.05)
        assert time.monotonic() - start < self.patience

    def test_release_ends_a_wait(self, store: Store, another: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(another, waiter)
        with self.waiting(another, waiter) as ended:
            store.release(name, holder.token)
            ended()
        self.granted(another, waiter)

    def test_release_before_the_wait_ends_it_too(self, store: Store, another: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(another, waiter)
        store.release(name, holder.token)
        with self.waiting(another, waiter) as ended:
            ended()

    def test_force_release_ends_a_wait(self, store: Store, another: Store, name: str) -> None:
        waiter = self.claim(name)
        self.granted(store, self.claim(name))
        self.in_line(another, waiter)
        with self.waiting(another, waiter) as ended:
            store.force_release(name)
            ended()
        self.granted(another, waiter)

    def test_leave_hands_the_wake_up_on(self, store: Store, another: Store, name: str) -> None:
        holder, leaver, waiter = self.claim(name), self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.in_line(store, leaver)
        self.in_line(another, waiter)
        with self.waiting(another, waiter) as ended:
            store.release(name, holder.token)
            store.wait(name, leaver.token, self.patience)
            store.leave(name, leaver.token)
            ended()
        self.granted(another, waiter)

    def test_room_for_two_wakes_two(self, store: Store, another: Store, name: str) -> None:
        holder = self.claim(name, limit=2, permits=2)
        first, second = self.claim(name, limit=2), self.claim(name, limit=2)
        self.granted(store, holder)
        self.in_line(another, first, second)
        with self.waiting(another, second) as ended:
            store.release(name, holder.token)
            store.wait(name, first.token, self.patience)
            self.granted(store, first)
            ended()
        self.granted(another, second)

    def test_everybody_in_line_gets_a_turn(self, store: Store, another: Store, name: str) -> None:
        served, guard = list[int](), Lock()

        def work(number: int) -> None:
            mine = (store, another)[number % 2]
            claim = self.claim(name)
            self.until_granted(mine, claim)
            with guard:
                served.append(number)
            assert mine.release(name, claim.token)

        self._run_all(work)
        assert sorted(served) == list(range(self.threads))

    # What is told

    def test_holders(self, store: Store, another: Store, name: str) -> None:
        claims = [self.claim(name, limit=5, permits=permits) for permits in (2, 1)]
        fencing_tokens = [self.granted(store, claim) for claim in claims]
        holders = another.holders(name)
        assert [holder.owner for holder in holders] == [claim.owner for claim in claims]
        assert [holder.token for holder in holders] == [claim.token for claim in claims]
        assert [holder.permits for holder in holders] == [2, 1]
        assert [holder.fencing_token for holder in holders] == fencing_tokens
        assert all(-0.01 <= holder.held_for < self.patience for holder in holders)
        assert all(0 < holder.expires_in <= self.long for holder in holders)
        assert not any(holder.token in repr(holder) for holder in holders)

    def test_nobody_holds_a_new_lock(self, store: Store, name: str) -> None:
        assert store.holders(name) == ()

    def test_held_for_and_expires_in_follow_the_clock(self, store: Store, name: str) -> None:
        self.granted(store, self.claim(name))
        self.pass_time(self.short)
        (holder,) = store.holders(name)
        assert holder.held_for >= self.short - 0.01
        assert holder.expires_in <= self.long - self.short + 0.01
        assert holder.held_for + holder.expires_in == pytest.approx(self.long, abs=0.01)

    def test_a_refusal_names_the_holders_in_order(self, store: Store, name: str) -> None:
        claims = [self.claim(name, limit=3) for _ in range(3)]
        for claim in claims:
            self.granted(store, claim)
        assert self.names(self.refused(store, self.claim(name, limit=3)).holders) == [claim.owner for claim in claims]

    def test_only_so_many_holders_are_named(self, store: Store, name: str) -> None:
        limit = MOST_HOLDERS + 5
        claims = [self.claim(name, limit=limit) for _ in range(limit)]
        for claim in claims:
            self.granted(store, claim)
        first = [claim.owner for claim in claims[:MOST_HOLDERS]]
        assert self.names(store.holders(name)) == first
        assert self.names(self.refused(store, self.claim(name, limit=limit)).holders) == first
        assert self.names(store.force_release(name)) == first
        self.granted(store, self.claim(name, limit=limit, permits=limit))

    def test_retry_in_is_no_later_than_the_deadline(self, store: Store, name: str) -> None:
        self.granted(store, self.claim(name))
        assert 0 < self.refused(store, self.claim(name)).retry_in <= self.long
        assert 0 < self.refused(store, self.claim(name), self.long).retry_in <= self.long

    def test_after_retry_in_a_dead_holder_is_gone(self, store: Store, name: str) -> None:
        waiter = self.claim(name)
        self.granted(store, self.claim(name, ttl=2.0))
        self._retry(store, waiter, store.acquire(waiter, self.long), 2.0)

    def test_after_retry_in_a_dead_waiter_is_gone(self, store: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.refused(store, self.claim(name), 2.0)
        store.release(name, holder.token)
        self._retry(store, waiter, store.acquire(waiter, self.long), 2.0)

    def test_after_retry_in_a_dead_waiter_that_was_called_is_gone(self, store: Store, name: str) -> None:
        holder, waiter = self.claim(name), self.claim(name)
        self.granted(store, holder)
        self.refused(store, self.claim(name), 2.0)
        answer = self.refused(store, waiter, self.long)
        store.release(name, holder.token)  # calls the dead one, and nobody calls the next
        if answer.position == 0:
            pytest.skip("this machine was too slow: the waiter had died before the next one came")
        self._retry(store, waiter, answer, 2.0)

    def _retry(self, store: Store, claim: Claim, answer: Granted | Refused, within: float) -> None:
        """Tries again whenever the store says to, and is served once the time of the dead is over."""
        left = within
        while left > 0 and isinstance(answer, Refused):
            assert 0 < answer.retry_in <= within
            self.pass_time(answer.retry_in)
            left -= answer.retry_in
            answer = store.acquire(claim, self.long)
        assert isinstance(answer, Granted)

    @pytest.mark.parametrize("odd", ODD_NAMES.values(), ids=ODD_NAMES.keys())
    def test_odd_names(self, store: Store, another: Store, name: str, odd: str) -> None:
        odd = name[-32:] + odd[32:] if len(odd) == 200 else f"{odd}{name}{odd}"
        holder, waiter = self.claim(odd), self.claim(odd)
        self.granted(store, holder)
        assert self.names(self.refused(another, waiter, self.long).holders) == [holder.owner]
        assert another.renew([Renewal(odd, holder.token, self.long)]) == [None]
        self.granted(store, self.claim(odd + "x"))
        with self.waiting(another, waiter) as ended:
            assert store.release(odd, holder.token)
            ended()
        self.granted(another, waiter)
        assert self.names(store.force_release(odd)) == [waiter.owner]

    @pytest.mark.parametrize("odd", ODD_NAMES.values(), ids=ODD_NAMES.keys())
    def test_odd_owners(self, store: Store, name: str, odd: str) -> None:
        self.granted(store, Claim(name, uuid.uuid4().hex, odd, self.long))
        assert self.names(store.holders(name)) == [odd]

    # The store itself

    def test_ping(self, store: Store) -> None:
        store.ping()

    def test_close_keeps_the_leases(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        store.close()
        assert self.names(store.holders(name)) == [claim.owner]
        store.close()
        store.close()
        assert store.release(name, claim.token)

    def test_a_shared_store_is_seen_by_others(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        assert self.names(another.holders(name)) == [claim.owner]
        assert another.release(name, claim.token)
        assert store.holders(name) == ()
