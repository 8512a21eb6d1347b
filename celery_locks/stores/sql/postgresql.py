"""The store of PostgreSQL: one round trip for each common step, and notices for waiters."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Sequence
from math import inf
from typing import Literal

from celery_locks._runtime.clock import monotonic
from celery_locks.errors import LossReason
from celery_locks.stores.loss_feed import LossFeed
from celery_locks.stores.parking import Dispatch, RunEndName
from celery_locks.stores.sql import stored_functions
from celery_locks.stores.sql.address import Address
from celery_locks.stores.sql.base import check_numbers
from celery_locks.stores.sql.function_texts import PATIENCE
from celery_locks.stores.sql.listener import DUE, DUE_QUERY_SECONDS, Listener
from celery_locks.stores.sql.loss_channel import LossChannel
from celery_locks.stores.sql.session import microseconds
from celery_locks.stores.sql.store import (
    FIRST_QUERY_PAUSE_SECONDS,
    LONGEST_QUERY_PAUSE_SECONDS,
    SHORTEST_DUE_PAUSE_SECONDS,
    ServerStore,
)
from celery_locks.stores.sql.subscriptions import Subscription, Subscriptions, notice
from celery_locks.stores.types import Claim, Granted, Refused, Renewal, Value

# For each place, from one state of the tables: whether it is its turn, in how many microseconds that may change without
# a notice, and whether the token stands in line.
_TURNS = """
SELECT place.token,
  CASE WHEN head.token IS NULL THEN used = 0 ELSE head.token = place.token AND used + head.permits <= head.most END,
  coalesce(ends, head.deadline) - now,
  EXISTS (SELECT FROM celery_locks_waiter WHERE name = place.name AND token = place.token AND deadline > now)
FROM (
  SELECT w.name, w.token, l.permits, l.deadline, greatest(l.touched, CLOCK) AS now
  FROM unnest(?::text[], ?::text[]) AS w (name, token) LEFT JOIN celery_locks_lock l ON l.name = w.name
) place
LEFT JOIN LATERAL (
  SELECT token, permits, most, deadline FROM celery_locks_waiter
  WHERE name = place.name AND deadline > now ORDER BY id LIMIT 1
) head ON true
CROSS JOIN LATERAL (
  SELECT coalesce(sum(h.permits), 0) AS used, min(h.deadline) AS ends FROM (
    SELECT permits, deadline FROM celery_locks_holder WHERE name = place.name
    UNION ALL SELECT place.permits, place.deadline
  ) h WHERE h.deadline > now
) held
"""
# The rule of `Leases.why_lost`, for many leases in one round trip.
_WHY_LOST = """
SELECT lost.name, lost.token, CASE
  WHEN holder = lost.token OR EXISTS (
    SELECT FROM celery_locks_holder WHERE name = lost.name AND token = lost.token
  ) THEN 'expired'
  ELSE coalesce(
    (SELECT why FROM celery_locks_taken WHERE name = lost.name AND token = lost.token AND deadline > now),
    CASE WHEN lost.deadline > now OR EXISTS (
      SELECT FROM celery_locks_holder WHERE name = lost.name AND deadline > now
    ) THEN 'stolen' ELSE 'deleted' END
  ) END
