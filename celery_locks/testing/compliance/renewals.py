"""Leases are renewed, never shortened and never revived."""

from __future__ import annotations

from celery_locks.stores.base import Store
from celery_locks.stores.types import Renewal
from celery_locks.testing.compliance.base import StoreTests


class Renewals(StoreTests):
    """Leases are renewed, never shortened and never revived."""

    def test_renew_extends(self, store: Store, another: Store, name: str) -> None:
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

    def test_renew_returns_each_reason_in_order(self, store: Store, another: Store, name: str) -> None:
        claims = {what: self.claim(f"{name}:{what}") for what in ("live", "deleted", "stolen", "live too")}
        expired = self.claim(f"{name}:expired", ttl=self.short)
        for claim in (expired, *claims.values()):
            self.granted(store, claim)
        for what in ("deleted", "stolen"):  # by a request that its holder does not know of
            assert another.release(claims[what].name, claims[what].token)
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
        assert store.renew([Renewal(name, "another", self.long)]) == ["deleted"]

    def test_renew_of_many(self, store: Store, name: str) -> None:
        claims = [self.claim(f"{name}:{number}") for number in range(150)]
        for claim in claims:
            self.granted(store, claim)
        store.release(claims[70].name, claims[70].token)
        reasons = store.renew([Renewal(claim.name, claim.token, self.long) for claim in claims])
        assert [number for number, reason in enumerate(reasons) if reason is not None] == [70]
        assert len(reasons) == len(claims)
