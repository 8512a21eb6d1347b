"""The store in a database server: each change is one short transaction, by the server's clock."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import cycle
from typing import Literal, TypeVar

from celery_locks._runtime.clock import monotonic
from celery_locks.errors import LossReason, StoreUnavailable
from celery_locks.stores.parking import Dispatch, RunEndName
from celery_locks.stores.sql.address import Address
from celery_locks.stores.sql.base import TableStore, check_numbers
from celery_locks.stores.sql.checks import checks
from celery_locks.stores.sql.database import StoreFull
from celery_locks.stores.sql.dialects import Connection
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.locked_session import ServerSession, lock_of, read_session
from celery_locks.stores.sql.renewal import renew_many
from celery_locks.stores.sql.session import Session
from celery_locks.stores.sql.sweeper import Sweeper
from celery_locks.stores.types import Claim, Granted, Refused, Renewal, Value

T = TypeVar("T")

#: Seconds between two queries of a waiter that gets no notices: the first pause, and the longest.
FIRST_QUERY_PAUSE_SECONDS, LONGEST_QUERY_PAUSE_SECONDS = 0.005, 0.25
#: The shortest pause before the next query for due tickets, in seconds.
SHORTEST_DUE_PAUSE_SECONDS = 0.001
#: How many threads of a process query at the same time whether it is their turn. Others need connections, too.
MOST_WAITER_QUERIES = 2
#: Microseconds that a statement of MySQL has waited for its row, in an expression: ``CLOCK`` is when it began.
WAITED = "timestampdiff(MICROSECOND, now(6), sysdate(6))"
#: Microseconds that a place in line must still have to be kept without its lock's row.
SHORTEST_KEPT_MICROSECONDS = 100_000
#: The part of a request's timeout that `stats` uses to count. A request on a doubtful connection has half the timeout.
FIGURES_SHARE = 0.25
#: The shortest time that is worth waiting for a row, in seconds.
SHORTEST_SHARE_SECONDS = 0.005


class ServerStore(TableStore):
    """Leases in a database server, by means that all servers have.

    Args:
        address: The address of the server.
    """

    #: How many leases one transaction renews.
    batch = 200

    def __init__(self, address: Address) -> None:
        self.name = address.name
        self._database = address.database()
        self._lock = lock_of(address.dialect)
        self._figures_seconds = self._database.timeout * FIGURES_SHARE
        self._sweeper = Sweeper(self._database)
        self._waiter_queries = os.getpid(), _mutexes(MOST_WAITER_QUERIES)
        #: Tokens that had a place in line at their last request.
        self._in_line: set[str] = set()

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        check_numbers(claim)
        return self._acquire_in_line(claim, line_up)

    def _acquire_in_line(self, claim: Claim, line_up: float | None, repeated: bool = False) -> Granted | Refused:
        """Keep the place of a claim in line if that is enough. Otherwise acquire in a transaction."""
        plain = not (claim.adopts or claim.replaces)
        in_line = line_up is not None and plain and claim.token in self._in_line
        answer: Granted | Refused | None = self._keep_place(claim, line_up) if line_up and in_line else None
        if answer is None:
            answer = self._acquire_in_transaction(claim, line_up, repeated)
            if isinstance(answer, Refused) and answer.position is not None:
                self._in_line.add(claim.token)
            else:
                self._in_line.discard(claim.token)
        return answer

    def _keep_place(self, claim: Claim, line_up: float) -> Refused | None:
        """Keep a place in line for longer, if it is not the first.

        It does not lock the lock's row. So a long line does not delay the holder and the first waiter.
        """
        query = (
            "SELECT greatest(l.touched, CLOCK), w.deadline FROM celery_locks_lock l "
            "JOIN celery_locks_waiter w ON w.name = l.name AND w.token = ? WHERE l.name = ?"
        )
        # An expired place stays expired: another transaction may have acted on that. The statement may wait for its
        # row, so the place is compared with the time at which it has the row. A deadline that was moved meanwhile, and
        # a place that may expire before the commit, are left to a transaction that locks the lock's row.
        change = (
            "UPDATE celery_locks_waiter SET deadline = greatest(deadline, ?) WHERE name = ? AND token = ? "
            f"AND deadline = ? AND deadline > CLOCK + {WAITED} + {SHORTEST_KEPT_MICROSECONDS}"
        )
        # If the commit took even longer, the place is lost in spite of it.
        drop = "DELETE FROM celery_locks_waiter WHERE name = ? AND token = ? AND deadline = ?"

        def work(connection: Connection) -> Refused | None:
            now, deadline = connection.execute(query, (claim.token, claim.name)).fetchone() or (0, 0)
            session = ServerSession(connection, now)
            head = Leases(session).head(claim.name) if deadline > now else None
            if head is None or head[0] == claim.token:
                return None
            until = session.after(line_up)
            if not connection.execute(change, (until, claim.name, claim.token, deadline)).rowcount:
                return None
            now, until = connection.execute(query, (claim.token, claim.name)).fetchone() or (0, 0)
            if now >= deadline:
                connection.execute(drop, (claim.name, claim.token, until))
                return None
            return Leases(ServerSession(connection, now)).refused(claim.name, claim.token, claim.ttl)

        return self._database.single(work, self._database.timeout_for(claim.ttl))

    def leave(self, name: str, token: str) -> None:
        self._in_line.discard(token)
        super().leave(name, token)

    def wait(self, name: str, token: str, timeout: float) -> None:
        self.wait_any([(name, token)], timeout)

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        return _query_until(lambda: self._query_for_waiters(lambda: self._turns_of(places)), timeout)

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        give_up, pause = monotonic() + timeout, FIRST_QUERY_PAUSE_SECONDS
        while (due_in := self._due_in(prefix, broker)) > 0 and (left := give_up - monotonic()) > 0:
            time.sleep(min(random.uniform(pause / 2, pause), left, max(due_in, SHORTEST_DUE_PAUSE_SECONDS)))
            pause = min(pause * 1.5, LONGEST_QUERY_PAUSE_SECONDS)

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        order = sorted(range(len(renewals)), key=lambda number: renewals[number].name)
        timeout = self._database.timeout_for(min((renewal.ttl for renewal in renewals), default=None))
        answers: dict[int, LossReason | None] = {}
        try:
            blocked: list[int] = []
            for start in range(0, len(order), self.batch):
                some = order[start : start + self.batch]
                for number, answer in zip(some, self._renew([renewals[each] for each in some], timeout), strict=True):
                    if answer == "blocked":
                        blocked.append(number)
                    else:
                        answers[number] = answer
            self._renew_blocked([(number, renewals[number]) for number in blocked], timeout, answers)
        except StoreUnavailable:
            if not answers:
                raise
        return [answers.get(number, "unreachable") for number in range(len(renewals))]

    def _renew(self, renewals: Sequence[Renewal], timeout: float) -> list[LossReason | Literal["blocked"] | None]:
        """Renew leases, except those whose lock's row another transaction has locked."""
        return self._database.transaction(lambda db: renew_many(db, renewals), timeout)

    def _renew_blocked(
        self, blocked: Sequence[tuple[int, Renewal]], timeout: float, answers: dict[int, LossReason | None]
    ) -> None:
        """Renew leases one by one, and wait for the transactions that block them. All share one timeout.

        Args:
            blocked: The leases with their numbers.
            timeout: Seconds for all of them.
            answers: The answers by number. A lease that is still blocked gets none.

        Raises:
            StoreUnavailable: There is no answer at all.
        """
        give_up, problem = monotonic() + timeout, None
        for done, (number, renewal) in enumerate(blocked):
            share = (give_up - monotonic()) / (len(blocked) - done)
            if share < SHORTEST_SHARE_SECONDS:
                continue
            try:
                answers[number] = self._renew_waiting(renewal, share)
            except StoreUnavailable as error:
                problem = error
        if problem is not None and not answers:
            raise problem

    def _renew_waiting(self, renewal: Renewal, timeout: float) -> LossReason | None:
        def work(connection: Connection) -> LossReason | None:
            return self._in_lock(connection, renewal.name, lambda session: Leases(session).renew(renewal))

        return self._database.transaction(work, timeout)

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        return self._without_value_if_full(lambda value: self._release(name, token, value), value)

    def _release(self, name: str, token: str, value: Value | None) -> bool:
        return super().release(name, token, value)

    def end_run(
        self, name: str, token: str, end: RunEndName, *, broker: str, value: Value | None = None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        return self._without_value_if_full(lambda value: self._end_run(name, token, end, broker, value), value)

    def _end_run(
        self, name: str, token: str, end: RunEndName, broker: str, value: Value | None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        return super().end_run(name, token, end, broker=broker, value=value)

    @staticmethod
    def _without_value_if_full(release: Callable[[Value | None], T], value: Value | None) -> T:
        """Release a lease with a value. If the disk is full, release it without the value."""
        try:
            return release(value)
        except StoreFull:
            if value is None:
                raise
            return release(None)

    def ping(self) -> None:
        self._write("", lambda session: None)

    def about(self) -> str:
        version = str(self._database.single(lambda connection: connection.execute("SELECT version()").fetchone()[0]))
        if version.startswith("PostgreSQL"):
            return version.partition(" on ")[0]
        product = "MariaDB" if "MariaDB" in version else "MySQL"
        return f"{product} {version.partition('-')[0]}"

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        return checks(self._database)

    def close(self) -> None:
        self._database.close()

    def _query_for_waiters(self, look: Callable[[], T]) -> T:
        if self._waiter_queries[0] != os.getpid():  # a fork may have copied it while other threads held it
            self._waiter_queries = os.getpid(), _mutexes(MOST_WAITER_QUERIES)
        with next(self._waiter_queries[1]):
            return look()

    def _read(self, name: str, work: Callable[[Session], T]) -> T:
        begin = self._database.dialect.begin_reading
        return self._database.transaction(lambda connection: work(read_session(connection, name)), begin=begin)

    def _write(self, name: str, work: Callable[[Session], T], ttl: float | None = None) -> T:
        timeout = self._database.timeout_for(ttl)
        result = self._database.transaction(lambda connection: self._in_lock(connection, name, work), timeout)
        self._sweeper.sweep_if_due()
        return result

    def _in_lock(self, connection: Connection, name: str, work: Callable[[Session], T]) -> T:
        session = self._lock(connection, name)
        result = work(session)
        session.finish()
        return result


def _mutexes(count: int) -> Iterator[AbstractContextManager[bool]]:
    """Return some mutexes in turn. No exception between two lines leaves one taken, as it may leave a semaphore."""
    return cycle([threading.RLock() for _ in range(count)])


def _query_until(look: Callable[[], list[str]], timeout: float) -> list[str]:
    give_up, pause = monotonic() + timeout, FIRST_QUERY_PAUSE_SECONDS
    while not (found := look()):
        left = give_up - monotonic()
        if left <= 0:
            break
        time.sleep(min(random.uniform(pause / 2, pause), left))
        pause = min(pause * 1.5, LONGEST_QUERY_PAUSE_SECONDS)
    return found
