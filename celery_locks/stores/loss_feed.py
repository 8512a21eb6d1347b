"""The notices that a store sends to a process whose leases were taken by force."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection
from contextlib import suppress

from celery_locks._runtime import threads

#: How many notices wait for a process at most. The holders of further leases notice their losses when they renew.
MOST_NOTICES = 1_000


class LossFeed(ABC):
    """The notices for one process about the leases of one prefix.

    A notice is a hint. It may come late, twice, never, or for a lease that still lives.
    """

    @abstractmethod
    def wait(self, timeout: float) -> Collection[str] | None:
        """Block until there are notices, or ``timeout`` seconds have passed. One thread calls this.

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
    """The notices of a store in memory. The feed may be used again after `close`."""

    def __init__(self) -> None:
        self._tokens: deque[str] = deque(maxlen=MOST_NOTICES)
        # A real lock: the thread that waits for it must not depend on the hub of greenlets.
        self._has_notices = threads.new_lock()
        self._has_notices.acquire()

    def put(self, token: str) -> None:
        """Add a notice."""
        self._tokens.append(token)
        self._wake()

    def wait(self, timeout: float) -> Collection[str]:
        """Return the notices; see `LossFeed.wait`."""
        self._has_notices.acquire(True, timeout)
        tokens = set[str]()
        while self._tokens:
            tokens.add(self._tokens.popleft())
        return tokens

    def close(self) -> None:
        """End a `wait` in another thread."""
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the thread was woken already
            self._has_notices.release()


def cut(file: int) -> None:
    """Shut a socket down, by its file number, so that a thread which waits on it goes on."""
    with suppress(OSError), socket.socket(fileno=os.dup(file)) as connection:
        connection.shutdown(socket.SHUT_RDWR)
