"""Values that are kept with locks."""

from __future__ import annotations

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.parking import Ticket, tickets_of
from celery_locks.stores.types import Granted, Value
from celery_locks.testing.compliance.base import ODD_NAMES, StoreTests


class ValueCompliance(StoreTests):
    """Tests of what a store with ``values`` promises of them."""

    def test_a_holder_writes(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        assert store.value(name) is None
        assert store.write(name, claim.token, "one", self.long)
        assert store.write(name, claim.token, "two", self.long)
        assert another.value(name) == "two"
        store.release(name, claim.token)
        assert another.value(name) == "two"
        assert another.value(name + "x") is None

    def test_who_does_not_hold_writes_nothing(self, store: Store, another: Store, name: str) -> None:
        first, second = self.claim(name, ttl=self.short), self.claim(name)
        assert not store.write(name, first.token, "another", self.long)
        self.granted(store, first)
        assert store.write(name, first.token, "first", self.long)
        self.pass_time(self.short)
        assert not store.write(name, first.token, "expired", self.long)
        self.granted(another, second)
        assert not store.write(name, first.token, "stale", self.long)
        assert store.value(name) == "first"
        assert another.write(name, second.token, "second", self.long)
        another.release(name, second.token)
        assert not another.write(name, second.token, "released", self.long)
        assert store.value(name) == "second"

    def test_a_value_has_an_expiry_of_its_own(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        store.write(name, claim.token, "long", self.long)
        store.write(name, claim.token, "short", self.short)
        self.pass_time(self.short)
        assert store.value(name) is None
        assert not store.delete(name)
        assert store.write(name, claim.token, "again", self.long)
        assert store.value(name) == "again"

    def test_delete(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        assert not another.delete(name)
        store.write(name, claim.token, "one", self.long)
        assert another.delete(name) is True
        assert store.delete(name) is False
        assert store.value(name) is None
        assert self.names(store.holders(name)) == [claim.owner]
        assert store.write(name, claim.token, "two", self.long)

    def test_a_delete_whose_reply_is_lost_counts_once(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        assert not store.delete(name)
        store.write(name, claim.token, "one", self.long)
        with self.losing_a_reply(store) as unlucky:
            assert unlucky.delete(name) is True
        assert store.value(name) is None
        assert store.delete(name) is False
        assert store.write(name, claim.token, "two", self.long)
        assert another.delete(name) is True

    @pytest.mark.parametrize("others", [0, 1], ids=["alone", "with another holder"])
    def test_a_value_is_kept_by_the_release(self, store: Store, another: Store, name: str, others: int) -> None:
        limit = 1 + others
        claim = self.claim(name, limit=limit)
        self.granted(store, claim)
        for _ in range(others):
            self.granted(store, self.claim(name, limit=limit))
        assert store.release(name, claim.token, Value("one", self.long)) is True
        assert another.value(name) == "one"
        assert store.held(name) == others

    def test_who_does_not_hold_keeps_nothing_by_a_release(self, store: Store, name: str) -> None:
        first, second = self.claim(name, ttl=self.short), self.claim(name)
        self.granted(store, first)
        self.pass_time(self.short)
        assert store.release(name, first.token, Value("expired", self.long)) is False
        self.granted(store, second)
        assert store.release(name, first.token, Value("stale", self.long)) is False
        assert store.value(name) is None
        assert store.release(name, second.token, Value("second", self.short)) is True
        assert store.value(name) == "second"
        self.pass_time(self.short)
        assert store.value(name) is None

    def test_a_release_with_a_value_whose_reply_is_lost(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        with self.losing_a_reply(store) as unlucky:
            assert unlucky.release(name, claim.token, Value("one", self.long)) is True
        assert another.value(name) == "one"
        assert another.holders(name) == ()

    def test_a_run_ends_with_a_value(self, store: Store, name: str) -> None:
        parking, locked = tickets_of(store), f"{name}:{{key}}"
        if parking is None:
            pytest.skip(f"tasks can't park in {type(store).__name__}")
        run = self.claim(locked)
        assert isinstance(parking.enter(run, Ticket("t", "message", "task")), Granted)
        assert parking.end_run(locked, run.token, "final", broker="", value=Value("one", self.long)) == (True, ())
        assert store.value(locked) == "one"
        assert parking.end_run(locked, run.token, "final", broker="", value=Value("two", self.long)) == (False, ())
        assert store.value(locked) == "one"

    def test_a_value_is_no_lease(self, store: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        store.write(name, claim.token, "one", self.long)
        store.force_release(name)
        assert store.holders(name) == ()
        assert store.value(name) == "one"
        self.granted(store, self.claim(name))

    @pytest.mark.parametrize("odd", ODD_NAMES.values(), ids=ODD_NAMES.keys())
    def test_odd_values(self, store: Store, name: str, odd: str) -> None:
        claim = self.claim(name + odd)
        self.granted(store, claim)
        assert store.write(claim.name, claim.token, odd, self.long)
        assert store.value(claim.name) == odd
