"""What `benchmarks.databases` starts beside itself: ``python -m benchmarks.databases_process <what> <url> …``."""

from __future__ import annotations

import sys
import time
import uuid

from celery_locks import Locks
from celery_locks.stores import open_store
from celery_locks.stores.types import Claim


def say(text: object) -> None:
    print(text, flush=True)


def pairs(url: str, key: str, seconds: str) -> None:
    """Takes a key of its own and gives it back, all the time; then says how many seconds each pair took."""
    store, times = open_store(url), []
    store.ping()
    say("ready")
    sys.stdin.readline()
    until = time.monotonic() + float(seconds)
    while (began := time.monotonic()) < until:
        claim = Claim(key, uuid.uuid4().hex, "benchmark", 60.0)
        store.acquire(claim)
        store.release(key, claim.token)
        times.append(f"{time.monotonic() - began:.6f}")
    say(" ".join(times))


def wait(url: str, key: str) -> None:
    """Waits for the key each time it is told to, and says when it had it."""
    lock = Locks(url, prefix="benchmark").lock(key, ttl=60)
    say("ready")
    while sys.stdin.readline():
        with lock:
            woken = time.monotonic()
        say(woken)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
