"""The owner token (promises 2 and 5) and the fencing token (promise 3)."""

from __future__ import annotations

from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Renewal
from celery_locks.testing.compliance.base import StoreTests


class OwnerTokens(StoreTests):
    """The owner token (promises 2 and 5) and the fencing token (promise 3)."""

    def test_release_releases_the_lock_once(self, store: Store, another: Store, name: str) -> None:
        claim = self.claim(name)
        self.granted(store, claim)
        assert store.release(name, claim.token) is True
        assert store.release(name, claim.token) is False
        self.granted(another, self.claim(name))

    def test_release_of_what_was_never_held(self, store: Store, name: str) -> None:
        assert store.release(name, "another") is False

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

    def test_fencing_distinguishes_holders(self, store: Store, another: Store, name: str) -> None:
        fencing_tokens = [self.granted((store, another)[turn % 2], self.claim(name, limit=4)) for turn in range(4)]
        assert fencing_tokens == sorted(set(fencing_tokens))

    def test_fencing_fits_into_64_bits(self, store: Store, name: str) -> None:
        assert 0 < self.granted(store, self.claim(name)) < 2**63

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
