"""`Lock`: wait for a key, acquire it, and release it."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from celery_locks import _logging, _nesting, _sansio, signals
from celery_locks._durations import Duration
from celery_locks._runtime.process import host_and_pid
from celery_locks._runtime.tokens import new_token
from celery_locks._sansio import CallerCancelled, Steps, run, wait_in_line
from celery_locks._space import Space
from celery_locks._validation import Terms, checked_count, checked_timeout
from celery_locks.errors import LockError, LockQueueFull, LockTimeout, StoreUnavailable
from celery_locks.lease import Lease, kept_lease, release_kept_later, release_or_later, release_rest_later
from celery_locks.renewal import keeper
from celery_locks.signals import OutcomeCallback, OutcomeKind, call_on_event, outcome_of_key
from celery_locks.stores.types import Claim, Granted, Holder, Refused

if TYPE_CHECKING:
    from celery_locks.stores.parking import Dropped, Full, Out, Parked, Parking, Ticket
    from celery_locks.ticket import LockTicket

T = TypeVar("T")

logger = _logging.logger(__name__)


class Lock:
    """The lock of a key. Threads may share it; each acquisition is a `Lease` of its own.

    As a context manager, it waits for any time, and raises `LockLost` at the end if the lease was lost in the block.

    Attributes:
        key: What is locked.
    """

    def __init__(
        self,
        space: Space,
        key: str,
        terms: Terms,
        owner: str | None = None,
        sender: object = None,
        on_event: OutcomeCallback | None = None,
    ) -> None:
        self.key = key
        self._terms = terms
        self._name = space.name(key)
        self._space = space
        self._store = space.store
        self._owner = owner or space.owner
        #: The sender of its signals, ``None`` for the lock itself, which would be a circle.
        self._given_sender = sender
        self._on_event = on_event
        #: The leases of the ``with`` blocks of each thread (or greenlet), innermost last.
        self._entered: dict[int, list[Lease]] = {}

    @property
    def _sender(self) -> object:
        return self._given_sender or self

    @property
    def _store_name(self) -> str:
        """The name of its store among the stores of an app."""
        return self._space.store_name

    def __repr__(self) -> str:
        return f"<Lock {self.key!r} at {self._space.url}>"

    def acquire(
        self, *, timeout: Duration | None = None, attempts: int | None = None, claim: Claim | None = None
    ) -> Lease:
        """Acquire the key. Wait in line, first come first served, until it is free.

        Args:
            timeout: The longest wait: seconds, a ``timedelta`` or a text such as ``"5m"``; ``None`` for no limit, 0 for
                a single attempt.
            attempts: The highest number of requests to the store; ``None`` for any number. Between two attempts it
                waits in line, for 0.25 s at first and twice as long each time, up to 3 s. A release ends the pause.
            claim: A claim of this lock, for callers that must know the owner token before.

        Raises:
            LockTimeout: Others still held the key at the end of the timeout, or at the last attempt.
            LockQueueFull: The line has ``max_waiters`` waiters already.
            LockError: The current run, or a ``with`` block of this thread, holds the key and would wait for itself.
            StoreUnavailable: The store can't be reached, or took longer to answer than the lease lives. Nothing was
                acquired.
        """
        # The first request without steps, which would cost some 6 µs if the key is free.
        timeout = None if timeout is None else checked_timeout(timeout)
        begun = self._space.clock.now()
        until = None if timeout is None else begun + timeout
        once = timeout == 0
        if attempts is not None:
            once, until = checked_count("attempts", attempts) == 1 or once, math.inf if until is None else until
        claim = claim or self._new_claim()
        claim.patience = timeout or None  # a single attempt may take as long as the store takes
        try:
            answer: Lease | Refused = self._request(claim, None if once else _sansio.PLACE_KEPT_SECONDS, sent=begun)
            if not isinstance(answer, Lease):
                answer = run(self._wait_and_leave_steps(claim, until, answer, begun, attempts))
            if isinstance(answer, Lease):
                return answer
        except BaseException:
            self._roll_back(claim)
            raise
        return self._lease_or_timeout(answer, until)

    def _acquire_steps(self, timeout: Duration | None = None, attempts: int | None = None) -> Steps[Lease]:
        """Return the steps of `acquire`."""
        claim = self._new_claim()
        until = self._until(claim, timeout)
        if attempts is not None:
            attempts, until = checked_count("attempts", attempts), math.inf if until is None else until
        return self._lease_or_timeout((yield from self._wait_and_leave_steps(claim, until, attempts=attempts)), until)

    def _wait_and_leave_steps(
        self,
        claim: Claim,
        until: float | None,
        first_answer: Refused | None = None,
        begun: float | None = None,
        attempts: int | None = None,
    ) -> Steps[Lease | Refused]:
        try:
            answer = yield from self._line_steps(
                claim, until, first_answer=first_answer, begun=begun, attempts=attempts
            )
            if isinstance(answer, Refused) and answer.position is not None:
                yield partial(self._store.leave, claim.name, claim.token)
        except BaseException as error:
            self._roll_back(claim, error)
            raise
        return answer

    def _refuse_nested(self, refused: Refused, endless: bool = False) -> None:
        """Raise an error if a wait could never succeed; see `_nesting.waits_for_itself`.

        Args:
            refused: The store's answer.
            endless: Whether the wait has no timeout.

        Raises:
            LockError: The current run, or a ``with`` block of this thread or asyncio task, holds the key.
        """
        error = _nesting.waits_for_itself(self, refused, endless)
        if error is not None:
            raise error

    def _raise_if_ended(self, answer: Lease | Refused | Granted, until: float | None) -> None:
        """Raise the error of a wait that ended before its timeout."""
        error = self._ended_error(answer, until)
        if error is not None:
            raise error

    def _ended_error(self, answer: Lease | Refused | Granted, until: float | None) -> LockError | None:
        if not isinstance(answer, Refused):
            return None
        if answer.full:
            most = self._terms.max_waiters
            message = f"{self.key!r} has max_waiters={most} waiters already: try again later, or raise max_waiters"
            return LockQueueFull(message, self.key)
        if until is None or self._space.clock.now() < until:
            return _nesting.waits_for_itself(self, answer, until is None)
        return None

    def _is_hopeless(self, until: float | None) -> Callable[[Refused], bool]:
        return lambda refused: _nesting.waits_for_itself(self, refused, until is None) is not None

    def _until(self, claim: Claim, timeout: Duration | None) -> float | None:
        """Return when the wait for a claim ends, and note in the claim how long its caller waits."""
        seconds = None if timeout is None else checked_timeout(timeout)
        claim.patience = seconds or None
        return None if seconds is None else self._space.clock.now() + seconds

    def _lease_or_timeout(self, answer: Lease | Refused, until: float | None) -> Lease:
        if isinstance(answer, Lease):
            return answer
        self._raise_if_ended(answer, until)
        raise self._timed_out(answer)

    def enqueue(self) -> LockTicket:
        """Take a place in line, or acquire the key if it is free, without a wait; see `LockTicket`.

        Raises:
            LockConfigError: The store has no line.
            LockQueueFull: The line has ``max_waiters`` waiters already.
            StoreUnavailable: The store can't be reached. Nothing was acquired.
        """
        claim = self._new_claim()
        try:
            ticket = self._enqueue(claim)
            return ticket  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            self._roll_back_interrupt(claim, error)
            raise

    def _enqueue(self, claim: Claim) -> LockTicket:
        """Do the same as `enqueue`, for callers that must know the owner token before."""
        try:
            ticket = run(self._enqueue_steps(claim))
            return ticket  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            self._roll_back_interrupt(claim, error)
            raise

    def _enqueue_steps(self, claim: Claim | None = None) -> Steps[LockTicket]:
        """Return the steps of `enqueue`."""
        from celery_locks.ticket import LockTicket

        self._space.require("fair", "lock.enqueue()", self.key)
        ticket = LockTicket(self, claim or self._new_claim())
        try:
            yield from ticket._position_steps()
        except BaseException as error:
            self._roll_back(ticket._claim, error)
            raise
        return ticket

    def wait(self, *, timeout: Duration | None = None) -> bool:
        """Wait in line until the key is free, and acquire nothing. Another caller may acquire it next.

        Args:
            timeout: The longest wait: seconds, a ``timedelta`` or a text such as ``"5m"``; ``None`` for no limit.

        Returns:
            Whether the key became free in time.

        Raises:
            LockQueueFull: The line has ``max_waiters`` waiters already.
            LockError: The current run, or a ``with`` block of this thread, holds the key and would wait for itself.
            StoreUnavailable: The store can't be reached.
        """
        return run(self._wait_steps(timeout))

    def _wait_steps(self, timeout: Duration | None = None) -> Steps[bool]:
        """Return the steps of `wait`."""
        own = self._new_claim()
        until = self._until(own, timeout)
        # A claim for no permits, which is granted if this lock's permits are free: it takes none from other holders.
        claim = replace(own, permits=0, limit=own.limit - own.permits, ttl=_sansio.PLACE_KEPT_SECONDS)
        try:
            ask, is_hopeless = self._store.acquire, self._is_hopeless(until)
            answer = yield from wait_in_line(
                self._store, self._space.clock, claim, until, ask, _send_no_signal, is_hopeless=is_hopeless
            )
            yield partial(self._leave_line, claim)
        except BaseException as error:
            self._roll_back(claim, error)
            raise
        self._raise_if_ended(answer, until)
        return isinstance(answer, Granted)

    def _member_steps(self, claim: Claim, timeout: float | None, stay: bool) -> Steps[Lease | Refused]:
        """Return the steps of a wait for one of several keys: it may keep its place in line, and sends no time-out.

        Args:
            claim: The claim.
            timeout: The longest wait in seconds.
            stay: Whether to stand in line also after the last request.
        """
        until = None if timeout is None else self._space.clock.now() + timeout
        try:
            answer = yield from self._line_steps(claim, until, stay=stay)
            ended = self._ended_error(answer, until)
            if ended is not None:
                yield partial(self._leave_line, claim)
        except BaseException as error:
            self._roll_back(claim, error)
            raise
        if ended is not None:
            raise ended
        return answer

    def _ticket_steps(self, claim: Claim, timeout: Duration | None, place: float) -> Steps[Lease | Refused]:
        """Return the steps of a `LockTicket`'s wait, which stays in line.

        The store keeps its place for ``place`` seconds after each request.

        Raises:
            StoreUnavailable: The store can't be reached. If it has granted the claim, the next call gets the lease.
        """
        until = self._until(claim, timeout)
        try:
            answer = yield from self._line_steps(claim, until, place, stay=True)
        except StoreUnavailable:
            raise
        except BaseException as error:
            self._roll_back(claim, error)
            raise
        self._raise_if_ended(answer, until)
        return answer

    def _leave_line(self, claim: Claim) -> None:
        """Leave the line, and release the lease if the store granted it and its answer did not arrive."""
        try:
            self._store.leave(claim.name, claim.token)
            self._store.release(claim.name, claim.token)
        except BaseException as error:
            self._roll_back(claim)
            if not isinstance(error, StoreUnavailable):
                raise

    def try_acquire(self) -> Lease | None:
        """Acquire the key without a wait. Return ``None`` if others hold the key or wait for it.

        Raises:
            StoreUnavailable: The store can't be reached. Nothing was acquired.
        """
        claim = self._new_claim()
        try:
            answer = self._attempt(claim)
            return answer if isinstance(answer, Lease) else None
        except BaseException as error:
            self._roll_back_interrupt(claim, error)
            raise

    def _try_steps(self) -> Steps[Lease | None]:
        """Return the steps of `try_acquire`."""
        claim = self._new_claim()
        try:
            answer = yield from self._line_steps(claim, self._space.clock.now())
        except BaseException as error:
            self._roll_back(claim, error)
            raise
        return answer if isinstance(answer, Lease) else None

    def _attempt(self, claim: Claim | None = None, keep: bool = True) -> Lease | Refused:
        """Do the same as `try_acquire`, but return the store's answer if it is a refusal.

        Args:
            claim: The claim.
            keep: Whether this process watches and renews the lease. If not, the lease is for another process.
        """
        claim = claim or self._new_claim()
        try:
            answer = self._request(claim, keep=keep)
            if isinstance(answer, Lease):
                return answer
        except BaseException:
            self._roll_back(claim)
            raise
        self._report_contention(answer)
        return answer

    def _enter(self, parking: Parking, claim: Claim, ticket: Ticket) -> Lease | Parked | Dropped | Full | Out:
        """Do the same as `Parking.enter`, but return the lease if it was granted."""
        sent = self._space.clock.now()
        try:
            answer = parking.enter(claim, ticket)
            if isinstance(answer, Granted):
                granted = self._granted(claim, answer, sent)
                granted._has_ticket = answer.has_ticket
                return granted
        except BaseException:
            if (lease := kept_lease(claim.token)) is not None:
                lease._forget(lease)
            # The ticket stays: if it were done, the next copy of its message would be dropped.
            keeper().release_unheard_later(parking, claim.name, claim.token, claim.ttl)
            raise
        from celery_locks.stores.parking import Parked

        if isinstance(answer, Parked) and not ticket.message:
            self._report_contention(answer.refused)
        return answer

    def run(self, function: Callable[..., T], *args: Any, timeout: Duration | None = None, **kwargs: Any) -> T:
        """Call a function under the lock, and return its result.

        Args:
            function: The function.
            *args: Its positional arguments.
            timeout: The longest wait for the key; see `acquire`.
            **kwargs: Its keyword arguments.

        Raises:
            LockTimeout: Others still held the key at the end of the timeout.
            LockLost: The lease was lost while the function ran.
            StoreUnavailable: The store can't be reached. Nothing was acquired.
        """
        return self._run(lambda lease: function(*args, **kwargs), timeout)

    def update(
        self, function: Callable[[Any], T], *, timeout: Duration | None = None, keep: Duration | None = None
    ) -> T:
        """Change the value kept with the key, under the lock.

        Args:
            function: Called with the value, or ``None`` if there is none. It returns the new value, which must be JSON.
            timeout: The longest wait for the key; see `acquire`.
            keep: How long to keep the new value: seconds, a ``timedelta`` or a text such as ``"5m"``; 30 days by
                default.

        Returns:
            The new value. It was written in the step that released the key.

        Raises:
            LockTimeout: Others still held the key at the end of the timeout.
            LockLost: The lease was lost before the value was written.
            LockConfigError: The value is not JSON, the time is out of bounds, or the store keeps no values.
            StoreUnavailable: The store can't be reached. If it failed at the release, the value may be written.

        Examples:
            >>> lock.update(lambda count: (count or 0) + 1)
            1
        """
        self._require_values()

        def change(lease: Lease) -> T:
            value = function(lease.value)
            lease.update(value, keep)
            released = lease.release()  # here, because the end of a block tries a failed release in the background
            lease._check_written(released)
            return value

        return self._run(change, timeout)

    def _require_values(self) -> None:
        """Refuse `update` if the store keeps no values.

        Raises:
            LockConfigError: The store keeps no values.
        """
        self._space.require("values", "lock.update()", self.key)

    def _run(self, function: Callable[[Lease], T], timeout: Duration | None) -> T:
        claim = self._new_claim()
        try:
            with self.acquire(timeout=timeout, claim=claim) as lease:
                return function(lease)
        except BaseException:  # an interrupt may have come before the block, or at its end
            release_kept_later(claim.token)
            raise

    def locked(self) -> bool:
        """Return whether the key is held."""
        return bool(self.holders())

    def holders(self) -> tuple[Holder, ...]:
        """Return the holders of the key, earliest acquisition first; at most 100."""
        return self._store.holders(self._name)

    def force_release(self) -> tuple[Holder, ...]:
        """Release the key by force. Its holders lose their leases with the reason ``force_released``.

        They notice within 100 ms on Redis and PostgreSQL, and at their next renewal on other stores.

        Returns:
            The holders, at most 100.
        """
        return self._store.force_release(self._name)

    def __enter__(self) -> Lease:
        claim = self._new_claim()
        try:
            lease = self._enter_block(claim)
            return lease  # noqa: RET504 - a call in the return is outside the try
        except BaseException:
            self._roll_back_block(claim)
            raise

    def _enter_block(self, claim: Claim) -> Lease:
        """Begin a ``with`` block under a lease of this claim."""
        try:
            lease = self.acquire(claim=claim)
            self._entered.setdefault(threading.get_ident(), []).append(lease)
            lease._begin_block()
            return lease
        except BaseException:
            self._roll_back_block(claim)
            raise

    def _roll_back_block(self, claim: Claim) -> None:
        """Release the lease of a block that was interrupted at its beginning."""
        lease = release_kept_later(claim.token)
        if lease is not None:
            self._leave_block(lease)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease: Lease | None = None
        try:
            lease = self._entered[threading.get_ident()][-1]
            self._leave_block(lease)
            lease.__exit__(kind, error, trace)
        except BaseException:
            if lease is None:
                lease = self._entered[threading.get_ident()].pop()
            release_rest_later(lease)
            raise

    def _leave_block(self, lease: Lease) -> None:
        thread = threading.get_ident()
        leases = self._entered.get(thread, [])
        if lease in leases:
            leases.remove(lease)
        if not leases:
            self._entered.pop(thread, None)

    def _line_steps(
        self,
        claim: Claim,
        until: float | None,
        place: float | None = None,
        stay: bool = False,
        first_answer: Refused | None = None,
        begun: float | None = None,
        attempts: int | None = None,
    ) -> Steps[Lease | Refused]:
        clock = self._space.clock
        return wait_in_line(
            self._store,
            clock,
            claim,
            until,
            partial(self._request, begun=clock.now() if begun is None else begun),
            self._report_contention,
            place,
            stay,
            first_answer,
            self._is_hopeless(until),
            attempts,
        )

    def _request(
        self,
        claim: Claim,
        line_up: float | None = None,
        keep: bool = True,
        begun: float | None = None,
        sent: float | None = None,
    ) -> Lease | Refused:
        # The keeper gets the lease in the thread of the request: an event loop may be busy for long before it does.
        sent = self._space.clock.now() if sent is None else sent
        answer = self._store.acquire(claim, line_up)
        if not isinstance(answer, Granted):
            return answer
        return self._granted(claim, answer, sent, keep, 0.0 if begun is None else sent - begun)

    def _timed_out(self, refused: Refused, message: str = "") -> LockTimeout:
        """Send `on_lock_timed_out` and return the `LockTimeout`.

        Each acquisition that times out calls this once, under every policy.

        Args:
            refused: The store's last answer.
            message: The message of the error; by default, that the timeout is over.
        """
        names = holder_names(refused)
        if signals.on_lock_timed_out.receivers:
            self._send(signals.on_lock_timed_out, names)
        self._call_on_event("timed_out", names)
        message = message or f"{self.key!r} was not acquired in time: {describe_holders(names)}"
        return LockTimeout(message, self.key, names)

    def _new_claim(self) -> Claim:
        """Return a claim for one acquisition of this lock, with an owner token of its own."""
        terms, owner, token = self._terms, self._owner, new_token()
        scope = _nesting.current_scope()
        if scope is not None:
            owner, token = owner or scope.owner, token + _nesting.mark_of_run(scope.lease.token)
        owner = owner or host_and_pid()
        most = terms.max_waiters
        return Claim(self._name, token, owner, terms.first_ttl, terms.limit, terms.permits, max_waiters=most)

    def _granted(self, claim: Claim, granted: Granted, sent: float, keep: bool = True, waited: float = 0.0) -> Lease:
        lease = Lease(
            self._store,
            claim,
            self.key,
            granted.fencing_token,
            sent,
            max_hold=self._terms.max_hold,
            sender=self._sender,
            clock=self._space.clock,
            waited=waited,
        )
        lease._store_name = self._space.store_name
        if not lease.remaining():
            raise StoreUnavailable(
                f"the lock store took longer to answer than the {claim.ttl:g} s that a lease of {self.key!r} lives",
                self.key,
            )
        if keep:
            keeper().keep(lease, self._terms.interval)
        if logger.isEnabledFor(logging.DEBUG):
            _logging.of_lease(logger, logging.DEBUG, "acquired", f"acquired {self.key!r}", lease, seconds=waited)
        if self._on_event is not None:
            lease._on_event = self._on_event
        if signals.on_lock_acquired.receivers or self._on_event is not None:
            lease._send(signals.on_lock_acquired, "acquired")
        return lease

    def _roll_back_interrupt(self, claim: Claim, error: BaseException) -> None:
        """Do the same as `_roll_back` after an interrupt. A `LockError` has left nothing behind."""
        if not isinstance(error, LockError):
            self._roll_back(claim, error)

    def _roll_back(self, claim: Claim, error: BaseException | None = None) -> None:
        """Release the lease that an acquisition may have got although it failed."""
        # The store may have granted it while its reply was lost, or while this thread was interrupted.
        lease = kept_lease(claim.token)
        if lease is not None:
            release_or_later(lease)
        elif isinstance(error, CallerCancelled):
            self._leave_line(claim)
        else:
            keeper().release_later(self._store, claim.name, claim.token, claim.ttl)

    def _report_contention(self, refused: Refused) -> None:
        """Log that the key is not available, and send the signal."""
        debug = logger.isEnabledFor(logging.DEBUG)
        if not (debug or signals.on_lock_contended.receivers or self._on_event):
            return
        names = holder_names(refused)
        if debug:
            message = f"{self.key!r} is not available now: {describe_holders(names)}"
            _logging.line(logger, logging.DEBUG, "contended", message, key=self.key, owner=self._owner, holders=names)
        self._send(signals.on_lock_contended, names)
        self._call_on_event("contended", names)

    def _send(self, signal: signals.Signal, holders: list[str]) -> None:
        """Send a signal about an acquisition without a lease."""
        store = self._space.store_name
        signal.send(self._sender, key=self.key, holders=holders, owner=self._owner, store=store)

    def _call_on_event(self, kind: OutcomeKind, holders: list[str]) -> None:
        if self._on_event is not None:
            store = self._space.store_name
            outcome = outcome_of_key(kind, self.key, holders, self._owner, self._sender, store)
            call_on_event(self._on_event, outcome)


def _send_no_signal(refused: Refused) -> None:
    """Send no signal."""


def holder_names(refused: Refused) -> list[str]:
    """Return the names of a key's holders."""
    return [holder.owner for holder in refused.holders]


def describe_holders(names: list[str]) -> str:
    """Return the end of a sentence that names the holders of a key."""
    return f"it is held by {', '.join(map(_logging.one_line, names))}" if names else "others are before in line"
