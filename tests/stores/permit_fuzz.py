"""Users of a semaphore that do all they should not, and a record of who held what that knows nothing of the store.

A crew of them: ``python permit_fuzz.py <store> <key> <limit> <folder> <users> <slow>``; they go on until the
file ``over`` is in the folder. All their times are ``slow`` times as long: some stores need more to come about.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery_locks import Locks, LockTimeout, StoreUnavailable, _sansio
from celery_locks._runtime.clock import system_clock
from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Granted, Refused, Renewal

now = system_clock.now  # the same for all processes of the machine

#: Seconds that a lease lives; and a place in line.
TTLS, PLACE = (0.1, 0.15, 0.3), 0.3


class Record:
    """What its users know for certain, in a file of each user.

    A lease lives for certain from the moment its grant was received until its deadline, counted from before the last
    confirmed request was sent; or until its release is about to be sent. Whether its holder is killed changes nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / f"{uuid.uuid4().hex}.record", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def write(self, event: str, **fields: Any) -> None:
        os.write(self._file, (json.dumps({"event": event, **fields}) + "\n").encode())

    def granted(self, token: str, permits: int, sent: float, until: float) -> None:
        self.write("granted", token=token, permits=permits, sent=sent, at=now(), until=until)


@dataclass
class Certain:
    """For how long a lease lived at least."""

    permits: int
    sent: float
    since: float
    until: float


def read(folder: Path) -> tuple[list[Certain], Counter[str]]:
    """The leases of all records, and how often each thing happened."""
    events = [json.loads(line) for file in sorted(folder.glob("*.record")) for line in _whole_lines(file)]
    leases = {e["token"]: Certain(e["permits"], e["sent"], e["at"], e["until"]) for e in events if "permits" in e}
    for event in events:
        if event["event"] == "prolonged":
            leases[event["token"]].until = max(leases[event["token"]].until, event["until"])
    for event in events:
        if event["event"] == "releasing" and event["token"] in leases:
            leases[event["token"]].until = min(leases[event["token"]].until, event["at"])
        elif event["event"] == "forced":
            for lease in leases.values():
                if lease.sent < event["answered"]:
                    lease.until = min(lease.until, event["at"])
    return [lease for lease in leases.values() if lease.until > lease.since], Counter(e["event"] for e in events)


