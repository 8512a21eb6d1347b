"""Notices of a store to a process that leases were taken from it by force."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection
from contextlib import suppress

from celery_locks._runtime import threads

#: How many notices wait for a process at most. The holders beyond notice their losses at their next renewals.
MOST_NOTICES = 1_000


class LossFeed(ABC):
    """The notices for one process about the leases of one prefix.

    A notice is a hint. It may come late, twice, for a lease that lives, or never.
    """

    @abstractmethod
    def wait(self, timeout: float) -> Collection[str] | None:
        """Block until there are notices, or ``timeout`` seconds are over. One thread calls this.

        Returns:
            The owner tokens of the leases that were taken, at most `MOST_NOTICES`. ``None`` when notices may have been
            missed before this call.

        Raises:
            StoreUnavailable: The store can't be reached. The next call connects again.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection. A `wait` in another thread ends with `StoreUnavailable` or an empty answer."""


class LocalFeed(LossFeed):
    """The notices of a store in this process. It may be used again after `close`."""

    def __init__(self) -> None:
        self._tokens: deque[str] = deque(maxlen=MOST_NOTICES)
        # A real lock: a thread waits for it that must not depend on the hub of greenlets.
        self._news = threads.new_lock()
        self._news.acquire()

    def put(self, token: str) -> None:
        """Add a notice."""
        self._tokens.append(token)
        self._wake()

    def wait(self, timeout: float) -> Collection[str]:
        self._news.acquire(True, timeout)
        tokens = set[str]()
        while self._tokens:
            tokens.add(self._tokens.popleft())
        return tokens

    def close(self) -> None:
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it is awake already
            self._news.release()


def cut(file: int) -> None:
    """End what another thread waits for on a socket, by its file number."""
    with suppress(OSError), socket.socket(fileno=os.dup(file)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
