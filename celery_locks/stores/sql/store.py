"""Leases in PostgreSQL, MySQL or MariaDB: each change one short transaction, by the server's clock."""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from celery_locks.errors import LossReason
from celery_locks.stores.base import Renewal
from celery_locks.stores.parking import Call
from celery_locks.stores.sql import values
from celery_locks.stores.sql.address import Address
from celery_locks.stores.sql.base import TableStore, give_back, give_back_and_call, take_back_and_call
from celery_locks.stores.sql.database import SHORTEST_TIMEOUT, TIMEOUT, Connection
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.locked import LockedSession, lock_of, read_session
from celery_locks.stores.sql.session import Session
from celery_locks.stores.sql.sweeper import Sweeper

T = TypeVar("T")

#: Seconds between two looks of a waiter that is not told: the first, and the longest.
FIRST_LOOK, LONGEST_LOOK = 0.005, 0.25
#: How many threads of a process look at once whether it is their turn: however many wait, others need connections, too.
LOOKERS = 2


class ServerStore(TableStore):
    """Leases in a database server, by means that all of them have.

    Args:
        address: Where.
    """

    #: How many leases one transaction renews: four statements each here, which must not take as long as it may last.
    batch = 20

    def __init__(self, address: Address) -> None:
        self.name = address.name
        self._database = address.database()
        self._lock = lock_of(address.dialect)
        self._sweeper = Sweeper(self._database)
        self._lookers = os.getpid(), threading.BoundedSemaphore(LOOKERS)

    def wait(self, name: str, token: str, timeout: float) -> None:
        self.wait_any([(name, token)], timeout)

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        return _look_again_until(lambda: self._looking(lambda: self._turns_of(places)), timeout)

    def await_due(self, prefix: str, timeout: float) -> None:
        _look_again_until(lambda: self._look(prefix, 1), timeout)

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        order = sorted(range(len(renewals)), key=lambda number: renewals[number].name)
        reasons: dict[int, LossReason | None] = {}
        for start in range(0, len(order), self.batch):
            some = order[start : start + self.batch]
            batch = [renewals[number] for number in some]
            timeout = timeout_for(min(renewal.ttl for renewal in batch))
            answers = self._renew(batch, timeout)
            reasons.update(zip(some, answers, strict=True))
        return [reasons[number] for number in range(len(renewals))]

    def _renew(self, renewals: Sequence[Renewal], timeout: float) -> list[LossReason | None]:
        """Renews leases in the order of their locks' names: two that need the same rows wait instead of colliding."""

        def one(connection: Connection, renewal: Renewal) -> LossReason | None:
            return self._in_lock(connection, renewal.name, lambda session: Leases(session).renew(renewal))

        return self._database.transaction(lambda db: [one(db, renewal) for renewal in renewals], timeout)

    def release(self, name: str, token: str) -> bool:
        return self._give_back(name, token, secrets.token_hex(8))

    def _give_back(self, name: str, token: str, call: str) -> bool:
        return self._write(name, lambda session: _once(session, call, lambda: give_back(session, name, token), True))

    def hand_on(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        return self._give_back_and_call(name, token, secrets.token_hex(8))

    def _give_back_and_call(self, name: str, token: str, call: str) -> tuple[bool, tuple[Call, ...]]:
        before: tuple[bool, tuple[Call, ...]] = True, ()  # whom it called then, the sweeper calls again
        return self._write(
            name, lambda session: _once(session, call, lambda: give_back_and_call(session, name, token), before)
        )

    def died(self, name: str, token: str) -> tuple[bool, tuple[Call, ...]]:
        before: tuple[bool, tuple[Call, ...]] = True, ()
        call = secrets.token_hex(8)
        return self._write(
            name, lambda session: _once(session, call, lambda: take_back_and_call(session, name, token), before)
        )

    def delete(self, name: str) -> bool:
        call = secrets.token_hex(8)
        return self._write(name, lambda session: values.delete_once(session, name, call))

    def ping(self) -> None:
        self._write("", lambda session: None)

    def about(self) -> str:
        version = str(self._database.single(lambda connection: connection.execute("SELECT version()").fetchone()[0]))
        if version.startswith("PostgreSQL"):
            return version.partition(" on ")[0]
        return f"{'MariaDB' if 'MariaDB' in version else 'MySQL'} {version.partition('-')[0]}"

    def close(self) -> None:
        self._database.close()

    def _looking(self, look: Callable[[], T]) -> T:
        if self._lookers[0] != os.getpid():  # a fork may have doubled it while it was taken
            self._lookers = os.getpid(), threading.BoundedSemaphore(LOOKERS)
        with self._lookers[1]:
            return look()

    def _read(self, name: str, work: Callable[[Session], T]) -> T:
        begin = self._database.dialect.begin_reading
        return self._database.transaction(lambda connection: work(read_session(connection, name)), TIMEOUT, begin)

    def _write(self, name: str, work: Callable[[Session], T], ttl: float | None = None) -> T:
        result = self._database.transaction(lambda connection: self._in_lock(connection, name, work), timeout_for(ttl))
        self._sweeper.now_and_then()
        return result

    def _in_lock(self, connection: Connection, name: str, work: Callable[[Session], T]) -> T:
        session = self._lock(connection, name)
        result = work(session)
        session.finish()
        return result


def _look_again_until(look: Callable[[], list[str]], timeout: float) -> list[str]:
    give_up, pause = time.monotonic() + timeout, FIRST_LOOK
    while not (found := look()):
        left = give_up - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(random.uniform(pause / 2, pause), left))
        pause = min(pause * 1.5, LONGEST_LOOK)
    return found


def _once(session: Session, call: str, give_back: Callable[[], T], before: T) -> T:
    """Gives a lease back, and knows it when that was done already, and only the reply was lost.

    Args:
        session: The transaction.
        call: What this call is called, however often it is tried.
        give_back: Does it; what it returns says, maybe first of several things, whether this call did it.
        before: What is returned where it was done before.
    """
    assert isinstance(session, LockedSession)
    if session.released == call:
        return before
    answer = give_back()
    if answer[0] if isinstance(answer, tuple) else answer:
        session.released = call
    return answer


def timeout_for(ttl: float | None) -> float:
    """Seconds that a transaction about a lease of so many seconds may take: it fails well before the next renewal."""
    return TIMEOUT if ttl is None else min(TIMEOUT, max(SHORTEST_TIMEOUT, ttl / 4))
