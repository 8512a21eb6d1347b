"""A process that holds a key as a worker does, and then does something odd: ``holder URL FOLDER KEY MODE``.

Prints its process id when it is done, and waits for the end of its input.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import sys
import threading
import time

from celery_locks import Locks
from celery_locks.stores.types import Claim, Granted
from celery_locks.tasks.worker import journal

TTL = 120.0


def hold(locks: Locks, key: str, line_up: float | None = None) -> bool:
    """Claims a key, as a run does."""
    claim = Claim(locks._space.name(key), secrets.token_hex(16), "holder", TTL)
    journal.add_claim(claim.token, claim.name, key, "task", "id")
    granted = isinstance(locks.store.acquire(claim, line_up), Granted)
    if granted:
        journal.mark_granted(claim.token)
    return granted


def print_pid_and_wait() -> None:
    print(os.getpid(), flush=True)
    sys.stdin.read()


def child_of_the_dead(locks: Locks, key: str) -> None:
    """The main process of a worker is gone, and a child still runs."""
    life = journal.worker_folder()
    assert life is not None
    if os.fork():
        os._exit(0)
    assert hold(locks, key)
    print_pid_and_wait()


def forks(locks: Locks, key: str) -> None:
    """A process that this one started outlives it."""
    assert hold(locks, key)
    if os.fork():
        print_pid_and_wait()
    time.sleep(TTL)


def main_thread_ends(locks: Locks, key: str) -> None:
    """The system then shows the whole process as dead, but it runs."""
    assert hold(locks, key)
    threading.Thread(target=print_pid_and_wait).start()
    ctypes.CDLL(None).pthread_exit(None)


def closes_all(locks: Locks, key: str) -> None:
    """As code does that makes a daemon of itself."""
    assert hold(locks, key)
    os.closerange(3, 1000)
    print_pid_and_wait()


def holds(locks: Locks, key: str) -> None:
    assert hold(locks, key)
    print_pid_and_wait()


def idles(locks: Locks, key: str) -> None:
    """Holds nothing."""
    print_pid_and_wait()


def waits(locks: Locks, key: str) -> None:
    """Stands in line."""
    assert not hold(locks, key, 60)
    print_pid_and_wait()


if __name__ == "__main__":
    url, folder, key, mode = sys.argv[1:]
    journal.begin(url, folder)
    globals()[mode](Locks(url), key)
