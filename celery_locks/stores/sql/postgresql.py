"""``postgresql://``: what PostgreSQL does better than all: single statements, and waking."""

from __future__ import annotations

import os
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import inf
from threading import Event

from celery_locks.errors import LossReason
from celery_locks.stores.base import Claim, Granted, Refused, Renewal
from celery_locks.stores.parking import Call
from celery_locks.stores.sql import fast
from celery_locks.stores.sql.address import Address
from celery_locks.stores.sql.database import Connection
from celery_locks.stores.sql.leases import Leases
from celery_locks.stores.sql.listener import DUE, Listener, notice
from celery_locks.stores.sql.locked import PostgreSQLLock
from celery_locks.stores.sql.renewing import renew
from celery_locks.stores.sql.session import Session, microseconds
from celery_locks.stores.sql.store import FIRST_LOOK, LONGEST_LOOK, ServerStore, timeout_for

#: Seconds between two looks for something due that nobody tells: the end of a deadline that was set meanwhile.
DUE_LOOK = 1.0
#: Of how many tokens it is known that they stand in line.
MOST_KNOWN = 10_000


class PostgreSQLStore(ServerStore):
    """Leases in PostgreSQL.

    Args:
        address: Where.
    """

    wakes = True
    batch = 200  # by four statements

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._channel = address.channel
        self._listens_at = address.listener()
        self.wakes = self._listens_at is not None
        self._listening: tuple[int, Listener] | None = None
        #: Tokens in line: for them the short way leads nowhere.
        self._in_line: OrderedDict[str, None] = OrderedDict()
        self._lock = lambda connection, name: _TellingLock(connection, name, self._channel)  # type: ignore[assignment]

    # --- The short way ---

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        if fast.may_be_taken(claim) and claim.token not in self._in_line:
            token = self._database.single(lambda connection: fast.take(connection, claim), timeout_for(claim.ttl))
            if token is not None:
                self._sweeper.now_and_then()
                return Granted(token)
        answer = super().acquire(claim, line_up)
        if isinstance(answer, Refused) and answer.position is not None:
            self._in_line[claim.token] = None
            while len(self._in_line) > MOST_KNOWN:
                self._in_line.popitem(last=False)
        else:
            self._in_line.pop(claim.token, None)
        return answer

    def leave(self, name: str, token: str) -> None:
        self._in_line.pop(token, None)
        super().leave(name, token)

    def _give_back(self, name: str, token: str, call: str) -> bool:
        released = self._database.single(lambda connection: fast.give_back(connection, name, token, call))
        return super()._give_back(name, token, call) if released is None else released

    def _give_back_and_call(self, name: str, token: str, call: str) -> tuple[bool, tuple[Call, ...]]:
        released = self._database.single(lambda connection: fast.give_back(connection, name, token, call))
        return super()._give_back_and_call(name, token, call) if released is None else (released, ())

    def _renew(self, connection: Connection, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        return renew(connection, renewals)

    # --- Waiting ---

    def wait(self, name: str, token: str, timeout: float) -> None:
        give_up, encode = time.monotonic() + timeout, self._database.dialect.encode
        with self._expecting(notice("token", encode(token)), notice("name", encode(name))) as event:
            _told(event, self._works, lambda: self._look_or_watch(name, token, timeout), give_up)

    def await_due(self, prefix: str, timeout: float) -> None:
        give_up = time.monotonic() + timeout
        with self._expecting(DUE) as event:
            while not self._look(prefix, 1) and (left := give_up - time.monotonic()) > 0:
                event.wait(min(left, DUE_LOOK if self._works() else LONGEST_LOOK))
                event.clear()

    def _look_or_watch(self, name: str, token: str, seconds: float) -> float:
        """Seconds until it may be this token's turn without anybody telling; 0 when it may be now.

        If it isn't in line, whoever frees the lock is asked to tell.
        """

        def look(session: Session) -> tuple[float, bool]:
            leases = Leases(session)
            if leases.may_go(name, token):
                return 0.0, True
            deadline = leases.next_deadline(name)
            return (inf if deadline is None else (deadline - session.now) / 1e6), leases.in_line(name, token)

        left, told = self._read(name, look)
        if told:
            return left
        query = "UPDATE celery_locks_lock SET watched = greatest(watched, CLOCK + ?) WHERE name = ?"
        self._database.single(lambda connection: connection.execute(query, (microseconds(seconds), name)).rowcount)
        return self._read(name, look)[0]

    def _expecting(self, *notices: str) -> AbstractContextManager[Event]:
        if self._listens_at is None:
            return nullcontext(Event())
        if self._listening is None or self._listening[0] != os.getpid():  # a thread stays behind at a fork
            self._listening = os.getpid(), Listener(self._listens_at, self._database, self._channel)
        return self._listening[1].expecting(*notices)

    def _works(self) -> bool:
        return self._listening is not None and self._listening[1].working

    def close(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None and listening[0] == os.getpid():
            listening[1].close()
        if self._listens_at is not None:
            self._listens_at.close()
        super().close()


class _TellingLock(PostgreSQLLock):
    """A transaction that tells at its end who may go."""

    def __init__(self, connection: Connection, name: str, channel: str) -> None:
        super().__init__(connection, name)
        self._channel = channel

    def finish(self) -> None:
        super().finish()
        if self.line > self.now:
            self.execute(_TELL_FIRST, (self._channel, DUE, self.name, self.now, self.name, self.now))
        elif self.watched > self.now:
            told = notice("name", self._connection.dialect.encode(self.name))
            self.execute(_TELL_WATCHERS, (self._channel, told, self.name, self.now))


# To a ticket's turn a sweeper listens; a waiter to its own token, told as `notice` does.
_TELL_FIRST = """
SELECT pg_notify(?, CASE WHEN substr(token, 1, 7) = 'ticket:' THEN ?
  ELSE 'token:' || left(encode(sha256(convert_to(token, 'UTF8')), 'hex'), 32) END)
FROM (SELECT token, permits, most FROM celery_locks_waiter WHERE name = ? AND deadline > ? ORDER BY id LIMIT 1) first
WHERE permits + (SELECT coalesce(sum(permits), 0) FROM celery_locks_holder WHERE name = ? AND deadline > ?) <= most
"""
_TELL_WATCHERS = (
    "SELECT pg_notify(?, ?) WHERE NOT EXISTS (SELECT 1 FROM celery_locks_holder WHERE name = ? AND deadline > ?)"
)


def _told(event: Event, works: Callable[[], bool], look: Callable[[], float], give_up: float) -> None:
    """Waits to be told, or for the end of a deadline; looks again every now and then where nobody can tell."""
    pause = FIRST_LOOK
    while until := look():
        left = give_up - time.monotonic()
        if left <= 0:
            return
        if works():
            if event.wait(min(left, until)):
                return
            continue
        event.wait(min(random.uniform(pause / 2, pause), left))
        event.clear()
        pause = min(pause * 1.5, LONGEST_LOOK)
