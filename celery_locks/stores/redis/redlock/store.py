"""``redlock://``: leases held by a majority of independent Redis or Valkey servers.

The algorithm is the one that Redis' documentation describes as Redlock (Salvatore Sanfilippo, "Distributed Locks with
Redis"). A claim goes to all servers at the same time, and each has a short time to reply. The claim holds if more than
half of the servers grant it before its ttl has passed, less the drift of clocks. Otherwise it is undone at all servers.
Three things are added:

- *Fencing tokens.* The lease gets the greatest fencing token that a majority gave it. The lease counts when a majority
  has stored this token. Each later majority shares a server with that one. This server grants a later claim only after
  the lease has ended, and then with a greater token.
- *Repair.* After a renewal by a majority, the lease is written again to servers that have lost it.
- *A failed attempt takes no lease.* A claim that adopts or replaces a lease first asks for the holders. It goes only to
  servers that replied, if they are a majority. At each it displaces the lease of the holder that the server named, and
  no other lease. If the claim is released before it is settled, the server restores that lease in the same step. A
  claim is settled when a majority has granted and confirmed it.

There is no line and no list of locks: what one server knows of them is not what a majority agreed on.
"""

from __future__ import annotations

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
from celery_locks._runtime.process import after_fork_in_child
from celery_locks.errors import LockConfigError, LossReason, StoreUnavailable
from celery_locks.stores.base import Store
from celery_locks.stores.check_results import merge
from celery_locks.stores.parallel import ask, end_idle, start
from celery_locks.stores.redis.redlock.attempt import Attempt, Reply
from celery_locks.stores.redis.redlock.member import Member
from celery_locks.stores.redis.wire.client import REQUEST_TIMEOUT_SECONDS
from celery_locks.stores.redis.wire.connections import patient_ttl, timeout_for
from celery_locks.stores.redis.wire.urls import each_server
from celery_locks.stores.types import MOST_HOLDERS, Claim, Granted, Holder, Refused, Renewal, Value
from celery_locks.stores.write_check import all_of

T = TypeVar("T")

#: By how much a server's clock may run faster than this machine's, and seconds for clocks that tick coarsely.
DRIFT, TICK = 0.01, 0.002
#: Seconds between two attempts of a waiter. The length is random: otherwise waiters would block each other repeatedly.
SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.02, 0.1
#: How long `try_writes` waits for one of the servers, in seconds.
TRIAL_TIMEOUT_SECONDS = 5.0
#: How often a claim that replaces is made if the holder changes meanwhile.
MOST_REPLACE_ATTEMPTS = 3
#: How many attempts are remembered that wait for a reply, or that some server has not undone yet.
MOST_ATTEMPTS = 10_000


