"""``redlock://``: leases held by a majority of independent Redis or Valkey servers.

The algorithm is the one that Redis' documentation describes as Redlock (Salvatore Sanfilippo, "Distributed Locks with
Redis"): a claim goes to all servers at once, each with a short time to answer; it holds where more than half have
granted it before its time is over, less what clocks may drift; else it is taken back everywhere. Two things are added:

- *Fencing tokens.* The greatest of those that a majority gave becomes that of the lease, and is remembered by a
  majority before the lease counts. Every later majority shares a server with that one, which grants only after its
  earlier holder has gone, and then with a greater token.
- *Mending.* A renewal that a majority confirms puts the lease back onto servers that have lost it.
- *Nothing is taken by an attempt that fails.* A claim that adopts or replaces a lease first asks who holds the lock. It
  goes only to servers that answered, if they are a majority. At each it displaces the lease of the holder that the
  server named, and of no other. The server puts that lease back, in one step, when the claim is released before it is
  settled. A claim is settled when a majority has granted and confirmed it.

There is no line, and nothing over all locks: what one server knows of that is not what a majority agreed on.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast
from weakref import WeakSet

from celery_locks._runtime import threads
from celery_locks._runtime.clock import system_clock
from celery_locks.errors import LockConfigError, LossReason, StoreUnavailable
from celery_locks.stores.base import Store
from celery_locks.stores.check_results import merge
from celery_locks.stores.parallel import ask, end_idle, start
from celery_locks.stores.redis.redlock.attempt import Attempt, Said
from celery_locks.stores.redis.redlock.member import Member
from celery_locks.stores.redis.wire.client import TIMEOUT
from celery_locks.stores.redis.wire.connections import patient_ttl, timeout_for
from celery_locks.stores.redis.wire.urls import each_server
from celery_locks.stores.trial import all_of
from celery_locks.stores.types import MOST_HOLDERS, Claim, Granted, Holder, Refused, Renewal, Value

T = TypeVar("T")

#: By how much a server's clock may run faster than this machine's, and what is added for clocks that tick coarsely.
DRIFT, TICK = 0.01, 0.002
#: Seconds between two tries of a waiter: of random length, or those who stop each other would go on doing so.
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.1
#: How long the tried write on one of the servers may take, in seconds.
TRIAL_TIMEOUT_SECONDS = 5.0
#: How often a claim that replaces is made where the holder changes meanwhile.
TRIES = 3
#: How many tries whose servers have not all answered yet, or that are not all taken back, are kept in mind.
MOST_KEPT = 10_000


class Redlock(Store):
    """Leases held by a majority of independent servers.

    Args:
        servers: A URL that names three or more, or their URLs (or clients of redis-py or valkey-py).
        restart_delay: How long a server must be up before its word counts, in seconds; in a URL the parameter
            ``restart_delay``. A server that lost what it knew when it restarted may else grant what is still held. With
            the longest ttl of all leases here it can't.

    Raises:
        LockConfigError: There are fewer than three servers, one is named twice, or a setting is wrong.
    """

    semaphores = False
    fair = False

    def __init__(self, servers: str | Sequence[Any], *, restart_delay: float | None = None) -> None:
        if isinstance(servers, str):
            servers, own = each_server(servers, ("restart_delay",))
            restart_delay = own.get("restart_delay", 0) if restart_delay is None else restart_delay  # type: ignore[assignment]
        texts = [server for server in servers if isinstance(server, str)]
        if len(servers) < 3 or len(set(texts)) < len(texts):
            raise LockConfigError("a majority needs three independent servers or more, each named once")
        self._restart_delay = _checked_delay(restart_delay or 0)
        self._members = [Member(server) for server in servers]
        self._quorum = len(self._members) // 2 + 1
        #: owner token → its try, where servers are still to answer
        self._attempts: dict[str, Attempt] = {}
        #: owner token → servers that have something of it still to take back
        self._unclear: dict[str, set[Member]] = {}
        self._mutex = threads.RLock()
        _all.add(self)

    # Acquiring

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        """Takes the lease at a majority of the servers.

        Nobody lines up. Repeated with a token that holds already, it may bring a greater fencing token, where servers
        come to it that had not granted it before.
        """
        if claim.limit > 1 or claim.permits > 1:
            raise LockConfigError("a majority of servers keeps locks, and no semaphores: limit and permits are 1")
        if claim.max_waiters:
            raise LockConfigError("Redlock has no line, so it can't bound how many wait: leave out max_waiters")
        for _ in range(TRIES - 1):
            answer = self._acquire(claim)
            if isinstance(answer, Granted) or not claim.replaces:
                return answer
        return self._acquire(claim)  # others came in between each time

    def _acquire(self, claim: Claim) -> Granted | Refused:
        sent = system_clock.now()
        attempt = self._attempt(claim)
        try:
            answer = self._granted_or_refused(attempt, claim, sent)
        except BaseException:
            attempt.take_back()
            raise
        finally:
            self._forget(claim.token, attempt)
        return answer

    def _granted_or_refused(self, attempt: Attempt, claim: Claim, sent: float) -> Granted | Refused:
        said = attempt.claims(self._decided)
        granted = [each.fencing_token for each in said if isinstance(each, Granted)]
        if len(granted) < self._quorum:
            refusals = [each for each in said if isinstance(each, Refused)]
            if len(granted) + len(refusals) < self._quorum:
                raise self._unavailable(said, "answered")
            attempt.take_back()
            return self._refused(refusals, len(granted))
        if not attempt.agree(fencing_token := max(granted), self._quorum):
            raise self._unavailable(said, "confirmed the lease")
        if system_clock.now() - sent >= claim.ttl:
            raise StoreUnavailable(f"the servers took longer to answer than the {claim.ttl:g} s that the lease lives")
        if not attempt.settle(self._quorum):
            raise self._unavailable(said, "ended the lease that the claim takes")
        return Granted(fencing_token)

    def _attempt(self, claim: Claim) -> Attempt:
        takes = claim.adopts or claim.replaces
        members = self._displaced(claim) if takes else dict.fromkeys(self._members)
        wanted = replace(claim, ttl=with_drift(claim.ttl), task_id="")
        with self._mutex:
            unclear = self._unclear.setdefault(claim.token, set())
            clear = {member: holder for member, holder in members.items() if member not in unclear}
            attempt = Attempt(clear, wanted, self._restart_delay, unclear)
            self._attempts[claim.token] = attempt
        return attempt

    def _displaced(self, claim: Claim) -> dict[Member, Holder | None]:
        """Return the servers that answer, and at each the holder whose lease the claim is to take.

        Raises:
            StoreUnavailable: They are no majority.
        """

        def enough(answers: Sequence[Any]) -> bool:
            return sum(isinstance(each, tuple) for each in answers) >= self._quorum

        calls = [partial(member.holders, claim.name) for member in self._members]
        answers = ask(calls, 2 * timeout_for(patient_ttl(claim)), enough)
        if not enough(answers):
            raise self._unavailable(answers, "answered")
        seen = zip(self._members, answers, strict=True)
        return {member: _to_displace(claim, answer) for member, answer in seen if isinstance(answer, tuple)}

    def _forget(self, token: str, attempt: Attempt) -> None:
        with self._mutex:
            if attempt.over and self._attempts.get(token) is attempt:
                del self._attempts[token]
            if attempt.over and not self._unclear.get(token):
                self._unclear.pop(token, None)
            for kept in (self._attempts, self._unclear):
                while len(kept) > MOST_KEPT:
                    cast("dict[str, Any]", kept).pop(next(iter(kept)))

    def _decided(self, said: Sequence[Said]) -> bool:
        kinds = Counter(type(each) for each in said)
        most_missing = len(self._members) - self._quorum
        return kinds[Granted] >= self._quorum or max(kinds[Refused], kinds[StoreUnavailable]) > most_missing

    def _refused(self, refusals: Sequence[Refused], granted: int) -> Refused:
        holders = self._merged([*(each.holders for each in refusals), *[()] * granted])
        retry_in = min(without_drift(each.retry_in) for each in refusals) if holders else _pause()
        return Refused(holders, max(0.001, retry_in), None, any(each.replaced for each in refusals))

    def wait(self, name: str, token: str, timeout: float) -> None:
        """Nobody is woken by a majority: waits for a moment of random length, after which another try is due."""
        time.sleep(max(0.0, min(timeout, _pause())))

    def leave(self, name: str, token: str) -> None:
        """There is no line."""

    # Keeping and giving back

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        if not renewals:
            return []
        longer = [each._replace(ttl=with_drift(each.ttl)) for each in renewals]

        def enough(answers: Sequence[list[LossReason | None] | StoreUnavailable | None]) -> bool:
            return "unreachable" not in self._verdicts(answers, len(longer))

        calls = [partial(member.renew, longer) for member in self._members]
        answers = ask(calls, timeout_for(min(each.ttl for each in renewals)), enough)
        verdicts = self._verdicts(answers, len(longer))
        if verdicts.count("unreachable") == len(verdicts):
            raise self._unavailable(answers, "answered")
        for number, verdict in enumerate(verdicts):
            if verdict is None:
                self._mend(longer[number], [each[number] if isinstance(each, list) else None for each in answers])
        return verdicts

    def _verdicts(self, answers: Sequence[Any], count: int) -> list[LossReason | None]:
        """For each lease what a majority says; ``unreachable`` where the answers could still turn out either way."""
        said = [answer for answer in answers if isinstance(answer, list)]
        return [self._verdict([answer[number] for answer in said]) for number in range(count)]

    def _verdict(self, reasons: Sequence[LossReason | None]) -> LossReason | None:
        kinds = Counter(reasons)
        if kinds[None] >= self._quorum:
            return None
        lost = Counter({reason: count for reason, count in kinds.items() if reason not in (None, "unreachable")})
        if lost.total() > len(self._members) - self._quorum:
            return lost.most_common(1)[0][0]
        return "unreachable"

    def _mend(self, renewal: Renewal, reasons: Sequence[LossReason | None]) -> None:
        """Puts a lease that a majority has onto servers that lost it, behind the back of who renews."""
        lost = [self._members[number] for number, reason in enumerate(reasons) if reason in ("deleted", "expired")]
        if lost:
            start(partial(self._mended, renewal, lost))

    def _mended(self, renewal: Renewal, lost: Sequence[Member]) -> None:
        with suppress(StoreUnavailable):
            if (holder := self._holding(renewal)) is None:
                return
            name, token, ttl = renewal.name, renewal.token, renewal.ttl
            for member in lost:
                member.acquire(Claim(name, token, holder.owner, ttl, holder.limit, holder.permits))
                member.confirm(name, token, holder.fencing_token, 0, ttl)
            if self._holding(renewal) is None:  # released meanwhile
                for member in lost:
                    member.release(name, token)

    def _holding(self, renewal: Renewal) -> Holder | None:
        return next((each for each in self.holders(renewal.name) if each.token == renewal.token), None)

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        if value is not None:
            raise LockConfigError("Redlock keeps no values with its locks")
        with self._mutex:
            attempt = self._attempts.pop(token, None)
            if not self._unclear.get(token):
                self._unclear.pop(token, None)
        if attempt is not None:
            attempt.unwanted()
        answers = self._everywhere(lambda member: member.release(name, token), self._settled)
        released, missing = answers.count(True), len(self._members) - self._quorum
        if released < self._quorum and answers.count(False) <= missing:
            raise self._unavailable(answers, "confirmed the release")
        return released >= self._quorum

    def _settled(self, answers: Sequence[Any]) -> bool:
        return max(answers.count(True), answers.count(False)) >= self._quorum

    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        return self._by_most(lambda member: member.force_release(name, token))

    def holders(self, name: str) -> tuple[Holder, ...]:
        """Who holds it at a majority; while servers are away, also who may."""
        return self._by_most(lambda member: member.holders(name))

    def _by_most(self, look: Callable[[Member], tuple[Holder, ...]]) -> tuple[Holder, ...]:
        quorum = self._quorum
        answers = self._everywhere(look, lambda answers: sum(isinstance(each, tuple) for each in answers) >= quorum)
        seen = [answer for answer in answers if isinstance(answer, tuple)]
        if len(seen) < quorum:
            raise self._unavailable(answers, "answered")
        return self._merged(seen)

    def _merged(self, seen: Sequence[tuple[Holder, ...]]) -> tuple[Holder, ...]:
        """Those who hold at a majority, as far as what was seen says: silent servers may be with any of them."""
        least = max(1, self._quorum - (len(self._members) - len(seen)))
        by_token: dict[str, list[Holder]] = {}
        for holder in (holder for holders in seen for holder in holders):
            by_token.setdefault(holder.token, []).append(holder)
        merged = (self._one(each) for each in by_token.values() if len(each) >= least)
        return tuple(sorted(merged, key=lambda holder: holder.fencing_token))[:MOST_HOLDERS]

    def _one(self, seen: Sequence[Holder]) -> Holder:
        """One holder as several servers see it: the lease lives for as long as a majority has it."""
        ends = sorted((holder.expires_in for holder in seen), reverse=True)
        return replace(
            seen[0],
            fencing_token=max(holder.fencing_token for holder in seen),
            held_for=max(holder.held_for for holder in seen),
            expires_in=max(0.0, without_drift(ends[min(self._quorum, len(ends)) - 1])),
        )

    # The servers

    def ping(self) -> None:
        def enough(answers: Sequence[Any]) -> bool:
            return answers.count(True) >= self._quorum

        answers = self._everywhere(_answers, enough)
        if not enough(answers):
            raise self._unavailable(answers, "answered")

    def about(self) -> str:
        releases = [each for each in self._everywhere(Member.about) if isinstance(each, str)]
        told = ", ".join(dict.fromkeys(releases)) or "servers that can't be reached"
        return f"{told}, a majority of {len(self._members)}"

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        """What is wrong with any of the servers; without a ``restart_delay`` each should keep its leases on disk."""
        answers = self._everywhere(lambda member: member.checks(parks=parks))
        known = [answer for answer in answers if isinstance(answer, dict)]
        away = len(answers) - len(known)
        reached = f"{away} of the {len(answers)} lock servers can't be reached: start them again" if away else ""
        return {"reached": reached, **merge(known)}

    def try_writes(self, prefix: str, *, parks: bool = False) -> list[str]:
        """Use a throwaway lock by a majority, and one on each server.

        Locks still work with one failing server, but not after a second one fails.
        """
        calls = [partial(member.try_lock, prefix, self._restart_delay) for member in self._members]
        _, failures = all_of(ask(calls, TRIAL_TIMEOUT_SECONDS))
        try:
            super().try_writes(prefix)
        except StoreUnavailable as error:
            raise StoreUnavailable("; ".join(dict.fromkeys([*failures, str(error)]))) from error
        return failures

    def close(self) -> None:
        for member in self._members:
            member.close()
        end_idle()

    def in_forked_child(self) -> None:
        """Forget what the parent's threads have in hand."""
        self._mutex = threads.RLock()
        self._attempts.clear()
        self._unclear.clear()
        for member in self._members:
            member.in_forked_child()

    def _everywhere(
        self, call: Callable[[Member], T], enough: Callable[[Sequence[Any]], bool] = lambda answers: False
    ) -> list[T | StoreUnavailable | None]:
        return ask([partial(call, member) for member in self._members], TIMEOUT, enough)

    def _unavailable(self, answers: Iterable[Any], did: str) -> StoreUnavailable:
        """Too few of the servers did something."""
        errors = [str(answer) for answer in answers if isinstance(answer, StoreUnavailable)]
        return StoreUnavailable(
            f"fewer than {self._quorum} of the {len(self._members)} lock servers {did} in time"
            + "".join(f"; {error}" for error in dict.fromkeys(errors))
        )


