"""The rules of leases in tables: holders and the line of waiters."""

from __future__ import annotations

from collections.abc import Sequence

from celery_locks.errors import LossReason
from celery_locks.stores.sql.session import MOST_BEFORE, Session, microseconds
from celery_locks.stores.types import (
    MOST_HOLDERS,
    MOST_TAKEN,
    TAKEN_KNOWN_SECONDS,
    Claim,
    Granted,
    Holder,
    Refused,
    Renewal,
)

# The facts that usually decide about a claim: its token's fencing token, the permits in use, the first in line.
_FACTS_FOR_CLAIM = (
    "SELECT (SELECT fencing_token FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?), "
    "(SELECT coalesce(sum(permits), 0) FROM celery_locks_holder WHERE name = ? AND deadline > ?), "
    "(SELECT token FROM celery_locks_waiter WHERE name = ? AND deadline > ? ORDER BY id LIMIT 1)"
)


class Leases:
    """The leases at one moment, within one transaction."""

    def __init__(self, session: Session) -> None:
        self._db = session
        self._now = session.now

    def acquire(self, claim: Claim, line_up: float | None) -> Granted | Refused:
        values = (claim.name, claim.token, self._now, claim.name, self._now, claim.name, self._now)
        mine, used, head = self._db.execute(_FACTS_FOR_CLAIM, values).fetchone()
        if mine is not None:
            self.renew(Renewal(claim.name, claim.token, claim.ttl))
            return Granted(int(mine))
        if (
            claim.token == self._db.released and not self._db.repeated
        ):  # this acquire arrived late, after its lease had ended
            replaced = self._why_taken(claim.name, claim.token) == "replaced"
            return self.refused(claim.name, claim.token, claim.ttl)._replace(replaced=replaced)
        if claim.adopts or claim.replaces or claim.task_id:
            return self._acquire_for_task_or_takeover(claim, line_up, int(used), head)
        return self._acquire(claim, line_up, int(used), head)

    def _acquire(self, claim: Claim, line_up: float | None, used: int, head: str | None) -> Granted | Refused:
        if used + claim.permits <= claim.limit and (head is None or head == claim.token):
            if head is not None:
                self.leave(claim.name, claim.token)
            return self.grant(claim)
        full = line_up is not None and not self._line_up(claim, line_up)
        return self.refused(claim.name, claim.token, claim.ttl)._replace(full=full)

    def _acquire_for_task_or_takeover(
        self, claim: Claim, line_up: float | None, used: int, head: str | None
    ) -> Granted | Refused:
        """Acquire for a claim that adopts a lease, replaces the holders, or can be withdrawn by its task."""
        name = claim.name
        # A repeated acquire must not take the lock back from a newer claim that has replaced it meanwhile.
        taken = (claim.adopts, claim.token if claim.replaces else "")
        if any(token and self._why_taken(name, token) == "replaced" for token in taken):
            return self.refused(name, claim.token, claim.ttl)._replace(replaced=True)
        if claim.adopts and self._adopt(claim, used):
            answer: Granted | Refused = self.grant(claim)
        elif claim.replaces and claim.permits <= claim.limit:
            self._replace(claim)
            answer = self.grant(claim)
        else:
            answer = self._acquire(claim, line_up, used, head)
        if claim.task_id and isinstance(answer, Granted):
            row = {"task": claim.task_id, "name": name, "token": claim.token, "deadline": self._db.after(claim.ttl)}
            self._db.put("task", ("task",), row)
        return answer

    def _adopt(self, claim: Claim, used: int) -> bool:
        """End the lease that a claim adopts, if it is held and further permits are within the limit."""
        query = "SELECT permits FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?"
        row = self._db.execute(query, (claim.name, claim.adopts, self._now)).fetchone()
        if row is None or (claim.permits > row[0] and used - row[0] + claim.permits > claim.limit):
            return False
        self._db.execute("DELETE FROM celery_locks_holder WHERE name = ? AND token = ?", (claim.name, claim.adopts))
        self.leave(claim.name, claim.token)
        return True

    def _replace(self, claim: Claim) -> None:
        """Take leases from the earliest holders until there are enough permits."""
        query = (
            "SELECT token, permits, deadline FROM celery_locks_holder "
            "WHERE name = ? AND deadline > ? ORDER BY fencing_token LIMIT 1000"
        )
        for token, _, deadline in self._db.execute(query, (claim.name, self._now)).fetchall():
            if self.used(claim.name) + claim.permits <= claim.limit:
                return
            self._take_away(claim.name, token, deadline, "replaced")

    def _take_away(self, name: str, token: str, deadline: int, why: LossReason) -> None:
        """End a lease by force, and notify its process."""
        self._db.execute("DELETE FROM celery_locks_holder WHERE name = ? AND token = ?", (name, token))
        self._db.released = token
        row = {"name": name, "token": token, "why": why, "deadline": deadline + microseconds(TAKEN_KNOWN_SECONDS)}
        self._db.put("taken", ("name", "token"), row)
        self._db.notify_lost([token])

    def _why_taken(self, name: str, token: str) -> LossReason | None:
        """Return why a lease was taken by force, ``None`` when it was not."""
        query = "SELECT why FROM celery_locks_taken WHERE name = ? AND token = ? AND deadline > ?"
        row = self._db.execute(query, (name, token, self._now)).fetchone()
        why: LossReason | None = None if row is None else row[0]
        return why

    def leave(self, name: str, token: str) -> None:
        self._db.execute("DELETE FROM celery_locks_waiter WHERE name = ? AND token = ?", (name, token))

    def may_go(self, name: str, token: str) -> bool:
        """Return whether a token is first in line and finds permits; without a line, whether the lock is free."""
        head, used = self.head(name), self.used(name)
        if head is None:
            return used == 0
        first, permits, limit = head
        return first == token and used + permits <= limit

    def renew(self, renewal: Renewal) -> LossReason | None:
        name, token = renewal.name, renewal.token
        deadline = self._db.after(renewal.ttl)
        self._db.need_until(deadline)
        query = (
            "UPDATE celery_locks_holder SET deadline = CASE WHEN deadline > ? THEN deadline ELSE ? END "
            "WHERE name = ? AND token = ? AND deadline > ?"
        )
        if self._db.execute(query, (deadline, deadline, name, token, self._now)).rowcount:
            return None
        return self.why_lost(name, token)

    def why_lost(self, name: str, token: str) -> LossReason:
        """Return why a lease that could not be renewed is lost."""
        leases, values = self._db.leases_of(name)
        if self._db.execute(f"SELECT 1 FROM {leases} AND token = ?", (*values, token)).fetchone():
            return "expired"
        return self._why_taken(name, token) or ("stolen" if self.used(name) else "deleted")

    def release(self, name: str, token: str) -> bool:
        query = "DELETE FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?"
        released = self._db.execute(query, (name, token, self._now)).rowcount > 0
        if released:
            self._db.released = token
        return released

    def shrink(self, name: str, token: str, permits: int) -> bool:
        """Reduce the permits of a lease, as `Store.shrink` does."""
        query = (
            "UPDATE celery_locks_holder SET permits = CASE WHEN permits > ? THEN ? ELSE permits END "
            "WHERE name = ? AND token = ? AND deadline > ?"
        )
        return self._db.execute(query, (permits, permits, name, token, self._now)).rowcount > 0

    def last_fencing_token(self, name: str) -> int:
        """Return the fencing token of the latest holder, 0 if there is none."""
        query = "SELECT coalesce(max(fencing_token), 0) FROM celery_locks_holder WHERE name = ? AND deadline > ?"
        return int(self._db.execute(query, (name, self._now)).fetchone()[0])

    def force_release(self, name: str, token: str, last: int) -> tuple[Holder, ...]:
        """Release by force the holders whose fencing token is at most ``last``."""
        holders = tuple(holder for holder in self.holders(name, token) if holder.fencing_token <= last)
        if token:
            for holder in holders:
                deadline = self._now + microseconds(holder.expires_in)
                self._take_away(name, token, deadline, "force_released")
        elif holders:
            self._take_all(name, last)
        return holders

    def _take_all(self, name: str, last: int) -> None:
        """End leases of a lock by force. Record the reason for the first `MOST_TAKEN` of them."""
        living = "celery_locks_holder h WHERE h.name = ? AND h.fencing_token <= ? AND h.deadline > ?"
        which = (name, last, self._now)
        order = "ORDER BY h.fencing_token LIMIT ?"
        self._db.execute(
            "INSERT INTO celery_locks_taken (name, token, why, deadline) "
            f"SELECT h.name, h.token, ?, h.deadline + ? FROM {living} AND NOT EXISTS "
            f"(SELECT 1 FROM celery_locks_taken t WHERE t.name = h.name AND t.token = h.token) {order}",
            ("force_released", microseconds(TAKEN_KNOWN_SECONDS), *which, MOST_TAKEN),
        )
        first = self._db.execute(f"SELECT h.token FROM {living} {order}", (*which, MOST_TAKEN))
        tokens = [token for (token,) in first]
        self._db.notify_lost(tokens)
        self._db.released = tokens[-1]
        query = "DELETE FROM celery_locks_holder WHERE name = ? AND fencing_token <= ? AND deadline > ?"
        self._db.execute(query, which)

    def holders(self, name: str, only: str = "") -> tuple[Holder, ...]:
        """Return the holders of a lock, or only the one with a token."""
        leases, values = self._db.leases_of(name)
        if only:
            leases, values = f"{leases} AND token = ?", (*values, only)
        query = (
            f"SELECT owner, fencing_token, permits, since, deadline, token, most FROM {leases} "
            "AND deadline > ? ORDER BY fencing_token LIMIT ?"
        )
        now = self._now
        rows = self._db.execute(query, (*values, now, MOST_HOLDERS))
        return tuple(
            Holder(owner, fencing_token, permits, (now - since) / 1e6, (deadline - now) / 1e6, token, most)
            for owner, fencing_token, permits, since, deadline, token, most in rows
        )

    def held_already(self, claim: Claim) -> int | None:
        query = "SELECT fencing_token, deadline FROM celery_locks_holder WHERE name = ? AND token = ? AND deadline > ?"
        row = self._db.execute(query, (claim.name, claim.token, self._now)).fetchone()
        if row is None:
            return None
        self.renew(Renewal(claim.name, claim.token, claim.ttl))
        return int(row[0])

    def used(self, name: str) -> int:
        leases, values = self._db.leases_of(name)
        query = f"SELECT coalesce(sum(permits), 0) FROM {leases} AND deadline > ?"
        return int(self._db.execute(query, (*values, self._now)).fetchone()[0])

    def head(self, name: str) -> tuple[str, int, int] | None:
        """Return the first waiter in line: token, permits, limit."""
        query = (
            "SELECT token, permits, most FROM celery_locks_waiter WHERE name = ? AND deadline > ? ORDER BY id LIMIT 1"
        )
        head: tuple[str, int, int] | None = self._db.execute(query, (name, self._now)).fetchone()
        return head

    def grant(self, claim: Claim) -> Granted:
        fencing_token = self._db.next_fencing_token()
        self._db.need_until(self._db.after(claim.ttl))
        row = {
            "name": claim.name,
            "token": claim.token,
            "owner": claim.owner,
            "permits": claim.permits,
            "most": claim.limit,
            "fencing_token": fencing_token,
            "since": self._now,
            "deadline": self._db.after(claim.ttl),
        }
        self._db.put("holder", ("name", "token"), row)  # an expired row of the same token may still exist
        return Granted(fencing_token)

    def _line_up(self, claim: Claim, seconds: float) -> bool:
        """Put a token in line, or keep its place for longer. Return whether there is room."""
        self._db.execute(  # an expired place is lost: the token goes to the end of the line
            "DELETE FROM celery_locks_waiter WHERE name = ? AND token = ? AND deadline <= ?",
            (claim.name, claim.token, self._now),
        )
        query = "SELECT deadline FROM celery_locks_waiter WHERE name = ? AND token = ?"
        known = self._db.execute(query, (claim.name, claim.token)).fetchone()
        if known is None and claim.max_waiters and self.waiters(claim.name, claim.max_waiters) >= claim.max_waiters:
            return False
        deadline = self._db.after(seconds)  # a place is never shortened
        self.stand(self.next_number(claim.name), claim, max(deadline, known[0]) if known else deadline, keep=("id",))
        return True

    def waiters(self, name: str, most: int) -> int:
        """Return how many waiters stand in line, counted up to ``most``."""
        line = "SELECT 1 AS one FROM celery_locks_waiter WHERE name = ? AND deadline > ? LIMIT ?"
        return int(self._db.execute(f"SELECT count(*) FROM ({line}) w", (name, self._now, most)).fetchone()[0])

    def stand(self, number: int, claim: Claim, deadline: int, keep: Sequence[str] = ()) -> None:
        """Put a token in line at a place. With ``keep=("id",)`` a token in line keeps its place."""
        row = {
            "id": number,
            "name": claim.name,
            "token": claim.token,
            "permits": claim.permits,
            "most": claim.limit,
            "deadline": deadline,
        }
        self._db.put("waiter", ("name", "token"), row, keep)

    def next_number(self, name: str) -> int:
        """Return a place behind all others, also behind those of tickets that are not in line now."""
        query = (
            "SELECT max(id) FROM celery_locks_waiter WHERE name = ? "
            "UNION ALL SELECT max(number) FROM celery_locks_ticket WHERE name = ?"
        )
        last = max(row[0] or 0 for row in self._db.execute(query, (name, name)))
        return max(last + 1, self._now)

    def refused(self, name: str, token: str, otherwise: float) -> Refused:
        """Return the refusal of a token. ``otherwise``: seconds until the next try, if no deadline is known."""
        position, before = self._place(name, token)
        deadline = before or self.next_deadline(name) or self._db.after(otherwise)
        return Refused(self.holders(name), (deadline - self._now) / 1e6, position)

    def _place(self, name: str, token: str) -> tuple[int | None, int | None]:
        """Return the number of waiters before a token, up to `MOST_BEFORE`, and the deadline of the last of them."""
        line = "FROM celery_locks_waiter WHERE name = ? AND deadline > ?"
        mine = self._db.execute(f"SELECT id {line} AND token = ?", (name, self._now, token)).fetchone()
        if mine is None:
            return None, None
        before = (name, self._now, mine[0])
        first = f"SELECT 1 AS one {line} AND id < ? ORDER BY id DESC LIMIT {MOST_BEFORE}"
        position = self._db.execute(f"SELECT count(*) FROM ({first}) w", before).fetchone()[0]
        last = self._db.execute(f"SELECT deadline {line} AND id < ? ORDER BY id DESC LIMIT 1", before).fetchone()
        return position, last and last[0]

    def next_deadline(self, name: str) -> int | None:
        """Return the earliest deadline of the holders; without holders, that of the first place in line."""
        leases, values = self._db.leases_of(name)
        query = f"SELECT min(deadline) FROM {leases} AND deadline > ?"
        first = self._db.execute(query, (*values, self._now)).fetchone()[0]
        if first is None:
            query = "SELECT deadline FROM celery_locks_waiter WHERE name = ? AND deadline > ? ORDER BY id LIMIT 1"
            first = (self._db.execute(query, (name, self._now)).fetchone() or (None,))[0]
        return None if first is None else int(first)