class Redlock(Store):
    """Leases held by a majority of independent servers.

    Args:
        servers: A URL that names three or more, or their URLs (or clients of redis-py or valkey-py).
        restart_delay: A server's answer counts only if it is up for this many seconds; in a URL the parameter
            ``restart_delay``. Without it, a server that lost its data in a restart may grant a lock that is held. The
            longest ttl of all leases prevents that.

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
        #: Owner token → its attempt, if some servers have not replied yet.
        self._attempts: dict[str, Attempt] = {}
        #: Owner token → the servers that still have to undo a claim of it.
        self._unclear: dict[str, set[Member]] = {}
        self._mutex = threads.RLock()
        _all.add(self)

    # Acquire

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        """Acquire the lease at a majority of the servers. There is no line.

        A second claim of a token that holds may return a greater fencing token, if further servers grant it.
        """
        if claim.limit > 1 or claim.permits > 1:
            raise LockConfigError("Redlock has no semaphores: leave limit and permits at 1")
        if claim.max_waiters:
            raise LockConfigError("Redlock has no line, so it can't bound how many wait: leave out max_waiters")
        for _ in range(MOST_REPLACE_ATTEMPTS - 1):
            answer = self._acquire(claim)
            if isinstance(answer, Granted) or not claim.replaces:
                return answer
        return self._acquire(claim)  # another claim came first each time

    def _acquire(self, claim: Claim) -> Granted | Refused:
        sent = system_clock.now()
        attempt = self._attempt(claim)
        try:
            answer = self._granted_or_refused(attempt, claim, sent)
        except BaseException:
            attempt.undo()
            raise
        finally:
            self._forget(claim.token, attempt)
        return answer

    def _granted_or_refused(self, attempt: Attempt, claim: Claim, sent: float) -> Granted | Refused:
        replies = attempt.make(self._decided)
        granted = [each.fencing_token for each in replies if isinstance(each, Granted)]
        if len(granted) < self._quorum:
            refusals = [each for each in replies if isinstance(each, Refused)]
            if len(granted) + len(refusals) < self._quorum:
                raise self._unavailable(replies, "replied")
            attempt.undo()
            return self._refused(refusals, len(granted))
        if not attempt.agree(fencing_token := max(granted), self._quorum):
            raise self._unavailable(replies, "confirmed the lease")
        if system_clock.now() - sent >= claim.ttl:
            raise StoreUnavailable(f"the servers took longer to reply than the lease's ttl of {claim.ttl:g} s")
        if not attempt.settle(self._quorum):
            raise self._unavailable(replies, "ended the lease that the claim takes")
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
        """Return the servers that reply, and at each the holder whose lease the claim is to take.

        Raises:
            StoreUnavailable: They are no majority.
        """

        def enough(answers: Sequence[Any]) -> bool:
            return sum(isinstance(each, tuple) for each in answers) >= self._quorum

        calls = [partial(member.holders, claim.name) for member in self._members]
        answers = ask(calls, 2 * timeout_for(patient_ttl(claim)), enough)
        if not enough(answers):
            raise self._unavailable(answers, "replied")
        seen = zip(self._members, answers, strict=True)
        return {member: _to_displace(claim, answer) for member, answer in seen if isinstance(answer, tuple)}

    def _forget(self, token: str, attempt: Attempt) -> None:
        with self._mutex:
            if attempt.over and self._attempts.get(token) is attempt:
                del self._attempts[token]
            if attempt.over and not self._unclear.get(token):
                self._unclear.pop(token, None)
            for kept in (self._attempts, self._unclear):
                while len(kept) > MOST_ATTEMPTS:
                    cast("dict[str, Any]", kept).pop(next(iter(kept)))

    def _decided(self, replies: Sequence[Reply]) -> bool:
        kinds = Counter(type(each) for each in replies)
        most_missing = len(self._members) - self._quorum
        return kinds[Granted] >= self._quorum or max(kinds[Refused], kinds[StoreUnavailable]) > most_missing

    def _refused(self, refusals: Sequence[Refused], granted: int) -> Refused:
        holders = self._merged([*(each.holders for each in refusals), *[()] * granted])
        retry_in = min(without_drift(each.retry_in) for each in refusals) if holders else _pause()
        return Refused(holders, max(0.001, retry_in), None, any(each.replaced for each in refusals))

    def wait(self, name: str, token: str, timeout: float) -> None:
        """Sleep for a random time, after which the caller asks again. Servers of a majority wake no one."""
        time.sleep(max(0.0, min(timeout, _pause())))

    def leave(self, name: str, token: str) -> None:
        """Do nothing: there is no line."""

    # Renew and release

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
            raise self._unavailable(answers, "confirmed the lease or its loss")
        for number, verdict in enumerate(verdicts):
            if verdict is None:
                self._repair(longer[number], [each[number] if isinstance(each, list) else None for each in answers])
        return verdicts

    def _verdicts(self, answers: Sequence[Any], count: int) -> list[LossReason | None]:
        """Return for each lease what a majority answers; ``unreachable`` if neither result has a majority yet."""
        known = [answer for answer in answers if isinstance(answer, list)]
        return [self._verdict([reasons[number] for reasons in known]) for number in range(count)]

    def _verdict(self, reasons: Sequence[LossReason | None]) -> LossReason | None:
        """Return what a majority answers. A server that answers ``unreachable`` does not know whether it is a loss."""
        kinds = Counter(reasons)
        if kinds[None] >= self._quorum:
            return None
        lost = Counter({reason: count for reason, count in kinds.items() if reason not in (None, "unreachable")})
        if lost.total() > len(self._members) - self._quorum:
            return lost.most_common(1)[0][0]
        return "unreachable"

    def _repair(self, renewal: Renewal, reasons: Sequence[LossReason | None]) -> None:
        """Write a lease that a majority has to servers that lost it, in the background."""
        lost = [self._members[number] for number, reason in enumerate(reasons) if reason in ("deleted", "expired")]
        if lost:
            start(partial(self._repair_at, renewal, lost))

    def _repair_at(self, renewal: Renewal, lost: Sequence[Member]) -> None:
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
            attempt.release_late()
        answers = self._everywhere(lambda member: member.release(name, token), self._settled)
        released, missing = answers.count(True), len(self._members) - self._quorum
        if released < self._quorum and answers.count(False) <= missing:
            raise self._unavailable(answers, "confirmed the release")
        return released >= self._quorum

    def _settled(self, answers: Sequence[Any]) -> bool:
        return max(answers.count(True), answers.count(False)) >= self._quorum

    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        return self._at_majority(lambda member: member.force_release(name, token))

    def holders(self, name: str) -> tuple[Holder, ...]:
        """Return the holders at a majority; while servers can't be reached, also holders that may have one."""
        return self._at_majority(lambda member: member.holders(name))

    def _at_majority(self, call: Callable[[Member], tuple[Holder, ...]]) -> tuple[Holder, ...]:
        quorum = self._quorum
        answers = self._everywhere(call, lambda answers: sum(isinstance(each, tuple) for each in answers) >= quorum)
        seen = [answer for answer in answers if isinstance(answer, tuple)]
        if len(seen) < quorum:
            raise self._unavailable(answers, "replied")
        return self._merged(seen)

    def _merged(self, seen: Sequence[tuple[Holder, ...]]) -> tuple[Holder, ...]:
        """Return the holders that may have a majority: each silent server may have any of them."""
        least = max(1, self._quorum - (len(self._members) - len(seen)))
        by_token: dict[str, list[Holder]] = {}
        for holder in (holder for holders in seen for holder in holders):
            by_token.setdefault(holder.token, []).append(holder)
        merged = (self._one(each) for each in by_token.values() if len(each) >= least)
        return tuple(sorted(merged, key=lambda holder: holder.fencing_token))[:MOST_HOLDERS]

    def _one(self, seen: Sequence[Holder]) -> Holder:
        """Merge one holder of several servers: the lease lives for as long as a majority has it."""
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

        answers = self._everywhere(_ping, enough)
        if not enough(answers):
            raise self._unavailable(answers, "replied")

    def about(self) -> str:
        releases = [each for each in self._everywhere(Member.about) if isinstance(each, str)]
        names = ", ".join(dict.fromkeys(releases)) or "servers that can't be reached"
        return f"{names}, a majority of {len(self._members)}"

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        """Return what is wrong with any of the servers."""
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

    def forget_parent(self) -> None:
        """Forget the attempts of the parent's threads, after a fork."""
        self._mutex = threads.RLock()
        self._attempts.clear()
        self._unclear.clear()
        for member in self._members:
            member.forget_parent()

    def _everywhere(
        self, call: Callable[[Member], T], enough: Callable[[Sequence[Any]], bool] = lambda answers: False
    ) -> list[T | StoreUnavailable | None]:
        return ask([partial(call, member) for member in self._members], REQUEST_TIMEOUT_SECONDS, enough)

    def _unavailable(self, answers: Iterable[Any], did: str) -> StoreUnavailable:
        """Return the error that too few servers did something."""
        errors = [str(answer) for answer in answers if isinstance(answer, StoreUnavailable)]
        return StoreUnavailable(
            f"fewer than {self._quorum} of the {len(self._members)} lock servers {did} in time"
            + "".join(f"; {error}" for error in dict.fromkeys(errors))
        )


