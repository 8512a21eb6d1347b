"""Locks that are closed leave no thread of their store behind."""

from __future__ import annotations

import threading
import time

from celery_locks.locks import Locks
from celery_locks.stores.base import Store
from celery_locks.testing.compliance.base import StoreTests

#: The names of threads that serve one store.
OF_ONE_STORE = ("celery-locks-renewer", "celery-locks-releaser", "celery-locks-notices")


class Closing(StoreTests):
    """Locks that are closed leave no thread of their store behind."""

    def test_promise_42_closed_locks_leave_no_thread(self, store: Store, name: str) -> None:
        before = self._serving()
        locks = Locks(store)
        with locks.lock(name, ttl=self.long):
            pass
        locks.close()
        locks.close()
        give_up = time.monotonic() + self.patience
        while left := self._serving() - before:
            assert time.monotonic() < give_up, f"threads are left: {left}"
            time.sleep(0.01)

    @staticmethod
    def _serving() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name in OF_ONE_STORE}
