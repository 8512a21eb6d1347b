"""How a run begins: it acquires what its scope asks for, and settles the lease of its call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from celery_locks import _logging, owners
from celery_locks._validation import SHORTEST_TTL
from celery_locks.errors import LockContended, StoreUnavailable
from celery_locks.keys.names import run_part
from celery_locks.lease import Lease, release_or_later
from celery_locks.lock import Lock, describe_holders
from celery_locks.renewal import keeper
from celery_locks.stores.parking import tickets_of
from celery_locks.stores.types import Claim, Refused, Renewal
from celery_locks.tasks.messages.header import fields_of, for_later, store_in
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.policies.base import Contention, ContentionPolicy, Skipped
from celery_locks.tasks.policies.choice import POLICIES
from celery_locks.tasks.policies.deferral import defer
from celery_locks.tasks.policies.refused_run import is_local
from celery_locks.tasks.spec import TaskLock, TaskWithLock
from celery_locks.tasks.worker import journal

logger = _logging.logger(__name__)


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
        spec: Its lock, with the options of this call.
        request: Its request.
        args: The arguments of the call.
        kwargs: Its keyword arguments.
        bind_release: Sets how a lease of this run is released.
        claims: All that was asked of the store, recorded before. Whatever happens, it is released.
        ticket: The id of the ticket that ends with this run, empty for none.
        ticket_token: The owner token under which the run entered by it; empty for a ticket that left the line.
        out: Whether its ticket left the line.
    """

    task: TaskWithLock
    spec: TaskLock
    request: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    bind_release: Callable[[Lease], Lease]
    claims: list[Claim] = field(default_factory=list)
    ticket: str = ""
    ticket_token: str = ""
    out: bool = False

    def __post_init__(self) -> None:
        request = self.request
        self.ours: Mapping[str, Any] = fields_of(request)
        # The key under which the task was called or parked, and its store, even where they would be others now.
        self.store = store_in(self.ours) if "key" in self.ours else self.spec.options.store
        self.locks = locks_for(self.task.app, self.store)
        self.key: str = self.ours.get("key") or self.spec.key_for(self.args, self.kwargs)
        name = self.task.name
        self.owner = owners.running(name, request.id, request.hostname) if request.id else f"{name} of a map"

    def enter(self) -> Entered | Skipped:
        """Acquire what the scope asks for.

        Returns:
            That the body may run, or the result of the run.
        """
        if "refused" in self.ours:
            return self._refused_at_call()
        scope = self.spec.scope
        result: Entered | Skipped
        if scope.to_the_end or not scope.call:
            lease = self._acquire(self._lock())
            result = self._entered(lease, lease) if isinstance(lease, Lease) else lease
            if isinstance(lease, Lease):
                self._release_call_unless(lease)
        elif scope.apart:
            result = self._enter_apart()
        else:
            result = self._enter_once_for_a_message(self._leave_lasting if scope.lasting else self._free_the_key)
        if isinstance(result, Entered) and self.request.id:
            later = {"started": True} if scope.call and not scope.to_the_end else {}
            self.request.headers = for_later(self.request.headers, self.request.id, **later)
        return result

    def _token_for(self, name: str) -> str:
        """The token of the call's lease, if it is a lease on this lock."""
        return str(self.ours.get("token", "")) if self.ours.get("lock") == name else ""

    def _release_call_unless(self, adopter: Lease) -> None:
        """Release the call's lease where it is on another lock than the run's: the scope was changed meanwhile."""
        token, name = self.ours.get("token"), self.ours.get("lock")
        if token and "lasting" not in self.ours and name != adopter._claim.name:
            keeper().release_later(self.locks.store, str(name), str(token), self.spec.options.ttl)

    def _enter_apart(self) -> Entered | Skipped:
        lock = self._lock()
        lease = self._acquire(lock)
        if not isinstance(lease, Lease):
            return lease
        adopted = self._token_for(lock._name)  # of a call that was made under another scope
        return (None if adopted else self._settle_call()) or self._entered(lease, lease)

    def _enter_once_for_a_message(self, settle: Callable[[], Skipped | None]) -> Entered | Skipped:
        """The key is not this run's, but a second copy of its message must not run alongside it."""
        guard = None
        if not is_local(self.request):
            guard = self._acquire_of_message()
        if "started" not in self.ours:
            refused = settle()
            if refused is not None:
                return refused
        return self._entered(guard, None)

    def _acquire_of_message(self) -> Lease:
        lock = self._lock()
        lock._name = self.locks._space.name(self.key, run_part(self.request.id))
        contention = self._contention(lock, self._claim(lock))
        try:
            answer = contention.attempt()
        except StoreUnavailable as error:
            defer(contention, error)
        if isinstance(answer, Refused):
            defer(contention, contention.error())
        return answer

    def _free_the_key(self) -> Skipped | None:
        lease = self._acquire(self._lock())
        if not isinstance(lease, Lease):
            return lease
        release_or_later(self.bind_release(lease))
        return None

    def _leave_lasting(self) -> Skipped | None:
        if "token" not in self.ours:  # called by a process that does not know the task: its time begins now
            if self.request.id:
                self.owner = owners.lasting(self.task.name, self.request.id, self.request.hostname)
            lease = self._acquire(self._lock())
            if not isinstance(lease, Lease):
                return lease
            keeper().forget(lease)
            journal.strike(lease.token)
            return None
        lock = self._lock()
        contention = self._contention(lock, lock._new_claim())
        try:
            # Asks what became of it; the lease is not prolonged by this.
            probe = Renewal(self.ours["lock"], self.ours["token"], SHORTEST_TTL)
            replaced = contention.lock._store.renew([probe])[0] == "replaced"
        except StoreUnavailable as error:
            defer(contention, error)
        return contention.superseded() if replaced else None

    def _settle_call(self) -> Skipped | None:
        """Take the call's lease off its own lock. Returns what ends the run, if it was replaced."""
        token = self.ours.get("token")
        if not token:
            return None
        lock = self._lock()
        lock._name = self.ours["lock"]
        contention = self._contention(lock, self._claim(lock, token))
        try:
            answer = contention.attempt()
        except StoreUnavailable:
            keeper().release_later(lock._store, lock._name, token, contention.claim.ttl)
            return None
        if isinstance(answer, Lease):
            release_or_later(self.bind_release(answer))
        elif answer.replaced:
            return contention.superseded()
        return None  # its time ran out before the run began, or a copy of the message was here before

    def _acquire(self, lock: Lock) -> Lease | Skipped:
        """The lease, or what the policy decides. A lease of the call on this lock is adopted."""
        contention = self._contention(lock, self._claim(lock, self._token_for(lock._name)))
        try:
            result = self._policy(contention).enter(contention)
        except StoreUnavailable as error:
            if is_local(self.request):
                raise
            defer(contention, error)
        finally:
            if contention.out:
                self.out, self.ticket = True, contention.ticket
        # Only here: a deferred message needs the ticket, whatever the store granted without an answer.
        if contention.ticket:
            self.ticket, self.ticket_token = contention.ticket, contention.claim.token
        return result

    def _policy(self, contention: Contention) -> ContentionPolicy:
        """A message that was dispatched from the line enters by its ticket, whatever the policy is now."""
        if "ticket" in self.ours and not is_local(self.request) and tickets_of(self.locks.store) is not None:
            contention.claim.adopts = ""
            return POLICIES["park"]
        return self.spec.run_policy

    def _contention(self, lock: Lock, claim: Claim) -> Contention:
        return Contention(self.task, lock, claim, self.spec.options, self.args, self.kwargs)

    def _claim(self, lock: Lock, adopts: str = "") -> Claim:
        claim = lock._new_claim()
        if adopts:
            claim = replace(claim, adopts=adopts)
        self.claims.append(claim)
        journal.write(claim.token, claim.name, self.key, self.task.name, self.request.id or "", self.store)
        return claim

    def _lock(self) -> Lock:
        return Lock(self.locks._space, self.key, self.spec.terms, self.owner, sender=self.task)

    def _entered(self, guard: Lease | None, lease: Lease | None) -> Entered:
        if guard is not None:
            journal.granted(guard.token)
        return Entered(None if guard is None else self.bind_release(guard), lease)

    def _refused_at_call(self) -> Skipped:
        """The caller waits for the outcome of a call that was refused: this is it."""
        holders = list(self.ours.get("holders") or ())
        if self.ours["refused"] == "raise":
            raise LockContended(
                f"{self.key!r} was not available at the call: {describe_holders(holders)}", self.key, holders
            )
        said = f"{self.task.name} skipped: {self.key!r} was not available at the call"
        _logging.line(logger, logging.INFO, "skipped", said, key=self.key, owner=self.owner, holders=holders)
        return Skipped(self.key, holders)