def with_drift(ttl: float) -> float:
    """Return the ttl to ask a server for: its clock may run faster than the holder's."""
    return ttl * (1 + DRIFT) + TICK


def without_drift(left: float) -> float:
    """Return how long a holder can rely on a lease, given the time left on a server. Inverse of `with_drift`."""
    return (left - TICK) / (1 + DRIFT)


def open_redlock(url: str) -> Redlock:
    """Return the store at a URL: ``redlock://user:password@host1,host2,host3/0``; ``rediss+redlock://`` uses TLS."""
    return Redlock(url)


def _to_displace(claim: Claim, holders: Sequence[Holder]) -> Holder | None:
    """Return the holder whose lease a claim takes, by what one server knows."""
    if any(holder.token == claim.token for holder in holders):
        return None
    adopted = next((holder for holder in holders if holder.token == claim.adopts), None)
    return next(iter(holders), None) if adopted is None and claim.replaces else adopted


def _ping(member: Member) -> bool:
    member.ping()
    return True


def _pause() -> float:
    return random.uniform(SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)


def _checked_delay(value: Any) -> float:
    try:
        delay = float(value)
    except (TypeError, ValueError):
        delay = -1.0
    if not 0 <= delay < float("inf"):
        raise LockConfigError(
            f"restart_delay={value!r} is not a delay: give seconds of 0 or more, such as restart_delay=60"
        )
    return delay


_all: WeakSet[Redlock] = WeakSet()


@after_fork_in_child
def _forget_parent() -> None:
    for store in _all:
        store.forget_parent()