def with_drift(ttl: float) -> float:
    """For how long each server is asked: their clocks may run faster than the one that the holder goes by."""
    return ttl * (1 + DRIFT) + TICK


def without_drift(left: float) -> float:
    """How long a lease can be relied on of which servers say that so much is left: the other way round."""
    return (left - TICK) / (1 + DRIFT)


def open_redlock(url: str) -> Redlock:
    """The store at a URL: ``redlock://user:password@host1,host2,host3/0``; ``rediss+redlock://`` speaks TLS."""
    return Redlock(url)


def _to_displace(claim: Claim, holders: Sequence[Holder]) -> Holder | None:
    """Return the holder whose lease a claim takes, by what one server knows."""
    if any(holder.token == claim.token for holder in holders):
        return None
    adopted = next((holder for holder in holders if holder.token == claim.adopts), None)
    return next(iter(holders), None) if adopted is None and claim.replaces else adopted


def _answers(member: Member) -> bool:
    member.ping()
    return True


def _pause() -> float:
    # Not for a secret.
    return random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)


def _checked_delay(value: Any) -> float:
    try:
        delay = float(value)
    except (TypeError, ValueError):
        delay = -1.0
    if not 0 <= delay < float("inf"):
        raise LockConfigError(f"restart_delay must be a number of seconds of 0 or more, not {value!r}")
    return delay


_all: WeakSet[Redlock] = WeakSet()


def _in_forked_child() -> None:
    for store in _all:
        store.in_forked_child()


os.register_at_fork(after_in_child=_in_forked_child)
