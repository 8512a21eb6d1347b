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
from celery_locks.stores.base import Holder, Renewal
from celery_locks.stores.parking import Dispatch, RunEndName
from celery_locks.stores.sql import values
from celery_locks.stores.sql.address import Address
from celery_locks.stores.sql.base import TableStore, end_run, force_release, release
from celery_locks.stores.sql.database import SHORTEST_TIMEOUT, TIMEOUT, Connection
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.locked import LockedSession, lock_of, read_session
from celery_locks.stores.sql.session import Session
from celery_locks.stores.sql.sweeper import Sweeper

T = TypeVar("T")

#: Seconds between two looks of a waiter that is not told: the first, and the longest.
FIRST_LOOK, LONGEST_LOOK = 0.005, 0.25
#: Seconds before the moment at which something is due is looked for again, at least.
SHORTEST_DUE_LOOK = 0.001
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

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        give_up, pause = time.monotonic() + timeout, FIRST_LOOK
        while (due_in := self._due_in(prefix, broker)) > 0 and (left := give_up - time.monotonic()) > 0:
            time.sleep(min(random.uniform(pause / 2, pause), left, max(due_in, SHORTEST_DUE_LOOK)))
            pause = min(pause * 1.5, LONGEST_LOOK)

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
        return self._release(name, token, secrets.token_hex(8))

    def _release(self, name: str, token: str, request: str) -> bool:
        return self._write(name, lambda session: _once(session, request, lambda: release(session, name, token), True))

    def end_run(self, name: str, token: str, end: RunEndName, *, broker: str) -> tuple[bool, tuple[Dispatch, ...]]:
        return self._end_run(name, token, end, broker, secrets.token_hex(8))

    def _end_run(
        self, name: str, token: str, end: RunEndName, broker: str, request: str
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        before: tuple[bool, tuple[Dispatch, ...]] = True, ()  # the sweeper dispatches those again

        def work(session: Session) -> tuple[bool, tuple[Dispatch, ...]]:
            return _once(session, request, lambda: end_run(session, name, token, end, broker), before)

        return self._write(name, work)

    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        call, seen = secrets.token_hex(8), list[tuple[Holder, ...]]()

        def work(session: Session) -> tuple[Holder, ...]:
            assert isinstance(session, LockedSession)
            if session.released == call:  # only the reply of the last try was lost
                return seen[-1]
            seen.append(force_release(session, name, token))
            if seen[-1]:
                session.released = call
            return seen[-1]

        return self._write(name, work)

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


def _once(session: Session, request: str, release: Callable[[], T], before: T) -> T:
    """Release a lease, or recognize that this request released it before and only its reply was lost.

    Args:
        session: The transaction.
        request: A name for this request, the same each time that it is tried.
        release: Releases the lease. Its answer, or the first part of it, states whether this request did so.
        before: The answer where it was released before.
    """
    assert isinstance(session, LockedSession)
    if session.released == request:
        return before
    answer = release()
    if answer[0] if isinstance(answer, tuple) else answer:
        session.released = request
    return answer


def timeout_for(ttl: float | None) -> float:
    """Seconds that a transaction about a lease of so many seconds may take: it fails well before the next renewal."""
    return TIMEOUT if ttl is None else min(TIMEOUT, max(SHORTEST_TIMEOUT, ttl / 4))