FROM (
  SELECT w.name, w.token, l.token AS holder, l.deadline, greatest(l.touched, CLOCK) AS now
  FROM unnest(?::text[], ?::text[]) AS w (name, token) LEFT JOIN celery_locks_lock l ON l.name = w.name
) lost
"""
_WATCH = "UPDATE celery_locks_lock SET watched = greatest(watched, CLOCK + ?) WHERE name = ANY(?)"


class PostgreSQLStore(ServerStore):
    """Leases in PostgreSQL.

    Args:
        address: Where.
    """

    wakes = notices = True

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._listens_at = address.listener()
        self.wakes = self.notices = self._listens_at is not None
        self._listening: tuple[int, Listener] | None = None

    # --- Leases, each step in one round trip ---

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        if claim.adopts or claim.replaces or claim.task_id:
            return super().acquire(claim, line_up)
        place = None if line_up is None else self._subscribe(claim.token)  # from now on no notice is missed
        answer: Granted | Refused | None = None
        try:
            answer = self._acquire(claim, line_up)
        finally:
            if place is not None and isinstance(answer, Refused):
                place.until = monotonic() + answer.retry_in
            else:
                self._unsubscribe(claim.token)
        self._sweeper.sweep_if_due()
        return answer

    def _acquire(self, claim: Claim, line_up: float | None) -> Granted | Refused:
        check_numbers(claim)
        timeout = self._database.timeout_for(claim.ttl)
        return self._database.single(lambda db: stored_functions.acquire(db, claim, line_up), timeout)

    def leave(self, name: str, token: str) -> None:
        self._unsubscribe(token)
        self._in_line.discard(token)
        if not self._database.single(lambda db: stored_functions.leave(db, name, token)):
            super().leave(name, token)

    def _release(self, name: str, token: str, value: Value | None) -> bool:
        released = self._database.single(lambda db: stored_functions.release(db, name, token, value))
        return super()._release(name, token, value) if released is None else released

    def _end_run(
        self, name: str, token: str, end: RunEndName, broker: str, value: Value | None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        released = self._database.single(lambda db: stored_functions.release(db, name, token, value))
        return super()._end_run(name, token, end, broker, value) if released is None else (released, ())

    def _renew(self, renewals: Sequence[Renewal], timeout: float) -> list[LossReason | Literal["blocked"] | None]:
        renewed, blocked = self._database.single(lambda db: stored_functions.renew(db, renewals, 0.0), timeout)
        lost = [each for each in renewals if (each.name, each.token) not in renewed | blocked]
        answers: dict[tuple[str, str], LossReason | Literal["blocked"] | None] = dict.fromkeys(blocked, "blocked")
        answers.update(self._why_lost(lost, timeout) if lost else {})
        return [answers.get((each.name, each.token)) for each in renewals]

    def _renew_waiting(self, renewal: Renewal, timeout: float) -> LossReason | None:
        patience = timeout * PATIENCE
        renewed, _ = self._database.single(lambda db: stored_functions.renew(db, [renewal], patience), timeout)
        return None if renewed else self._why_lost([renewal], timeout)[renewal.name, renewal.token]

    def _why_lost(self, lost: Sequence[Renewal], timeout: float) -> dict[tuple[str, str], LossReason]:
        encode = self._database.dialect.encode
        values = ([encode(each.name) for each in lost], [encode(each.token) for each in lost])
        rows = self._database.single(lambda db: db.execute(_WHY_LOST, values).fetchall(), timeout)
        return {(name, token): reason for name, token, reason in rows}

    # --- Waiting ---

    def wait(self, name: str, token: str, timeout: float) -> None:
        self.wait_any([(name, token)], timeout)

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        listener = self._listener()
        if listener is None:
            return super().wait_any(places, timeout)
        give_up, pause = monotonic() + timeout, FIRST_QUERY_PAUSE_SECONDS
        kept = listener.subscriptions.kept
        known = {token: kept(token) or self._subscription_of_watcher(name, token) for name, token in places}
        with listener.expecting(known.values()) as event:
            while True:
                event.clear()
                turns = self._turns(listener, places, known, timeout)
                left = give_up - monotonic()
                if turns or left <= 0:
                    return turns
                if listener.working:
                    until = min(each.until for each in known.values())
                    event.wait(min(left, max(0.0, until - monotonic())))
                else:
                    event.wait(min(left, random.uniform(pause / 2, pause)))
                    pause = min(pause * 1.5, LONGEST_QUERY_PAUSE_SECONDS)

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        listener = self._listener()
        if listener is None:
            super().await_due(prefix, broker, timeout)
            return
        give_up = monotonic() + timeout
        notices = {DUE, *(self._notice(DUE, each) for each in (broker, ""))}  # tickets of older versions have no broker
        with listener.expecting([Subscription(*notices)]) as event:
            while (due_in := self._due_in(prefix, broker)) > 0 and (left := give_up - monotonic()) > 0:
                longest = DUE_QUERY_SECONDS if listener.working else LONGEST_QUERY_PAUSE_SECONDS
                event.wait(min(left, longest, max(due_in, SHORTEST_DUE_PAUSE_SECONDS)))
                event.clear()

    def _turns(
        self, listener: Listener, places: Sequence[tuple[str, str]], known: dict[str, Subscription], timeout: float
    ) -> list[str]:
        """Return the tokens whose turn it may be. Query if notices may be missed or a deadline has passed."""
        if notified := [token for token, each in known.items() if each.notified]:
            return notified
        now = monotonic()
        unsure = [place for place in places if not known[place[1]].sure or known[place[1]].until <= now]
        for _, token in unsure:
            listener.subscriptions.begin(known[token])
        return self._query_turns(unsure, known, timeout) if unsure else []

    def _query_turns(
        self, places: Sequence[tuple[str, str]], known: dict[str, Subscription], timeout: float
    ) -> list[str]:
        seen = self._turns_by_token(places)
        watchers = [(name, token) for name, token in places if not seen[token][2] and not seen[token][0]]
        if watchers:  # the next release notifies them
            values = (microseconds(timeout), [self._database.dialect.encode(name) for name, _ in watchers])
            self._database.single(lambda db: db.execute(_WATCH, values).rowcount)
            seen.update(self._turns_by_token(watchers))
        for token, (_, left, _) in seen.items():
            known[token].until = monotonic() + left
        return [token for token, (turn, _, _) in seen.items() if turn]

    def _turns_by_token(self, places: Sequence[tuple[str, str]]) -> dict[str, tuple[bool, float, bool]]:
        """Return by token: whether it may be its turn, seconds until that may change, whether it stands in line."""
        encode = self._database.dialect.encode
        values = ([encode(name) for name, _ in places], [encode(token) for _, token in places])
        rows = self._query_for_waiters(lambda: self._database.single(lambda db: db.execute(_TURNS, values).fetchall()))
        return {token: (turn, inf if left is None else left / 1e6, in_line) for token, turn, left, in_line in rows}

    def loss_feed(self, name: str, process: str) -> LossFeed:
        if self._listens_at is None:
            return super().loss_feed(name, process)
        return LossChannel(self._listens_at, self._database.dialect.loss_channel(process))

    # --- Notices ---

    def _listener(self) -> Listener | None:
        """Return the listener of this process, ``None`` if the store does not listen."""
        if self._listens_at is None:
            return None
        if self._listening is None or self._listening[0] != os.getpid():
            channel = self._database.dialect.channel
            self._listening = os.getpid(), Listener(self._listens_at, self._database, channel)
        return self._listening[1]

    def _subscriptions(self) -> Subscriptions | None:
        """Return the subscriptions of this process, ``None`` if it has not waited yet."""
        listening = self._listening
        return listening[1].subscriptions if listening is not None and listening[0] == os.getpid() else None

    def _subscribe(self, token: str) -> Subscription | None:
        """Subscribe a token that is about to be acquired, if notices arrive."""
        subscriptions = self._subscriptions()
        if subscriptions is None or not subscriptions.hearing:
            return None
        place = subscriptions.keep(token, self._notice("token", token))
        subscriptions.begin(place)
        return place

    def _unsubscribe(self, token: str) -> None:
        subscriptions = self._subscriptions()
        if subscriptions is not None:
            subscriptions.drop(token)

    def _subscription_of_watcher(self, name: str, token: str) -> Subscription:
        """Return a subscription for a token that may not stand in line."""
        return Subscription(self._notice("token", token), self._notice("name", name))

    def _notice(self, kind: str, text: str) -> str:
        return notice(kind, self._database.dialect.encode(text))

    def close(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None and listening[0] == os.getpid():
            listening[1].close()
        if self._listens_at is not None:
            self._listens_at.close()
        super().close()
