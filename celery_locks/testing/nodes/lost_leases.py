"""Leases that are deleted while a worker in another process runs under them."""

from __future__ import annotations

import threading
from contextlib import suppress

from celery_locks.errors import LockConfigError, StoreUnavailable
from celery_locks.keys.names import name_of
from celery_locks.locks import Locks
from celery_locks.stores.types import Holder

#: Seconds between two requests to the store.
_POLL_SECONDS = 0.02


class LeaseDeletedAfter:
    """Deletes the leases of runs, in a store that other processes use.

    Args:
        locks: The locks of the store.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks
        self._losses: list[_Loss] = []

    def __call__(
        self,
        seconds: float | None = None,
        *,
        key: str | None = None,
        calls: int | None = None,
        reason: str = "deleted",
    ) -> None:
        """Make the next run that acquires this key lose its lease.

        The store forgets the lease. The worker notices when it next renews, at most a third of the lease's ttl later:
        test with a short ``ttl``. Call it twice, and the run after that loses its lease too.

        Args:
            seconds: How long after the lease was acquired.
            key: The key.
            calls: Only for tasks that run in the process of the tests.
            reason: As ``calls``: a worker in another process finds out by itself that its lease was deleted.

        Raises:
            LockConfigError: ``seconds`` or ``key`` is missing, ``seconds`` is negative, or ``calls`` or another
                ``reason`` was given.
        """
        if seconds is None or key is None or calls is not None or reason != "deleted":
            raise LockConfigError(
                "workers in other processes need lock_lost_after(seconds=…, key=…): calls= and reason= reach only "
                "tasks that run in the process of the tests"
            )
        if not isinstance(seconds, (int, float)) or not seconds >= 0:
            raise LockConfigError(f"seconds={seconds!r} is no number of seconds: give 0 or more")
        earlier = [loss for loss in self._losses if loss.key == key]
        self._losses.append(_Loss(self._locks, key, seconds, earlier))

    def close(self) -> None:
        """Delete no more leases.

        Raises:
            AssertionError: A planned loss did not happen, so the test proves nothing.
        """
        for loss in self._losses:
            loss.stop()
        for loss in self._losses:
            if not loss.happened:
                why = "no run acquired it" if loss.token is None else "the run ended before"
                call = f"lock_lost_after(seconds={loss.seconds:g}, key={loss.key!r})"
                raise AssertionError(f"{call}: no lease was lost, since {why}")


class _Loss:
    """A planned loss of one lease. A thread waits for the lease."""

    def __init__(self, locks: Locks, key: str, seconds: float, earlier: list[_Loss]) -> None:
        self.key, self.seconds, self.happened = key, seconds, False
        self.token: str | None = None
        self._locks, self._earlier = locks, earlier
        self._before = {holder.token for holder in self._locks.lock(key).holders()}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lock_lost_after {key}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        holder = None
        while holder is None:
            if self._stopped.wait(_POLL_SECONDS):
                return
            holder = self._next_run()
        self.token = holder.token
        if self._stopped.wait(max(0.0, self.seconds - holder.held_for)):
            return
        while not self._stopped.is_set():
            with suppress(StoreUnavailable):
                # Not by force: that would leave a reason of its own.
                self.happened = self._locks.store.release(name_of(self._locks.prefix, self.key), holder.token)
                return
            self._stopped.wait(_POLL_SECONDS)

    def _next_run(self) -> Holder | None:
        """Return the first new run of the key. Each run goes to one loss, in the order of the calls."""
        if any(loss.token is None for loss in self._earlier):
            return None
        taken = self._before | {loss.token for loss in self._earlier}
        with suppress(StoreUnavailable):
            for holder in self._locks.lock(self.key).holders():
                if holder.state == "running" and holder.token not in taken:
                    return holder
        return None
