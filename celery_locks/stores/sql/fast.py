"""PostgreSQL: a free lock is taken, and given back, by one statement; `locked` does all the rest.

A statement sees what was there when it began, and may then wait for a row. So all that these decide by is in the one
row that they wait for, which they see as it is afterwards: `busy` and `line` of the lock's row. Where those say that
there may be more to look after, nothing is done and the long way is taken.
"""

from __future__ import annotations

from celery_locks.stores.base import Claim
from celery_locks.stores.sql.database import Connection
from celery_locks.stores.sql.session import microseconds

_TAKE = """
WITH taken AS (
  INSERT INTO celery_locks_lock AS l (name, touched, fence, busy, line, watched, sole, released, forget_at)
  VALUES (?, CLOCK, greatest((SELECT max(last_fencing_token) FROM celery_locks_meta) + 1, CLOCK), CLOCK + ?, 0, 0, ?,
    '', {forget})
  ON CONFLICT (name) DO UPDATE SET touched = greatest(l.touched, CLOCK), fence = greatest(l.fence + 1, CLOCK),
    busy = greatest(l.touched, CLOCK) + ?, sole = excluded.sole, forget_at = {forget}
  WHERE l.busy <= CLOCK AND l.line <= CLOCK
  RETURNING fence, touched, busy
)
INSERT INTO celery_locks_holder (name, token, owner, permits, most, fencing_token, since, deadline)
SELECT ?, ?, ?, ?, ?, fence, touched, busy FROM taken
ON CONFLICT (name, token) DO UPDATE SET owner = excluded.owner, permits = excluded.permits, most = excluded.most,
  fencing_token = excluded.fencing_token, since = excluded.since, deadline = excluded.deadline
RETURNING fencing_token
"""
_GIVE_BACK = """
WITH free AS (
  UPDATE celery_locks_lock SET touched = greatest(touched, CLOCK), busy = 0, sole = '',
    released = CASE WHEN busy > greatest(touched, CLOCK) THEN ? ELSE released END
  WHERE name = ? AND sole = ? AND line <= CLOCK AND watched <= CLOCK
  RETURNING touched
)
DELETE FROM celery_locks_holder h USING free WHERE h.name = ? AND h.token = ? RETURNING h.deadline > free.touched
"""


def may_be_taken(claim: Claim) -> bool:
    """Whether a claim asks for no more than a free lock."""
    return claim.permits <= claim.limit and not (claim.adopts or claim.replaces or claim.task_id)


def take(connection: Connection, claim: Claim) -> int | None:
    """Takes a lock that nobody holds and nobody waits for.

    Returns:
        The fencing token; ``None`` where nothing was done.
    """
    ttl, query = microseconds(claim.ttl), _TAKE.replace("{forget}", connection.dialect.forget_at)
    holder = (claim.name, claim.token, claim.owner, claim.permits, claim.limit)
    row = connection.execute(query, (claim.name, ttl, claim.token, ttl, *holder)).fetchone()
    return None if row is None else int(row[0])


def give_back(connection: Connection, name: str, token: str, call: str) -> bool | None:
    """Gives a lease back that `take` took, where nobody waits and nothing else has happened to the lock since.

    Args:
        connection: Where.
        name: The lock.
        token: The lease's owner token.
        call: What this release is called.

    Returns:
        Whether its deadline had not passed; ``None`` where nothing was done.
    """
    row = connection.execute(_GIVE_BACK, (call, name, token, name, token)).fetchone()
    return None if row is None else bool(row[0])
