"""The base class of tests of a store."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Granted, Holder, Refused, Renewal

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
        """Move the clock. A negative number moves it back, which only happens to wall clocks."""
        self._now += seconds


class StoreTests:
    """Tools for tests of a store.

    Override the fixture ``store``, and the attributes whose values don't fit the store. Each test has lock names of its
    own, so all tests may use the same server.
    """

    #: How many seconds a lease or a place lives that expires during the test.
    short = 0.2
    #: How many seconds a lease lives that must outlive its test.
    long = 120.0
    #: After how many seconds a test stops waiting for something that must happen.
    patience = 30.0
    #: Within how many seconds a store with `Store.wakes` wakes a waiter.
    wakes_within = 5.0
    #: The number of threads in tests under load, and the acquisitions of each.
    threads, rounds = 6, 20
    #: Whether `Store.renew` returns ``expired`` right after the deadline. Otherwise it may return ``deleted``.
    tells_expired = True
    #: Whether a repeated acquire may return a greater fencing token.
    fence_may_grow = False

    @pytest.fixture
    def store(self) -> Store:
        """Return the store under test."""
        raise NotImplementedError("override the fixture store")

    @pytest.fixture
    def another(self, store: Store) -> Store:
        """Return a second store object on the same data, as another process would have."""
        return store

    @pytest.fixture(autouse=True)
    def _closed_at_the_end(self, store: Store, another: Store) -> Iterator[None]:
        yield
        store.close()
        another.close()

    def pass_time(self, seconds: float) -> None:
        """Let at least this much time pass on the store's clock."""
        time.sleep(seconds + 0.02)

    @contextmanager
    def losing_a_reply(self, store: Store) -> Iterator[Store]:
        """Yield a store on the same data that makes the first change of the block, and loses the reply.

        Tests of a store with a server override this. Without a server there is no reply to lose.
        """
        yield store

    @pytest.fixture
    def name(self) -> str:
        return f"compliance:{uuid.uuid4().hex}"

    # --- Tools ---

    def claim(self, name: str, ttl: float | None = None, limit: int = 1, permits: int = 1) -> Claim:
        token = uuid.uuid4().hex
        return Claim(name, token, f"owner-{token[:6]}", self.long if ttl is None else ttl, limit, permits)

    def granted(self, store: Store, claim: Claim, line_up: float | None = None) -> int:
        """Return the fencing token of a claim that must be granted."""
        self.skip_unless_capable(store, claim, line_up)
        answer = store.acquire(claim, line_up)
        assert isinstance(answer, Granted), f"refused though free: {answer}"
        return answer.fencing_token

    def skip_unless_capable(self, store: Store, claim: Claim, line_up: float | None = None) -> None:
        """Skip the test if the claim needs a capability that the store declares to lack."""
        if max(claim.limit, claim.permits) > 1 and not store.semaphores:
            pytest.skip(f"{type(store).__name__} declares that it has no limits above one")
        if line_up is not None and not store.fair:
            pytest.skip(f"{type(store).__name__} declares that it has no line")

    def refused(self, store: Store, claim: Claim, line_up: float | None = None) -> Refused:
        self.skip_unless_capable(store, claim, line_up)
        answer = store.acquire(claim, line_up)
        assert isinstance(answer, Refused), f"granted, but must be refused: {answer}"
        return answer

    def in_line(self, store: Store, *claims: Claim) -> None:
        """Line claims up, in this order, for as long as the test runs."""
        for claim in claims:
            self.refused(store, claim, self.long)

    def until_granted(self, store: Store, claim: Claim) -> Granted:
        """Acquire as a client does: in line, and again after each wait."""
        self.skip_unless_capable(store, claim)
        give_up = time.monotonic() + self.patience
        while isinstance(answer := store.acquire(claim, self.long), Refused):
            assert time.monotonic() < give_up, f"still refused after {self.patience} s: {answer}"
            store.wait(claim.name, claim.token, min(answer.retry_in, self.patience))
        return answer

    @contextmanager
    def waiting(self, store: Store, claim: Claim) -> Iterator[Callable[[], None]]:
        """Wait in a thread. Yield a function that checks that the wait has ended in time."""
        thread = Thread(target=store.wait, args=(claim.name, claim.token, 2 * self.patience), daemon=True)
        thread.start()

        def ended() -> None:
            thread.join(self.wakes_within if store.wakes else self.patience)
            assert not thread.is_alive(), "its turn has come, and its wait goes on"

        yield ended
        thread.join(self.patience)

    def renewal(self, claim: Claim) -> Renewal:
        return Renewal(claim.name, claim.token, self.long)

    def names(self, holders: Sequence[Holder]) -> list[str]:
        return [holder.owner for holder in holders]

    def run_all(self, work: Callable[[int], None]) -> None:
        """Call ``work(number)`` in each of `threads` threads, and raise the error of the first that failed."""
        with ThreadPoolExecutor(self.threads) as pool:
            futures: list[Future[None]] = [pool.submit(work, number) for number in range(self.threads)]
            for future in futures:
                future.result()
