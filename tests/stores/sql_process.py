"""Another process on a database store: ``python sql_process.py <what> <url> [argument …]``."""

from __future__ import annotations

import os
import sys
import uuid

from celery_locks.stores import open_store
from celery_locks.stores.types import Claim, Granted, Refused


def claim(name: str, ttl: float = 60.0) -> Claim:
    return Claim(name, uuid.uuid4().hex, f"process {os.getpid()}", ttl)


def say(text: str) -> None:
    print(text, flush=True)


def crew(count: str, what: str, *arguments: str) -> None:
    """So many processes that begin together; they are forked, so that what they need is imported once."""
    ready, go = os.pipe(), os.pipe()
    for _ in range(int(count)):
        if os.fork() == 0:
            os.close(go[1])
            os.write(ready[1], b"!")
            os.read(go[0], 1)  # ends when the parent closes it
            globals()[what](*arguments)
            os._exit(0)
    for _ in range(int(count)):
        os.read(ready[0], 1)
    os.close(go[1])
    assert [os.wait()[1] for _ in range(int(count))] == [0] * int(count)


def first_use(url: str) -> None:
    assert isinstance(open_store(url).acquire(claim(f"lock {os.getpid()}")), Granted)


def hold(url: str, name: str) -> None:
    """Holds the row of a lock within a transaction until it is killed, as a process does that was stopped there."""
    store = open_store(url)

    def half(session: object) -> None:
        say("within")
        sys.stdin.read()

    store._write(name, half)  # type: ignore[attr-defined]


def fork(url: str) -> None:
    """The child goes on with a store that the parent had used."""
    store, mine = open_store(url), claim("parent's")
    assert isinstance(store.acquire(mine), Granted)
    store.wait("parent's", "nobody", 0.05)  # threads of the parent's
    if (pid := os.fork()) == 0:
        refused = isinstance(store.acquire(claim("parent's")), Refused)
        own = claim("child's")
        granted = isinstance(store.acquire(own), Granted) and store.release("child's", own.token)
        os._exit(0 if refused and granted else 1)
    assert isinstance(store.acquire(claim("parent's")), Refused)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.release(mine.name, mine.token)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
