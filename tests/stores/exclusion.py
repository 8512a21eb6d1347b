"""Processes that all want one lock: ``python exclusion.py <store> <folder> <processes> <seconds>``.

Whoever has it leaves a mark, and fails when there is one already: what judges knows nothing of the store.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

from celery_locks import StoreUnavailable
from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Granted

#: Seconds that a lease lives: far longer than any of them holds it, also on a busy machine.
TTL = 120.0


def main(url: str, folder: str, count: str, seconds: str) -> int:
    """They begin together, and are forked: what they need is imported once."""
    open_store(url)  # imports its driver
    ready, go = os.pipe(), os.pipe()
    for number in range(int(count)):
        if os.fork() == 0:
            os.close(go[1])
            os.write(ready[1], b"!")
            os.read(go[0], 1)  # ends when the parent closes it
            take_turns(open_store(url), Path(folder), number, time.monotonic() + float(seconds))
            os._exit(0)
    for _ in range(int(count)):
        os.read(ready[0], 1)
    os.close(go[1])
    return max(os.wait()[1] for _ in range(int(count)))


def take_turns(store: Store, folder: Path, number: int, until: float) -> None:
    inside, turn = folder / "inside", 0
    while turn == 0 or time.monotonic() < until:
        claim = Claim("exclusion", uuid.uuid4().hex, f"process {number}", TTL)
        granted = wait_for(store, claim, barge=turn % 4 == 0)
        inside.touch(exist_ok=False)
        with (folder / "fencing_tokens").open("a") as file:
            file.write(f"{number} {granted.fencing_token}\n")
        inside.unlink()
        give_back(store, claim)
        turn += 1


def wait_for(store: Store, claim: Claim, barge: bool) -> Granted:
    """Tries some ten times without lining up, if it barges; then waits in line."""
    tries = 10 if barge else 0
    while True:
        with suppress(StoreUnavailable):  # on a busy machine a server may take too long
            answer = store.acquire(claim, None if tries else TTL)
            if isinstance(answer, Granted):
                return answer
            if not tries:
                store.wait(claim.name, claim.token, 5.0)
        tries = max(0, tries - 1)


def give_back(store: Store, claim: Claim) -> None:
    with suppress(StoreUnavailable):
        assert store.release(claim.name, claim.token)
        return
    while True:  # it got no answer, but may have been made: now it finds something or doesn't
        with suppress(StoreUnavailable):
            store.release(claim.name, claim.token)
            return


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) != 0)
