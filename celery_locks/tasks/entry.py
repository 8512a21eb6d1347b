"""What a run does before its body begins: it takes what its scope asks for, and the call's lease along the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from celery_locks import log, owners
from celery_locks.errors import LockContended, StoreUnavailable
from celery_locks.lease import Lease, release_or_later
from celery_locks.lock import Lock, holder_names, who_holds
from celery_locks.names import run_part
from celery_locks.renewal import keeper
from celery_locks.stores.base import Claim, Refused, Renewal
from celery_locks.tasks import records
from celery_locks.tasks.calls import lock_of_call
from celery_locks.tasks.contention import Contention, Skipped
from celery_locks.tasks.header import ours_of, with_ours
from celery_locks.tasks.message import HEADER
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.park import Park
from celery_locks.tasks.resend import forget_counter, send_again
from celery_locks.tasks.sending import send_on
from celery_locks.terms import SHORTEST_TTL

if TYPE_CHECKING:
    from celery_locks.tasks.task import LockedTask

logger = log.logger(__name__)


@dataclass(frozen=True)
class Entered:
    """The body may run.

    Attributes:
        guard: The lease without which it must not go on, if there is one.
        lease: The one that it sees: of its key.
    """

    guard: Lease | None
    lease: Lease | None


@dataclass
class Entry:
    """A run that is about to begin.

    Attributes:
        task: The task.
        request: Its request.
        args: The arguments of the call.
        kwargs: Its keyword arguments.
        claims: All that was asked of the store, written down before: whatever happens, it is given back.
    """

    task: LockedTask
    request: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    claims: list[Claim] = field(default_factory=list)

    def __post_init__(self) -> None:
        request = self.request
        self.ours: Mapping[str, Any] = ours_of(request)
        self.key = self.task.lock_key_for(*self.args, **self.kwargs)
        name = self.task.name
        self.owner = owners.running(name, request.id, request.hostname) if request.id else f"{name} of a map"

    def enter(self) -> Any:
        """`Entered`, or else the result of the run."""
        if "refused" in self.ours:
            return self._refused_at_call()
        scope = self.task.lock_in_scope
        if scope.to_the_end or not scope.call:
            lease = self._acquire(self._lock(), self.ours.get("token", ""))
            result = self._entered(lease, lease) if isinstance(lease, Lease) else lease
        elif scope.apart:
            result = self._enter_apart()
        else:
            result = self._enter_once_for_a_message(self._leave_lasting if scope.lasting else self._free_the_key)
        if isinstance(result, Entered):
            forget_counter(self.request)
            if scope.call and not scope.to_the_end and self.request.id:
                self.request.headers = with_ours(self.request.headers, id=self.request.id, started=True)
        return result

    def _enter_apart(self) -> Any:
        lease = self._acquire(self._lock())
        if not isinstance(lease, Lease):
            return lease
        return self._settle_call() or self._entered(lease, lease)

    def _enter_once_for_a_message(self, settle: Callable[[], Any]) -> Any:
        """The key is not this run's, but a second copy of its message must not run beside it."""
        guard = None
        if not self.local:
            guard = self._acquire_of_message()
        if "started" not in self.ours:
            refused = settle()
            if refused is not None:
                return refused
        return self._entered(guard, None)

    def _acquire_of_message(self) -> Lease:
        lock = self._lock()
        lock.name = locks_for(self.task.app).name(self.key, run_part(self.request.id))
        claim = self._claim(lock)
        try:
            answer = lock.attempt(claim)
        except StoreUnavailable as error:
            send_again(self._contention(lock, claim), error)
            raise
        if isinstance(answer, Refused):
            contention = self._contention(lock, claim, answer)
            send_again(contention, contention.error())
        assert isinstance(answer, Lease)
        return answer

    def _free_the_key(self) -> Any:
        lease = self._acquire(self._lock(), self.ours.get("token", ""))
        if not isinstance(lease, Lease):
            return lease
        release_or_later(self._ours(lease))
        return None

    def _leave_lasting(self) -> Any:
        if "token" not in self.ours:  # called by somebody who does not know the task: its time begins now
            if self.request.id:
                self.owner = owners.lasting(self.task.name, self.request.id, self.request.hostname)
            lease = self._acquire(self._lock())
            if not isinstance(lease, Lease):
                return lease
            keeper().forget(lease)
            records.strike(lease.token)
            return None
        lock = self._lock()
        try:
            # Asks what became of it; the lease is not prolonged by this.
            probe = Renewal(self.ours["lock"], self.ours["token"], SHORTEST_TTL)
            replaced = lock.store.renew([probe])[0] == "replaced"
        except StoreUnavailable as error:
            return send_again(self._contention(lock, lock.claim()), error)
        return self._dropped([]) if replaced else None

    def _settle_call(self) -> Any:
        """Takes the call's lease off its own lock. Returns what ends the run, if it was replaced."""
        token = self.ours.get("token")
        if not token:
            return None
        lock = lock_of_call(self.task, self.key, self.owner)
        claim = self._claim(lock, token)
        try:
            answer = lock.attempt(claim)
        except StoreUnavailable:
            keeper().release_later(lock.store, lock.name, token, claim.ttl)
            return None
        if isinstance(answer, Lease):
            release_or_later(self._ours(answer))
        elif answer.replaced:
            return self._dropped([holder.owner for holder in answer.holders])
        return None  # its time ran out before the run began, or a copy of the message was here before

    def _acquire(self, lock: Lock, adopts: str = "") -> Any:
        """The lease, or else what the policy returns."""
        claim, policy = self._claim(lock, adopts), self.task.lock_run_policy
        parks = isinstance(policy, Park) and not self.local
        refused = None
        try:
            if not parks or (adopts and not self._in_line):
                answer = lock.attempt(claim)
                if isinstance(answer, Lease):
                    return answer
                if answer.replaced:
                    return self._dropped(holder_names(answer))
                refused = answer
            if adopts:
                claim = replace(claim, adopts="")
            contention = self._contention(lock, claim, refused)
            return policy.enter(contention) if parks else policy.contended(contention)  # type: ignore[attr-defined]
        except StoreUnavailable as error:
            if self.local:
                raise
            return send_again(self._contention(lock, claim, refused), error)

    @property
    def local(self) -> bool:
        """Whether there is no message that could be sent again: an eager run, or an item of a map."""
        return bool(self.request.is_eager or self.request.called_directly)

    @property
    def _in_line(self) -> bool:
        """Whether the message was sent on from the line."""
        return "ticket" in ((self.request.headers or {}).get(HEADER) or {})

    def _contention(self, lock: Lock, claim: Claim, refused: Refused | None = None) -> Contention:
        contention = Contention(self.task, lock, claim, self.task.lock_options, self.args, self.kwargs)
        if refused is not None:
            contention.refused = refused
        return contention

    def _claim(self, lock: Lock, adopts: str = "") -> Claim:
        claim = lock.claim()
        if adopts:
            claim = replace(claim, adopts=adopts)
        self.claims.append(claim)
        records.write(claim.token, claim.name, self.key, self.task.name, self.request.id or "")
        return claim

    def _lock(self) -> Lock:
        return Lock(locks_for(self.task.app), self.key, self.task.lock_terms, self.owner, sender=self.task)

    def _entered(self, guard: Lease | None, lease: Lease | None) -> Entered:
        if guard is not None:
            records.granted(guard.token)
        return Entered(None if guard is None else self._ours(guard), lease)

    def _ours(self, lease: Lease) -> Lease:
        lease.send_on = partial(send_on, self.task.app)
        return lease

    def _refused_at_call(self) -> Skipped:
        """Somebody waits for the outcome of a call that was refused: this is it."""
        holders = list(self.ours.get("holders") or ())
        if self.ours["refused"] == "raise":
            raise LockContended(f"{self.key!r} was not to be had at the call: {who_holds(holders)}", self.key, holders)
        said = f"{self.task.name} skipped: {self.key!r} was not to be had at the call"
        log.line(logger, logging.INFO, "skipped", said, key=self.key, owner=self.owner, holders=holders)
        return Skipped(self.key, holders)

    def _dropped(self, holders: list[str]) -> Skipped:
        said = f"{self.task.name}[{self.request.id}] skipped: a later call replaced it"
        log.line(
            logger, logging.INFO, "skipped", said, key=self.key, owner=self.owner, reason="replaced", holders=holders
        )
        return Skipped(self.key, holders)