def _whole_lines(file: Path) -> Iterator[str]:
    yield from (line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n"))


def most_at_once(leases: list[Certain]) -> int:
    """The most permits that were held at one moment for certain."""
    moments = [(lease.since, lease.permits) for lease in leases] + [(lease.until, -lease.permits) for lease in leases]
    most = held = 0
    for _, change in sorted(moments):  # at one moment ends come first
        held += change
        most = max(most, held)
    return most


@dataclass
class Held:
    """Permits that a user was granted.

    Attributes:
        claim: What was granted.
        certain: Until when the store keeps them at least.
        latest: When they have ended at the latest, if nobody prolongs them.
    """

    claim: Claim
    certain: float
    latest: float


class User:
    """Takes permits, and gives them back in time, too late, twice, or never.

    Args:
        die: Ends this user while it holds permits.
    """

    def __init__(
        self, store: Store, key: str, limit: int, record: Record, seed: str, die: Callable[[], object]
    ) -> None:
        locks = Locks(store, prefix="fuzz")
        self.semaphore = locks.semaphore(key, limit=limit, ttl=TTLS[-1])
        self.store, self.name, self.limit = store, locks._space.name(key), limit
        self.record, self.die, self.random = record, die, random.Random(seed)
        self.stale: list[Held] = []
        self.fates: list[Callable[[Held], None]] = []

    def work(self, over: Callable[[], bool]) -> None:
        while not over():
            # A command took longer than a quarter of the ttl: this machine is busy.
            with suppress(StoreUnavailable):
                self.turn()

    def turn(self) -> None:
        if not self.fates:  # each of them in turn, in an order that differs
            few = (self.let_it_expire, self.keep_for_later, self.force, self.leave_all_behind)
            self.fates = [*few, *2 * (self.release_twice, self.prolong, self.acquire_again), *6 * (self.release,)]
            self.random.shuffle(self.fates)
        held = self.acquire()
        if held is not None:
            self.fates.pop()(held)
        if self.random.random() < 0.05:
            self.hold_a_lease()
        self.use_stale_ones()

    def acquire(self) -> Held | None:
        """Waits in line, or doesn't; when it gives up, it leaves the line, or doesn't."""
        permits, ttl = self.random.choice((1, 1, 2, 2, 3, self.limit)), self.random.choice(TTLS)
        claim = Claim(self.name, uuid.uuid4().hex, f"user {os.getpid()}", ttl, self.limit, permits)
        give_up = now() + self.random.choice((0, PLACE * 0.7, PLACE * 2))
        while True:
            line_up, sent = PLACE if give_up > now() else None, now()
            answer = self.store.acquire(claim, line_up)
            if isinstance(answer, Granted):
                held = Held(claim, sent + ttl, now() + ttl)
                self.record.granted(claim.token, permits, sent, held.certain)
                return held
            if line_up is None:
                if answer.position is not None and self.random.random() < 0.9:
                    self.store.leave(self.name, claim.token)
                return None
            self.store.wait(self.name, claim.token, max(0.001, min(answer.retry_in, 0.1)))

    # What becomes of permits that were granted

    def release(self, held: Held) -> None:
        time.sleep(self.random.uniform(0, held.claim.ttl / 10))
        self.record.write("releasing", token=held.claim.token, at=now())
        self.store.release(self.name, held.claim.token)

    def release_twice(self, held: Held) -> None:
        self.release(held)
        assert not self.store.release(self.name, held.claim.token), "what was released was released again"
        self.record.write("released twice")

    def prolong(self, held: Held) -> None:
        claim = held.claim
        for _ in range(3):
            time.sleep(self.random.uniform(0, claim.ttl / 3))
            sent = now()
            if self.store.renew([Renewal(self.name, claim.token, claim.ttl)]) == [None]:
                self.record.write("prolonged", token=claim.token, until=sent + claim.ttl)
        self.release(held)

    def acquire_again(self, held: Held) -> None:
        sent = now()
        granted = isinstance(self.store.acquire(held.claim), Granted)
        if granted and now() < held.certain:  # later it may be a new lease of the same token
            self.record.write("prolonged", token=held.claim.token, until=sent + held.claim.ttl)
        self.release(held)

    def let_it_expire(self, held: Held) -> None:
        time.sleep(max(0.0, held.latest - now()) + 0.02)
        self.use_after_its_end(held)

    def keep_for_later(self, held: Held) -> None:
        self.stale.append(held)

    def use_stale_ones(self) -> None:
        for held in [held for held in self.stale if held.latest + 0.02 < now()]:
            self.stale.remove(held)
            self.use_after_its_end(held)

    def use_after_its_end(self, held: Held) -> None:
        token = held.claim.token
        assert self.store.renew([Renewal(self.name, token, 60.0)]) != [None], "what had expired was renewed"
        assert not self.store.release(self.name, token), "what had expired was released"
        self.record.write("used after its end")

    def force(self, held: Held) -> None:
        at = now()
        self.store.force_release(self.name)
        self.record.write("forced", at=at, answered=now())
        assert not self.store.release(self.name, held.claim.token), "what was taken by force was released"

    def leave_all_behind(self, held: Held) -> None:
        self.record.write("died")
        self.die()

    def hold_a_lease(self) -> None:
        """As users of the library do: renewed in the background, for longer than its ttl."""
        permits, sent = self.random.randint(1, self.limit), now()
        try:
            lease = self.semaphore.acquire(permits=permits, timeout=PLACE)
        except LockTimeout:
            return
        self.record.granted(lease.token, permits, sent, now() + lease.remaining())
        end = now() + self.random.uniform(0, 2 * lease.ttl)
        while lease.held and now() < end:
            time.sleep(0.02)
            at = now()
            if left := lease.remaining():
                self.record.write("prolonged", token=lease.token, until=at + left)
        self.record.write("releasing", token=lease.token, at=now())
        lease.release()
        self.record.write("held a lease")


def live(store: Store, name: str) -> int:
    """The permits of those that the store names as its holders."""
    return sum(holder.permits for holder in store.holders(name))


def all_had(store: Store, name: str, limit: int) -> bool:
    """Whether all permits are to be had by one."""
    claim = Claim(name, uuid.uuid4().hex, "the last one", 1.0, limit, limit)
    if isinstance(store.acquire(claim), Refused):
        return False
    return store.release(name, claim.token)


def main(url: str, key: str, limit: str, folder: str, users: str, slow: str) -> int:
    """Keeps so many users at work, each in a process of its own; those that are killed are replaced.

    They are forked: what they need is imported once.
    """
    global TTLS, PLACE
    TTLS, PLACE = tuple(ttl * float(slow) for ttl in TTLS), PLACE * float(slow)
    _sansio.PLACE_KEPT_SECONDS = PLACE  # else a user that is killed in line would hold up all others for ten seconds
    over, record, running, started = Path(folder, "over"), Record(Path(folder)), set[int](), 0
    while running or not over.exists():
        while len(running) < int(users) and not over.exists():
            started += 1
            if (pid := os.fork()) == 0:
                die = functools.partial(os.kill, os.getpid(), signal.SIGKILL)
                User(open_store(url), key, int(limit), Record(Path(folder)), f"{started}", die).work(over.exists)
                os._exit(0)
            running.add(pid)
        pid, status = os.waitpid(-1, os.WNOHANG)
        running.discard(pid)
        if pid and os.WIFSIGNALED(status):
            record.write("killed")
        elif status:
            return 1  # it said why
        time.sleep(0.005)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
