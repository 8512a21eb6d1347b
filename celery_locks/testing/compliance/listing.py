"""Lists of locks: pages, single locks, figures."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.listing import MOST_IN_LINE, MOST_LISTED, LockInfo, NameRange, Stats, Waiter
from celery_locks.stores.types import Claim
from celery_locks.testing.compliance.base import ODD_NAMES, StoreTests


class ListingCompliance(StoreTests):
    """Tests of what a store with ``lists`` promises of its list."""

    @pytest.fixture
    def prefix(self) -> str:
        return f"listing-{uuid.uuid4().hex[:12]}"

    @pytest.fixture
    def name(self, prefix: str) -> str:
        return f"{prefix}:{{key}}"

    def names_of(self, prefix: str, *keys: object) -> list[str]:
        return [f"{prefix}:{{{key}}}" for key in keys]

    def page(self, store: Store, prefix: str, start: str = "", after: str = "", count: int = 100) -> list[str]:
        page = store.page(NameRange(prefix, f"{prefix}:{{{start}", after, count))
        return [item.name for item in page.items]

    def states(self, store: Store, prefix: str) -> tuple[LockInfo, ...]:
        return store.page(NameRange(prefix, f"{prefix}:{{", "", 100)).items

    def pages(self, store: Store, prefix: str, count: int) -> Iterator[list[str]]:
        """Yield the names of all pages, one page after the other."""
        after: str | None = ""
        while after is not None:
            page = store.page(NameRange(prefix, f"{prefix}:{{", after, count))
            yield [item.name for item in page.items]
            after = page.last

    def hold(self, store: Store, name: str, ttl: float | None = None, limit: int = 1, permits: int = 1) -> Claim:
        holder = self.claim(name, ttl, limit, permits)
        self.granted(store, holder)
        return holder

    def figures(self, store: Store, prefix: str, near: float = 1.0) -> Stats:
        """Return the figures, without the oldest."""
        figures = store.stats(prefix, near)
        assert (figures.oldest is None) == (figures.holders == 0)
        return Stats(figures.locks, figures.holders, figures.near_expiry, figures.waiting, complete=figures.complete)

    # --- Pages ---

    def test_held_locks_are_listed_in_order(self, store: Store, another: Store, prefix: str) -> None:
        assert self.page(store, prefix) == []
        names = self.names_of(prefix, "b", "a", "ä", "a:b", "A", "🧀", "a b")
        claims = [self.hold(store, name) for name in names]
        assert self.page(another, prefix) == sorted(names)
        for claim in claims[1:]:
            store.release(claim.name, claim.token)
        assert self.page(another, prefix) == names[:1]
        another.force_release(names[0])
        assert self.page(store, prefix) == []

    def test_a_lock_of_another_prefix_is_not_listed(self, store: Store, prefix: str) -> None:
        self.hold(store, f"{prefix}x:{{key}}")
        self.hold(store, f"{prefix}:x:{{key}}")
        assert self.page(store, prefix) == []
        assert self.figures(store, prefix) == Stats(0, 0, 0, 0)

    def test_a_page_begins_with_what_it_is_asked_for(self, store: Store, prefix: str) -> None:
        names = self.names_of(prefix, "user:1", "user:2", "user", "users:1", "shop:1", "user:🧀")
        for name in names:
            self.hold(store, name)
        wanted = self.names_of(prefix, "user:1", "user:2", "user:🧀")
        assert self.page(store, prefix, "user:") == wanted
        assert self.page(store, prefix, "user:", after=wanted[0]) == wanted[1:]
        assert self.page(store, prefix, "user:", after=self.names_of(prefix, "shop:1")[0]) == wanted
        assert self.page(store, prefix, "user:", after=self.names_of(prefix, "users:1")[0]) == []
        assert self.page(store, prefix, "nothing") == []

    @pytest.mark.parametrize("count", [1, 3, 7, 8])
    def test_pages_follow_one_another(self, store: Store, prefix: str, count: int) -> None:
        names = sorted(self.names_of(prefix, *range(7)))
        for name in names:
            self.hold(store, name)
        pages = list(self.pages(store, prefix, count))
        assert [name for page in pages for name in page] == names
        assert all(len(page) == count for page in pages[:-1])
        assert len(pages) == -(-7 // count), "a page too many"

    def test_what_comes_and_goes_between_pages_leaves_the_others_listed(
        self, store: Store, another: Store, prefix: str
    ) -> None:
        names = self.names_of(prefix, *"bdfh")
        claims = [self.hold(store, name) for name in names]
        pages = self.pages(store, prefix, 2)
        assert next(pages) == names[:2]
        another.release(names[1], claims[1].token)  # where the next page begins
        self.hold(another, self.names_of(prefix, "a")[0])
        self.hold(another, self.names_of(prefix, "e")[0])
        assert next(pages) == self.names_of(prefix, "e", "f")
        assert next(pages) == self.names_of(prefix, "h")

    @pytest.mark.parametrize("odd", ODD_NAMES.values(), ids=ODD_NAMES.keys())
    def test_odd_names_are_listed(self, store: Store, prefix: str, odd: str) -> None:
        names = sorted(self.names_of(prefix, odd, f"{odd}a", f"b{odd}"))
        claims = [self.hold(store, name) for name in names]
        assert self.page(store, prefix) == names
        assert [name for page in self.pages(store, prefix, 1) for name in page] == names
        assert store.renew([self.renewal(claim) for claim in claims]) == [None] * 3
        for claim in claims:
            store.release(claim.name, claim.token)
        assert self.page(store, prefix) == []
        assert self.figures(store, prefix) == Stats(0, 0, 0, 0)

    def test_the_expired_are_not_listed(self, store: Store, prefix: str) -> None:
        names = sorted(self.names_of(prefix, *range(40)))
        for number, name in enumerate(names):
            self.hold(store, name, ttl=self.long if number % 10 == 5 else self.short)
        self.pass_time(self.short)
        assert self.page(store, prefix, count=3) == names[5::10][:3]
        assert [name for page in self.pages(store, prefix, 1) for name in page] == names[5::10]
        assert self.figures(store, prefix).locks == 4

    def test_a_renewed_lease_stays_listed(self, store: Store, prefix: str, name: str) -> None:
        holder = self.hold(store, name, ttl=self.short)
        assert store.renew([self.renewal(holder)]) == [None]
        self.pass_time(self.short)
        assert self.page(store, prefix) == [name]
        assert self.figures(store, prefix).holders == 1
        self.granted(store, holder)  # a repeated request renews it, too
        assert self.figures(store, prefix).holders == 1
        store.release(name, holder.token)
        assert self.figures(store, prefix) == Stats(0, 0, 0, 0)

    def test_who_adopts_or_replaces_is_listed(self, store: Store, prefix: str, name: str) -> None:
        first = self.hold(store, name)
        self.granted(store, Claim(name, uuid.uuid4().hex, "second", self.long, adopts=first.token))
        assert [self.names(state.holders) for state in self.states(store, prefix)] == [["second"]]
        self.granted(store, Claim(name, uuid.uuid4().hex, "third", self.long, replaces=True))
        assert [self.names(state.holders) for state in self.states(store, prefix)] == [["third"]]
        assert self.figures(store, prefix).holders == 1

    # --- One lock ---

    def test_a_page_has_holders_and_waiters(self, store: Store, another: Store, prefix: str, name: str) -> None:
        claims = [self.hold(store, name, limit=5, permits=permits) for permits in (2, 1)]
        self.refused(another, self.claim(name, limit=6, permits=4), self.long)
        self.refused(another, self.claim(name, limit=6, permits=4), self.short)
        (state,) = self.states(another, prefix)
        assert (state.name, state.permits, state.waiting) == (name, 3, 2)
        assert self.names(state.holders) == [claim.owner for claim in claims]
        assert [holder.limit for holder in state.holders] == [5, 5]
        assert [holder.permits for holder in state.holders] == [2, 1]
        assert all(0 < holder.expires_in <= self.long and holder.held_for < self.patience for holder in state.holders)
        info = store.info(name)
        assert (info.name, info.permits, info.waiting) == (name, 3, 2)
        assert [each.token for each in info.holders] == [each.token for each in state.holders]
        self.pass_time(self.short)
        assert (self.states(store, prefix)[0].waiting, store.info(name).waiting) == (1, 1)

    def test_a_line_is_listed_without_a_holder(self, store: Store, prefix: str, name: str) -> None:
        holder, waiter = self.hold(store, name), self.claim(name)
        self.in_line(store, waiter)
        store.release(name, holder.token)
        assert [(state.holders, state.waiting) for state in self.states(store, prefix)] == [((), 1)]
        assert self.figures(store, prefix) == Stats(1, 0, 0, 1)
        store.leave(name, waiter.token)
        assert self.page(store, prefix) == []
        assert self.figures(store, prefix) == Stats(0, 0, 0, 0)

    def test_a_line_of_the_dead_is_not_listed(self, store: Store, prefix: str, name: str) -> None:
        holder = self.hold(store, name)
        self.refused(store, self.claim(name), self.short)
        store.release(name, holder.token)
        self.pass_time(self.short)
        assert self.figures(store, prefix) == Stats(0, 0, 0, 0)
        assert self.page(store, prefix) == []

    def test_a_limited_number_of_holders_is_listed(self, store: Store, prefix: str, name: str) -> None:
        claims = [self.hold(store, name, limit=1000, permits=2) for _ in range(MOST_LISTED + 5)]
        (state,) = self.states(store, prefix)
        assert self.names(state.holders) == [claim.owner for claim in claims[:MOST_LISTED]]
        assert state.permits == 2 * len(claims)
        assert len(store.info(name).holders) == len(claims)

    def test_info_has_the_line_and_waiters_have_no_names(self, store: Store, prefix: str, name: str) -> None:
        self.hold(store, name)
        self.refused(store, self.claim(name), self.short)
        self.in_line(store, *(self.claim(name) for _ in range(2)))
        assert store.info(name).line == (Waiter(),) * 3
        assert self.states(store, prefix)[0].line == (), "a page names no waiters"
        self.pass_time(self.short)
        assert store.info(name).line == (Waiter(),) * 2
        self.in_line(store, *(self.claim(name) for _ in range(MOST_IN_LINE)))
        assert len(store.info(name).line) <= MOST_IN_LINE
        assert store.info(name).waiting == MOST_IN_LINE + 2

    def test_a_free_lock_has_no_holders_and_no_line(self, store: Store, name: str) -> None:
        assert store.info(name) == LockInfo(name, (), 0, 0)

    # --- Figures ---

    def test_figures(self, store: Store, another: Store, prefix: str) -> None:
        assert self.figures(store, prefix) == Stats(0, 0, 0, 0)
        first, second, third = self.names_of(prefix, "1", "2", "3")
        self.hold(store, first, ttl=self.long / 2)
        self.hold(store, second, limit=3)
        self.hold(store, second, limit=3)
        self.in_line(another, self.claim(first), self.claim(first), self.claim(second))
        self.hold(store, third, ttl=self.short)
        assert self.figures(another, prefix, self.long / 2 + 1) == Stats(3, 4, 2, 3)
        self.pass_time(self.short)
        assert self.figures(another, prefix, self.long / 2 + 1) == Stats(2, 3, 1, 3)
        store.force_release(second)
        assert self.figures(another, prefix, self.long / 2 + 1) == Stats(2, 1, 1, 3)

    def test_the_oldest(self, store: Store, prefix: str) -> None:
        first, second, third = self.names_of(prefix, "z", "y", "x")
        self.hold(store, first, ttl=self.short)
        self.pass_time(self.short / 2)
        holder = self.hold(store, second)
        self.pass_time(self.short)
        self.hold(store, third)
        figures = store.stats(prefix, 1.0)
        assert figures.oldest_name == second, "the first has expired"
        assert self.short <= figures.oldest_held_for < self.patience
        store.release(second, holder.token)
        assert store.stats(prefix, 1.0).oldest_name == third
