"""Leases that are lost while a worker in another process runs under them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from celery_locks.errors import LockConfigError, StoreUnavailable
from celery_locks.locks import Locks
from celery_locks.stores.base import Holder

#: Seconds between two looks at the store.
_LOOK_EVERY = 0.02


class LeaseLostAfter:
    """Has runs lose their leases in a store that other processes use.

    Args:
        locks: The locks of the store.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks
        self._losses: list[_Loss] = []

    def __call__(self, seconds: float, *, key: str, calls: int | None = None, reason: str = "deleted") -> None:
        """Have the next run that acquires this key lose its lease.

        The store forgets the lease. The worker notices when it next renews, at most a third of the lease's ttl later:
        test with a short ``ttl``. Call it twice, and the run after that loses its lease too.

        Args:
            seconds: How long after the lease was acquired.
            key: The key.
            calls: Only for tasks that run in the process of the tests.
            reason: As ``calls``: a worker in another process finds out by itself that its lease was deleted.

        Raises:
            LockConfigError: ``seconds`` is negative, or ``calls`` or another ``reason`` was given.
        """
        if calls is not None or reason != "deleted":
            raise LockConfigError(
                "a worker in another process takes lock_lost_after(seconds=…, key=…): calls= and reason= reach only "
                "tasks that run in the process of the tests"
            )
        if not seconds >= 0:
            raise LockConfigError(f"seconds={seconds!r} is negative: give seconds from 0 on")
        earlier = [loss for loss in self._losses if loss.key == key]
        self._losses.append(_Loss(self._locks, key, seconds, earlier))

    def close(self) -> None:
        """Stop looking.

        Raises:
            AssertionError: A lease that was to be lost was not: the test did not test what it states.
        """
        for loss in self._losses:
            loss.stop()
        for loss in self._losses:
            if not loss.happened:
                why = "no run acquired it" if loss.token is None else "the run ended before"
                raise AssertionError(
                    f"lock_lost_after({loss.seconds:g}, key={loss.key!r}): no lease was lost, since {why}"
                )


class _Loss:
    """One lease that is to be lost; a thread waits for it."""

    def __init__(self, locks: Locks, key: str, seconds: float, earlier: list[_Loss]) -> None:
        self.key, self.seconds, self.happened = key, seconds, False
        self.token: str | None = None
        self._locks, self._earlier = locks, earlier
        self._before = {holder.token for holder in self._holders()}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lock_lost_after {key}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        for holder in self._new_runs():
            since = time.monotonic() - holder.held_for
            self.token = holder.token
            if self._stopped.wait(max(0.0, since + self.seconds - time.monotonic())):
                return
            while not self._stopped.is_set():
                with suppress(StoreUnavailable):
                    self.happened = self._locks.store.release(self._locks.name(self.key), holder.token)
                    return

    def _new_runs(self) -> Iterator[Holder]:
        """Yield the first run that has the key since, and that no earlier loss waits for."""
        while not self._stopped.wait(_LOOK_EVERY):
            taken = self._before | {loss.token for loss in self._earlier}
            for holder in self._holders():
                if holder.state == "running" and holder.token not in taken:
                    yield holder
                    return

    def _holders(self) -> list[Holder]:
        with suppress(StoreUnavailable):
            return list(self._locks.lock(self.key).holders())
        return []
