"""Waits in several stores at the same time, until a ticket is due in one of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from celery_locks._runtime.clock import system_clock
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.parallel import start
from celery_locks.stores.parking import Parking

#: Seconds between two requests to a store that can't be reached.
PAUSE_SECONDS = 0.5


class DueWaits:
    """Waits in several stores, by a thread for each; see `Parking.await_due`.

    A store's wait that goes on after its caller has returned serves the next call, too.

    Args:
        stores: The stores.
        prefix: The prefix of the locks.
        broker: The broker of the tickets.
    """

    def __init__(self, stores: Sequence[Parking], prefix: str, broker: str) -> None:
        self._prefix = prefix
        self._broker = broker
        self._changed = threading.Condition()
        #: When the next wait in each store begins; infinity while a thread waits in it.
        self._next = dict.fromkeys(range(len(stores)), 0.0)
        self._stores = stores
        self._due = False

    def wait(self, timeout: float) -> None:
        """Block until a ticket may be due in one of the stores, or ``timeout`` seconds have passed."""
        until = system_clock.now() + timeout
        with self._changed:
            while not self._due and (left := until - system_clock.now()) > 0:
                self._begin(left)
                moments = [moment - system_clock.now() for moment in self._next.values()]
                self._changed.wait(max(0.001, min([left, *moments])))
            self._due = False

    def _begin(self, timeout: float) -> None:
        now = system_clock.now()
        for number, moment in self._next.items():
            if moment <= now:
                self._next[number] = float("inf")
                start(partial(self._wait_in, number, timeout))

    def _wait_in(self, number: int, timeout: float) -> None:
        begun, due, pause = system_clock.now(), False, 0.0
        try:
            self._stores[number].await_due(self._prefix, self._broker, timeout)
            due = system_clock.now() - begun < 0.9 * timeout
        except StoreUnavailable:
            pause = PAUSE_SECONDS
        finally:
            with self._changed:
                self._due = self._due or due
                self._next[number] = system_clock.now() + pause
                self._changed.notify_all()
