"""Another process on a SQLite store: ``python sqlite_process.py <what> <file> [argument …]``."""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from pathlib import Path

from celery_locks.stores.sqlite import SQLiteStore
from celery_locks.stores.types import Claim, Granted, Refused


def claim(name: str, ttl: float = 60.0) -> Claim:
    return Claim(name, uuid.uuid4().hex, f"process {os.getpid()}", ttl)


def say(text: str) -> None:
    print(text, flush=True)


def until_granted(store: SQLiteStore, wanted: Claim, in_line: bool) -> Granted:
    give_up = time.monotonic() + 60
    while isinstance(answer := store.acquire(wanted, 60.0 if in_line else None), Refused):
        assert time.monotonic() < give_up, answer
        if in_line:
            store.wait(wanted.name, wanted.token, 5.0)
    return answer


def hammer(path: str, folder: str, rounds: str) -> None:
    """Leaves a mark while it holds the lock, and fails when there is one already."""
    store, mark = SQLiteStore(path), Path(folder, "mark")
    for turn in range(int(rounds)):
        mine = claim("hammered")
        answer = until_granted(store, mine, in_line=turn % 2 == 0)
        mark.touch(exist_ok=False)
        with open(Path(folder, "fencing_tokens"), "a") as file:
            file.write(f"{answer.fencing_token}\n")
        mark.unlink()
        assert store.release(mine.name, mine.token)


def be_killed(path: str) -> None:
    """Acquires and releases until somebody kills it."""
    store = SQLiteStore(path)
    while True:
        mine = claim("killed", ttl=0.2)
        until_granted(store, mine, in_line=True)
        say("granted")
        store.release(mine.name, mine.token)


def stop_within(path: str) -> None:
    """Stops between the first write of a transaction and its end."""

    def half(db: object) -> None:
        db.execute("DELETE FROM celery_locks_holder")  # type: ignore[attr-defined]
        say("within")
        sys.stdin.read()

    SQLiteStore(path)._file.write(half)


def first_use(path: str) -> None:
    say("ready")
    sys.stdin.readline()
    assert isinstance(SQLiteStore(path).acquire(claim(f"lock {os.getpid()}")), Granted)


def fork(path: str) -> None:
    """The child goes on with a store that the parent had used and closes."""
    store, mine = SQLiteStore(path), claim("parent's")
    assert isinstance(store.acquire(mine), Granted)
    (closed, tell_closed), (used, tell_used) = os.pipe(), os.pipe()
    if (pid := os.fork()) == 0:
        store.ping()
        os.write(tell_used, b"!")
        os.read(closed, 1)
        refused = isinstance(store.acquire(claim("taken meanwhile")), Refused)
        os._exit(0 if refused and len(store.holders("parent's")) == 1 else 1)
    os.read(used, 1)
    store.close()
    assert isinstance(SQLiteStore(path).acquire(claim("taken meanwhile")), Granted)
    os.write(tell_closed, b"!")
    assert os.waitpid(pid, 0)[1] == 0, "the child did not see what was written after the parent had closed the file"
    assert store.release(mine.name, mine.token)


def fork_among_threads(path: str) -> None:
    store, over = SQLiteStore(path), threading.Event()

    def work() -> None:
        while not over.is_set():
            mine = claim(f"thread {threading.get_ident()}")
            assert isinstance(store.acquire(mine), Granted)
            assert store.release(mine.name, mine.token)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        if (pid := os.fork()) == 0:
            granted = isinstance(store.acquire(claim(f"child {os.getpid()}")), Granted)
            os._exit(0 if granted else 1)
        assert os.waitpid(pid, 0)[1] == 0
    over.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
