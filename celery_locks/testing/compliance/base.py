"""What tests of a store are written with."""

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
    #: Whether a token that holds already may get a greater fencing token when it acquires again.
    fence_may_grow = False

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

    @contextmanager
    def losing_a_reply(self, store: Store) -> Iterator[Store]:
        """A store on the same data: the first change that the block asks it for is made, and the reply to it is lost.

        To be overridden where a server is asked. Without one there is no reply to be lost, and ``store`` will do.
        """
        yield store

    @pytest.fixture
    def name(self) -> str:
        return f"compliance:{uuid.uuid4().hex}"

    # What the tests are written with

    def claim(self, name: str, ttl: float | None = None, limit: int = 1, permits: int = 1) -> Claim:
        token = uuid.uuid4().hex
        return Claim(name, token, f"owner-{token[:6]}", self.long if ttl is None else ttl, limit, permits)

    def granted(self, store: Store, claim: Claim, line_up: float | None = None) -> int:
        """The fencing token; fails when the claim is refused."""
        self.declared(store, claim, line_up)
        answer = store.acquire(claim, line_up)
        assert isinstance(answer, Granted), f"refused though free: {answer}"
        return answer.fencing_token

    def declared(self, store: Store, claim: Claim, line_up: float | None = None) -> None:
        """Ends a test, as skipped, that needs what the store says that it lacks; it is to refuse that by itself."""
        if max(claim.limit, claim.permits) > 1 and not store.semaphores:
            pytest.skip(f"{type(store).__name__} declares that it has no limits above one")
        if line_up is not None and not store.fair:
            pytest.skip(f"{type(store).__name__} declares that it has no line")

    def refused(self, store: Store, claim: Claim, line_up: float | None = None) -> Refused:
        self.declared(store, claim, line_up)
        answer = store.acquire(claim, line_up)
        assert isinstance(answer, Refused), f"granted though not to be had: {answer}"
        return answer

    def in_line(self, store: Store, *claims: Claim) -> None:
        """Lines them up, in this order, for as long as the test runs."""
        for claim in claims:
            self.refused(store, claim, self.long)

    def until_granted(self, store: Store, claim: Claim) -> Granted:
        """Acquires like a client: in line, and again after each wait."""
        self.declared(store, claim)
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

    def renewal(self, claim: Claim) -> Renewal:
        return Renewal(claim.name, claim.token, self.long)

    def names(self, holders: Sequence[Holder]) -> list[str]:
        return [holder.owner for holder in holders]

    def run_all(self, work: Callable[[int], None]) -> None:
        """Calls ``work(number)`` in as many threads as `threads` says, and raises what one of them raised."""
        with ThreadPoolExecutor(self.threads) as pool:
            futures: list[Future[None]] = [pool.submit(work, number) for number in range(self.threads)]
            for future in futures:
                future.result()
