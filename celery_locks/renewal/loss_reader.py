"""Prompt losses: a thread for each store reads its notices, and marks leases that were taken by force as lost."""

from __future__ import annotations

import atexit
import random
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from time import sleep
from typing import TYPE_CHECKING
from weakref import WeakSet

from celery_locks import _logging
from celery_locks._runtime import threads
from celery_locks._runtime.callbacks import run_callback
from celery_locks._runtime.clock import monotonic
from celery_locks._runtime.tokens import process_number
from celery_locks.errors import LossReason, StoreUnavailable
from celery_locks.renewal.watched_lease import WatchedLease
from celery_locks.stores.base import Store
from celery_locks.stores.types import Renewal

if TYPE_CHECKING:
    from celery_locks.stores.loss_feed import LossFeed

logger = _logging.logger(__name__)

#: The longest that one wait blocks, in seconds.
LONGEST_WAIT_SECONDS = 5.0
#: The thread ends when the process has held no lease for this long.
IDLE_SECONDS = 10.0
#: The pauses before a failed feed is tried again: the first, and the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 5.0
#: How long a process of greenlets waits at its end: for each thread, and for the interpreter's own shutdown.
EXIT_SECONDS, EXIT_PAUSE_SECONDS = 1.0, 0.02
#: How many tokens are remembered whose notice arrived before their lease was kept.
MOST_EARLY = 1_000
#: The ttl by which a lease's state is asked for: so short that it extends no lease.
PROBE_TTL_SECONDS = 0.001


def why_lost(store: Store, leases: Collection[WatchedLease]) -> list[tuple[WatchedLease, LossReason | None]]:
    """Ask the store why leases were lost. Return each with the reason, ``None`` for one that may still be held.

    Raises:
        StoreUnavailable: The store can't be reached.
    """
    # By the time that is left on the local clock. In the store no less is left, so no lease is extended.
    renewals = [Renewal(lease._claim.name, lease.token, max(lease._time_left(), PROBE_TTL_SECONDS)) for lease in leases]
    answers = store.renew(renewals) if renewals else []
    return [(lease, None if reason == "unreachable" else reason) for lease, reason in zip(leases, answers, strict=True)]


class LossReader:
    """Reads the notices of one store about one prefix, in a real thread that each process starts for itself.

    Args:
        store: The store of the leases.
        name: The full name of a lock with that prefix.
        leases: Returns the leases that this process keeps.
    """

    def __init__(self, store: Store, name: str, leases: Callable[[], Iterable[WatchedLease]]) -> None:
        self.store = store
        self._name = name
        self._prefix = name.partition("{")[0]
        self._leases = leases
        self._feed: LossFeed | None = None
        self._mutex = threads.RLock()
        self._running = self._ended = False
        #: Tokens whose notice has arrived and whose lease is not kept yet.
        self._early: dict[str, None] = {}
        #: Released to end a pause.
        self._wakes = threads.new_lock()
        self._wakes.acquire()
        #: Released when the thread has ended.
        self._done = threads.new_lock()
        self._done.acquire()
        if threads.greenlets():
            _of_greenlets.add(self)

    def keep(self, lease: WatchedLease) -> None:
        """Notice from now on when this lease is taken by force. The keeper keeps it already."""
        if not self._running:
            self._start()
        if self._early and self._early.pop(lease.token, "") is None:
            with suppress(StoreUnavailable):  # then it is noticed at the next renewal
                self._lose([lease])

    def end_and_wait(self, seconds: float) -> None:
        """End the thread, and wait this long for it."""
        self.end()
        if self._running:
            self._done.acquire(True, seconds)

    def end(self) -> None:
        """Make the thread end immediately, for good."""
        with self._mutex:
            self._ended = True
            if self._feed is not None:
                self._feed.close()
        with suppress(RuntimeError):
            self._wakes.release()

    def _start(self) -> None:
        with self._mutex:
            if self._running or self._ended:
                return
            self._feed = feed = self.store.serving(self._name).loss_feed(self._name, process_number())
            with suppress(RuntimeError):  # no thread can be started now; the next lease tries again
                threads.start(partial(self._run, feed), "celery-locks-notices")
                self._running = True

    # --- The thread ---

    def _run(self, feed: LossFeed) -> None:
        failures, tokens, held_at = 0, dict[str, None](), monotonic()
        try:
            while not self._ended:
                if self._own_leases():
                    held_at = monotonic()
                elif monotonic() - held_at >= IDLE_SECONDS and self._end_if_idle():
                    return
                try:
                    tokens.update(
                        dict.fromkeys(self._wait(feed, PROBE_TTL_SECONDS if tokens else LONGEST_WAIT_SECONDS))
                    )
                    self._lose_all(tokens)
                    tokens, failures = {}, 0
                except Exception as error:  # a thread that dies would leave every loss to the next renewal
                    failures += 1
                    self._pause_after(error, failures)
        finally:
            feed.close()
            with suppress(RuntimeError):
                self._done.release()

    def _wait(self, feed: LossFeed, timeout: float) -> Iterable[str]:
        tokens = feed.wait(timeout)
        return [lease.token for lease in self._own_leases()] if tokens is None else tokens

    def _lose_all(self, tokens: Iterable[str]) -> None:
        # First the tokens, then the leases: `keep` adds a lease first, and reads the tokens afterwards.
        self._early.update(dict.fromkeys(tokens))
        found = [lease for lease in self._own_leases() if lease.token in self._early]
        for lease in found:
            self._early.pop(lease.token, None)
        while len(self._early) > MOST_EARLY:
            self._early.pop(next(iter(self._early)), None)
        self._lose(found)

    def _lose(self, leases: Collection[WatchedLease]) -> None:
        for lease, reason in why_lost(self.store, leases):
            if reason is not None:
                lease._apply_renewal(lease._confirmed, lease.ttl, reason)

    def _own_leases(self) -> list[WatchedLease]:
        leases = (lease for lease in self._leases() if lease._store is self.store)
        return [lease for lease in leases if lease._claim.name.startswith(self._prefix)]

    def _end_if_idle(self) -> bool:
        """Return whether the thread ends, because no lease has been added meanwhile. The next lease starts another."""
        if threads.greenlets():  # connections of this thread belong to a hub of its own
            return False
        self._running = False
        if not self._own_leases():
            return True
        with self._mutex:
            again, self._running = not self._running, True
        return not again

    def _pause_after(self, error: Exception, failures: int) -> None:
        if self._ended:
            return
        lease = next(iter(self._own_leases()), None)
        if failures == 2 and lease is not None:  # the first failure may be that of an old connection
            message = "notices of lost leases can't be read, so a loss is noticed at the next renewal; trying again: %s"
            run_callback(partial(logger.warning, message, error), lease._hub)
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 10))
        self._wakes.acquire(True, random.uniform(pause / 2, pause))


_of_greenlets: WeakSet[LossReader] = WeakSet()


@atexit.register
def _end_readers() -> None:
    # A real thread with greenlets of its own crashes the process when it wakes while the interpreter ends.
    readers = list(_of_greenlets)
    for reader in readers:
        reader.end_and_wait(EXIT_SECONDS)
    if readers:
        sleep(EXIT_PAUSE_SECONDS)
