"""The limit of a lock (promise 1): live holders never have more permits than there are."""

from __future__ import annotations

import time
from threading import Lock

import pytest

from celery_locks.stores.base import Store
from celery_locks.testing.compliance.base import StoreTests


class Limits(StoreTests):
    """The limit of a lock (promise 1): live holders never have more permits than there are."""

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

    def test_a_lowered_limit_counts_the_holders(self, store: Store, name: str) -> None:
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

    def test_an_expired_holder_releases_its_permits_only(self, store: Store, name: str) -> None:
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

        self.run_all(work)
        assert most <= limit
        assert len(set(tokens)) == self.threads * self.rounds
        assert limit > 1 or tokens == sorted(tokens)
