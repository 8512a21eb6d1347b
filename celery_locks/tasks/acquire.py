"""How a run begins: it acquires the leases of its scope, and settles the lease of its call."""

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
from celery_locks.tasks.messages.header import fields_of, headers_for_later, store_in
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.policies.base import Contention, ContentionPolicy, Skipped
from celery_locks.tasks.policies.basic import POLICIES
from celery_locks.tasks.policies.deferral import defer
from celery_locks.tasks.policies.refused_run import is_local
from celery_locks.tasks.spec import TaskLock, TaskWithLock
from celery_locks.tasks.worker import journal

logger = _logging.logger(__name__)


@dataclass(frozen=True)
class Entered:
    """The body may run.

    Attributes:
        guard: The lease whose loss stops the body, if there is one.
        lease: The lease of the key, as the body sees it.
    """

    guard: Lease | None
    lease: Lease | None


@dataclass
class Entry:
    """The beginning of a run.

    Attributes:
        task: The task.
        spec: Its lock, with the options of this call.
        request: Its request.
        args: The arguments of the call.
        kwargs: Its keyword arguments.
        claims: All claims that were sent to the store, each added before it was sent. The end of the run releases them.
        ticket: The id of the ticket that ends with this run, empty for none.
        ticket_token: The owner token under which the run entered by its ticket; empty if the ticket left the line.
        left_line: Whether its ticket left the line.
    """

    task: TaskWithLock
    spec: TaskLock
    request: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    claims: list[Claim] = field(default_factory=list)
    ticket: str = ""
    ticket_token: str = ""
    left_line: bool = False

    def __post_init__(self) -> None:
        request = self.request
        self.header: Mapping[str, Any] = fields_of(request)
        # The key under which the task was called or parked, and its store, even if a deploy has changed them since.
        self.store = store_in(self.header) if "key" in self.header else self.spec.options.store
        self.locks = locks_for(self.task.app, self.store)
        self.key: str = self.header.get("key") or self.spec.key_for(self.args, self.kwargs)
        name = self.task.name
        self.owner = owners.running(name, request.id, request.hostname) if request.id else f"{name} of a map"

    def enter(self, bind_release: Callable[[Lease], Lease]) -> Entered | Skipped:
        """Acquire the leases of the scope.

        Args:
            bind_release: Sets how a lease of this run is released.

        Returns:
            Permission to run the body, or the result of the run.
        """
        self._bind_release: Callable[[Lease], Lease] = bind_release
        try:
            return self._enter()
        finally:
            del self._bind_release  # the run has this entry, so this would be a circle

    def _enter(self) -> Entered | Skipped:
        if "refused" in self.header:
            return self._refused_at_call()
        scope = self.spec.scope
        result: Entered | Skipped
        if scope.run_adopts or not scope.call:
            lease = self._acquire(self._lock())
            result = self._entered(lease, lease) if isinstance(lease, Lease) else lease
            if isinstance(lease, Lease):
                self._release_call_unless(lease)
        elif scope.separate_locks:
            result = self._enter_separately()
        else:
            result = self._enter_once_for_a_message(self._keep_lasting if scope.lasting else self._release_key)
        if isinstance(result, Entered) and self.request.id:
            later = {"started": True} if scope.call and not scope.run_adopts else {}
            self.request.headers = headers_for_later(self.request.headers, self.request.id, **later)
        return result

    def _token_for(self, name: str) -> str:
        """Return the token of the call's lease, empty unless it is a lease on this lock."""
        return str(self.header.get("token", "")) if self.header.get("lock") == name else ""

    def _release_call_unless(self, adopter: Lease) -> None:
        """Release the call's lease if it is on another lock than the run's. A deploy may have changed the scope."""
        token, name = self.header.get("token"), self.header.get("lock")
        if token and "lasting" not in self.header and name != adopter._claim.name:
            keeper().release_later(self.locks.store, str(name), str(token), self.spec.options.ttl)

    def _enter_separately(self) -> Entered | Skipped:
        lock = self._lock()
        lease = self._acquire(lock)
        if not isinstance(lease, Lease):
            return lease
        adopted = self._token_for(lock._name)  # the call was made under another scope
        return (None if adopted else self._settle_call()) or self._entered(lease, lease)

    def _enter_once_for_a_message(self, settle: Callable[[], Skipped | None]) -> Entered | Skipped:
        """Acquire a lease for the message alone, so that no second copy of it runs alongside. The key is free then."""
        guard = None
        if not is_local(self.request):
            guard = self._acquire_of_message()
        if "started" not in self.header:
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

    def _release_key(self) -> Skipped | None:
        lease = self._acquire(self._lock())
        if not isinstance(lease, Lease):
            return lease
        release_or_later(self._bind_release(lease))
        return None

    def _keep_lasting(self) -> Skipped | None:
        if "token" not in self.header:  # the calling process does not know the task: the ttl begins now
            if self.request.id:
                self.owner = owners.lasting(self.task.name, self.request.id, self.request.hostname)
            lease = self._acquire(self._lock())
            if not isinstance(lease, Lease):
                return lease
            keeper().forget(lease)
            journal.remove_claim(lease.token)
            return None
        lock = self._lock()
        contention = self._contention(lock, lock._new_claim())
        try:
            # Asks for the state of the lease. The ttl is shorter than any, so nothing is extended.
            probe = Renewal(self.header["lock"], self.header["token"], SHORTEST_TTL)
            replaced = contention.lock._store.renew([probe])[0] == "replaced"
        except StoreUnavailable as error:
            defer(contention, error)
        return contention.superseded() if replaced else None

    def _settle_call(self) -> Skipped | None:
        """Release the call's lease on its own lock. Return the result of the run if the lease was replaced."""
        token = self.header.get("token")
        if not token:
            return None
        lock = self._lock()
        lock._name = self.header["lock"]
        contention = self._contention(lock, self._claim(lock, token))
        try:
            answer = contention.attempt()
        except StoreUnavailable:
            keeper().release_later(lock._store, lock._name, token, contention.claim.ttl)
            return None
        if isinstance(answer, Lease):
            release_or_later(self._bind_release(answer))
        elif answer.replaced:
            return contention.superseded()
        return None  # its ttl ended before the run began, or the run of a copy of the message has released it

    def _acquire(self, lock: Lock) -> Lease | Skipped:
        """Return the lease, or the decision of the policy. A lease of the call on this lock is adopted."""
        contention = self._contention(lock, self._claim(lock, self._token_for(lock._name)))
        try:
            result = self._policy(contention).enter(contention)
        except StoreUnavailable as error:
            if is_local(self.request):
                raise
            defer(contention, error)
        finally:
            if contention.left_line:
                self.left_line, self.ticket = True, contention.ticket
        # Not in the ``finally``: a deferred message still needs its ticket.
        if contention.ticket:
            self.ticket, self.ticket_token = contention.ticket, contention.claim.token
        return result

    def _policy(self, contention: Contention) -> ContentionPolicy:
        """Return the policy. A message that was dispatched from the line enters by its ticket, even after a deploy."""
        if "ticket" in self.header and not is_local(self.request) and tickets_of(self.locks.store) is not None:
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
        journal.add_claim(claim.token, claim.name, self.key, self.task.name, self.request.id or "", self.store)
        return claim

    def _lock(self) -> Lock:
        return Lock(self.locks._space, self.key, self.spec.terms, self.owner, sender=self.task)

    def _entered(self, guard: Lease | None, lease: Lease | None) -> Entered:
        if guard is not None:
            journal.mark_granted(guard.token)
        return Entered(None if guard is None else self._bind_release(guard), lease)

    def _refused_at_call(self) -> Skipped:
        """Return the outcome of a call that was refused while its caller waits for a result."""
        holders = list(self.header.get("holders") or ())
        if self.header["refused"] == "raise":
            raise LockContended(
                f"{self.key!r} was not available at the call: {describe_holders(holders)}", self.key, holders
            )
        text = f"{self.task.name} skipped: {self.key!r} was not available at the call"
        _logging.line(logger, logging.INFO, "skipped", text, key=self.key, owner=self.owner, holders=holders)
        return Skipped(self.key, holders)
