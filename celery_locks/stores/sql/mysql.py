"""The store of MySQL and MariaDB: a lock without waiters is acquired, and released, by one statement."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from celery_locks.stores.parking import Dispatch, RunEndName
from celery_locks.stores.sql import base
from celery_locks.stores.sql.address import Address
from celery_locks.stores.sql.dialects import Connection, MySQL
from celery_locks.stores.sql.function_texts import PATIENCE
from celery_locks.stores.sql.session import COARSE_BITS, SET_BACK, Session, microseconds
from celery_locks.stores.sql.store import ServerStore
from celery_locks.stores.sql.turns import Turns
from celery_locks.stores.types import Claim, Granted, Holder, Refused, Value

_FORGET = f"((({{}}) >> {COARSE_BITS}) + 2) << {COARSE_BITS}"
# LAST_INSERT_ID returns the fencing token with the answer. MySQL assigns from left to right, so `touched` has its new
# value in later assignments. CLOCK is the beginning of the statement, which may have waited for the row since. Then the
# row's moment counts, or the lease is shorter. After too long a wait, nothing is granted: the client may have gone.
_ACQUIRE = f"""
UPDATE celery_locks_lock SET touched = greatest(touched, CLOCK),
  fence = LAST_INSERT_ID(greatest(fence + 1, touched)), token = ?, owner = ?, permits = ?, most = ?,
  since = touched, deadline = touched + ?, forget_at = greatest(forget_at, {_FORGET.format("deadline")})
WHERE name = ? AND crowd = 0 AND token = '' AND ended <> ? AND touched <= CLOCK + {SET_BACK}
  AND timestampdiff(MICROSECOND, now(6), sysdate(6)) < ?
"""
# `raise_clock` can't lock a row that does not exist yet. So this statement shares the row of `meta` before it reads the
# clock there.
_ACQUIRE_NEW = f"""
INSERT INTO celery_locks_lock
  (name, touched, fence, watched, token, owner, permits, most, since, deadline, forget_at, crowd)
SELECT name, now, LAST_INSERT_ID(fence), 0, token, owner, permits, most, now, now + ttl,
  {_FORGET.format("now + ttl")}, 0 FROM (
  SELECT now, greatest(now, last + 1) AS fence, ? AS token, ? AS owner, ? AS permits, ? AS most, ? AS ttl, ? AS name
  FROM (
    SELECT {MySQL.server_time} + coalesce(max(ahead), 0) AS now, coalesce(max(last_fencing_token), 0) AS last
    FROM celery_locks_meta LOCK IN SHARE MODE
  ) meta
) claim WHERE NOT EXISTS (SELECT 1 FROM celery_locks_lock l WHERE l.name = claim.name)
  AND timestampdiff(MICROSECOND, now(6), sysdate(6)) < ?
"""
_RELEASE = f"""
UPDATE celery_locks_lock SET touched = greatest(touched, CLOCK), ended = token, token = '', deadline = 0
WHERE name = ? AND token = ? AND deadline > greatest(touched, CLOCK) AND touched <= CLOCK + {SET_BACK}
"""
_KEEP = (
    "INSERT INTO celery_locks_value (name, text, deadline) SELECT name, ?, touched + ? FROM celery_locks_lock "
    "WHERE name = ? ON DUPLICATE KEY UPDATE text = VALUES(text), deadline = VALUES(deadline)"
)

#: The longest wait without a request that keeps the place: a third of the time for which a place is kept.
LONGEST_UNKEPT_WAIT_SECONDS = 3.0


class MySQLStore(ServerStore):
    """Leases in MySQL or MariaDB.

    Args:
        address: The address of the server.
    """

    keeps_places = True

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._turns_here = os.getpid(), Turns(self._database)

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        base.check_numbers(claim)
        if not (claim.adopts or claim.replaces or claim.task_id or claim.token in self._in_line):
            timeout = self._database.timeout_for(claim.ttl)
            granted, repeated = self._database.single(lambda db: (_acquire(db, claim), db.repeated), timeout)
            if granted is not None:
                self._sweeper.sweep_if_due()
                return granted
            return self._acquire_in_line(claim, line_up, repeated)
        return super().acquire(claim, line_up)

    def _acquire_in_line(self, claim: Claim, line_up: float | None, repeated: bool = False) -> Granted | Refused:
        answer = super()._acquire_in_line(claim, line_up, repeated)
        if line_up is not None and isinstance(answer, Refused) and answer.position is not None:
            self._turns.stands(claim.name, claim.token, line_up)
        else:
            self._turns.gone(claim.token)
        return answer

    def leave(self, name: str, token: str) -> None:
        self._turns.gone(token)
        super().leave(name, token)
        self._turns.query_soon(name)

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        released = super().release(name, token, value)
        self._turns.query_soon(name)
        return released

    def end_run(
        self, name: str, token: str, end: RunEndName, *, broker: str, value: Value | None = None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        ended = super().end_run(name, token, end, broker=broker, value=value)
        self._turns.query_soon(name)
        return ended

    def shrink(self, name: str, token: str, permits: int) -> bool:
        held = super().shrink(name, token, permits)
        self._turns.query_soon(name)
        return held

    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        released = super().force_release(name, token)
        self._turns.query_soon(name)
        return released

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        try:
            return self._turns.wait(places, timeout)
        except RuntimeError:  # the system has no thread left; the waiters have to keep their places themselves
            return super().wait_any(places, min(timeout, LONGEST_UNKEPT_WAIT_SECONDS))

    def close(self) -> None:
        self._turns.close()
        super().close()

    @property
    def _turns(self) -> Turns:
        if self._turns_here[0] != os.getpid():  # after a fork, the thread is the parent's
            self._turns_here = os.getpid(), Turns(self._database)
        return self._turns_here[1]

    def _release(self, name: str, token: str, value: Value | None) -> bool:
        released, repeated = self._release_alone(name, token, value)

        def work(session: Session) -> bool:
            session.repeated |= repeated
            return base.release(session, name, token, value)

        return released or self._write(name, work)

    def _end_run(
        self, name: str, token: str, end: RunEndName, broker: str, value: Value | None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        released, repeated = self._release_alone(name, token, value)

        def work(session: Session) -> tuple[bool, tuple[Dispatch, ...]]:
            session.repeated |= repeated
            return base.end_run(session, name, token, end, broker, value)

        return (True, ()) if released else self._write(name, work)

    def _release_alone(self, name: str, token: str, value: Value | None) -> tuple[bool, bool]:
        """Release a lease in its lock's row. Return whether it was there, and whether the request was a repeat."""

        def work(connection: Connection) -> tuple[bool, bool]:
            released = connection.execute(_RELEASE, (name, token)).rowcount > 0
            if released and value is not None:
                connection.execute(_KEEP, (value.text, microseconds(value.keep), name))
            return released, connection.repeated

        return self._database.single(work) if value is None else self._database.transaction(work)


def _acquire(connection: Connection, claim: Claim) -> Granted | None:
    """Acquire a free lock without waiters. Otherwise change nothing, and return ``None``."""
    if claim.permits > claim.limit:
        return None
    whose = (claim.token, claim.owner, claim.permits, claim.limit, microseconds(claim.ttl), claim.name)
    patience = microseconds(connection.timeout * PATIENCE)
    answer = connection.execute(_ACQUIRE, (*whose, claim.token, patience))
    if not answer.rowcount:
        try:
            answer = connection.execute(_ACQUIRE_NEW, (*whose, patience))
        except connection.dbapi.IntegrityError:  # another process has just inserted the row
            return None
    return Granted(answer.last_id) if answer.rowcount else None
