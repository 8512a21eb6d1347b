"""`Lock`, one key: waiting for it, holding it, giving it back."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from celery_locks import _logging, _nesting, _waiting, signals
from celery_locks._durations import Duration
from celery_locks._runtime.process import host_and_pid
from celery_locks._runtime.tokens import new_token
from celery_locks._sansio import Abandoned, Steps, run
from celery_locks._space import Space
from celery_locks._validation import Terms, checked_count, checked_timeout
from celery_locks._waiting import wait_in_line
from celery_locks.errors import LockError, LockQueueFull, LockTimeout, StoreUnavailable
from celery_locks.lease import Lease, kept_lease, release_kept_later, release_or_later, release_rest_later
from celery_locks.renewal import keeper
from celery_locks.stores.types import Claim, Granted, Holder, Refused

if TYPE_CHECKING:
    from celery_locks.outcomes import OutcomeCallback, OutcomeKind
    from celery_locks.stores.parking import Dropped, Full, Out, Parked, Parking, Ticket
    from celery_locks.ticket import LockTicket

T = TypeVar("T")

logger = _logging.logger(__name__)


class Lock:
    """One key. May be shared by threads; each acquisition is a `Lease` of its own.

    As a context manager it waits as long as it takes, and raises `LockLost` at the end when the lease was lost
    within.

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
        self._sender = sender or self
        self._on_event = on_event
        #: The leases of those who are within, innermost last, by thread (or greenlet).
        self._entered: dict[int, list[Lease]] = {}

    @property
    def _store_name(self) -> str:
        """The name of its store among those of an app."""
        return self._space.store_name

    def __repr__(self) -> str:
        return f"<Lock {self.key!r} at {self._space.url}>"

    def acquire(
        self, *, timeout: Duration | None = None, attempts: int | None = None, claim: Claim | None = None
    ) -> Lease:
        """Wait in line, first come first served, until the key is free.

        Args:
            timeout: The longest wait; ``None`` for as long as it takes, 0 for a single try.
            attempts: How often the store is asked at most; ``None`` for any number. It stands in line between two
                attempts, for 0.25 s at first and twice as long each time, up to 3 s; a release ends the pause.
            claim: A claim of `claim`, for callers that must know the owner token beforehand.

        Raises:
            LockTimeout: It was still held by others when the time was over, or at the last attempt.
            LockQueueFull: As many wait already as ``max_waiters`` of the lock allows.
            LockError: The current run, or a ``with`` block of this thread, holds it already and would wait for itself.
            StoreUnavailable: The store can't be reached, or took longer to answer than the lease lives; nothing was
                acquired.
        """
        # The first look without steps: where the key is free, they would cost some 6 µs.
        timeout = None if timeout is None else checked_timeout(timeout)
        begun = self._space.clock.now()
        until = None if timeout is None else begun + timeout
        once = timeout == 0
        if attempts is not None:
            once, until = checked_count("attempts", attempts) == 1 or once, math.inf if until is None else until
        claim = claim or self._new_claim()
        claim.patience = timeout or None  # a single try has the time that the store takes
        try:
            answer: Lease | Refused = self._look(claim, None if once else _waiting.PLACE_KEPT, sent=begun)
            if not isinstance(answer, Lease):
                answer = run(self._ask_and_leave_steps(claim, until, answer, begun, attempts))
            if isinstance(answer, Lease):
                return answer
        except BaseException:
            self._undo(claim)
            raise
        return self._in_time(answer, until)

    def _acquire_steps(self, timeout: Duration | None = None, attempts: int | None = None) -> Steps[Lease]:
        """The steps of `acquire`."""
        claim = self._new_claim()
        until = self._until(claim, timeout)
        if attempts is not None:
            attempts, until = checked_count("attempts", attempts), math.inf if until is None else until
        return self._in_time((yield from self._ask_and_leave_steps(claim, until, attempts=attempts)), until)

    def _ask_and_leave_steps(
        self,
        claim: Claim,
        until: float | None,
        seen: Refused | None = None,
        begun: float | None = None,
        attempts: int | None = None,
    ) -> Steps[Lease | Refused]:
        try:
            answer = yield from self._in_line(claim, until, seen=seen, begun=begun, attempts=attempts)
            if isinstance(answer, Refused) and answer.position is not None:
                yield partial(self._store.leave, claim.name, claim.token)
        except BaseException as error:
            self._undo(claim, error)
            raise
        return answer

    def _refuse_nested(self, refused: Refused, endless: bool = False) -> None:
        """Raise an error where a wait could never succeed; see `nesting.waits_for_itself`.

        Args:
            refused: The store's answer.
            endless: Whether the wait has no timeout.

        Raises:
            LockError: What the current run holds, or a ``with`` block of this thread or asyncio task, is asked for.
        """
        error = _nesting.waits_for_itself(self, refused, endless)
        if error is not None:
            raise error

    def _check_ended(self, answer: Lease | Refused | Granted, until: float | None) -> None:
        """Raise the error of a wait that ended before its time was over."""
        error = self._ended_error(answer, until)
        if error is not None:
            raise error

    def _ended_error(self, answer: Lease | Refused | Granted, until: float | None) -> LockError | None:
        if not isinstance(answer, Refused):
            return None
        if answer.full:
            most = self._terms.max_waiters
            said = f"{self.key!r} has max_waiters={most} waiters already: try again later, or raise max_waiters"
            return LockQueueFull(said, self.key)
        if until is None or self._space.clock.now() < until:
            return _nesting.waits_for_itself(self, answer, until is None)
        return None

    def _is_hopeless(self, until: float | None) -> Callable[[Refused], bool]:
        return lambda refused: _nesting.waits_for_itself(self, refused, until is None) is not None

    def _until(self, claim: Claim, timeout: Duration | None) -> float | None:
        """Return when to stop waiting for a claim, and note in it how long its caller waits."""
        seconds = None if timeout is None else checked_timeout(timeout)
        claim.patience = seconds or None
        return None if seconds is None else self._space.clock.now() + seconds

    def _in_time(self, answer: Lease | Refused, until: float | None) -> Lease:
        if isinstance(answer, Lease):
            return answer
        self._check_ended(answer, until)
        raise self._timed_out(answer)

    def enqueue(self) -> LockTicket:
        """Takes a place in line, or the lease if the key is free, and returns at once; see `LockTicket`.

        Raises:
            LockConfigError: The store has no line.
            LockQueueFull: As many wait already as ``max_waiters`` of the lock allows.
            StoreUnavailable: The store can't be reached; nothing was acquired.
        """
        claim = self._new_claim()
        try:
            ticket = self._enqueue(claim)
            return ticket  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            self._undo_interrupted(claim, error)
            raise

    def _enqueue(self, claim: Claim) -> LockTicket:
        """`enqueue`, for callers that must know the owner token beforehand."""
        try:
            ticket = run(self._enqueue_steps(claim))
            return ticket  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            self._undo_interrupted(claim, error)
            raise

    def _enqueue_steps(self, claim: Claim | None = None) -> Steps[LockTicket]:
        """The steps of `enqueue`."""
        from celery_locks.ticket import LockTicket

        self._space.require("fair", "lock.enqueue()", self.key)
        ticket = LockTicket(self, claim or self._new_claim())
        try:
            yield from ticket._position_steps()
        except BaseException as error:
            self._undo(ticket._claim, error)
            raise
        return ticket

    def wait(self, *, timeout: Duration | None = None) -> bool:
        """Waits in line until it could be acquired, and acquires nothing. The next one to ask may be quicker.

        Args:
            timeout: The longest wait; ``None`` for as long as it takes.

        Returns:
            Whether it came free in time.

        Raises:
            LockQueueFull: As many wait already as ``max_waiters`` of the lock allows.
            LockError: The current run, or a ``with`` block of this thread, holds it: that would wait for itself.
            StoreUnavailable: The store can't be reached.
        """
        return run(self._wait_steps(timeout))

    def _wait_steps(self, timeout: Duration | None = None) -> Steps[bool]:
        """The steps of `wait`."""
        mine = self._new_claim()
        until = self._until(mine, timeout)
        # A claim for no permits, that is granted where there is room for this lock's: it keeps nobody out.
        claim = replace(mine, permits=0, limit=mine.limit - mine.permits, ttl=_waiting.PLACE_KEPT)
        try:
            look, hopeless = self._store.acquire, self._is_hopeless(until)
            answer = yield from wait_in_line(
                self._store, self._space.clock, claim, until, look, _no_signal, hopeless=hopeless
            )
            yield partial(self._leave_line, claim)
        except BaseException as error:
            self._undo(claim, error)
            raise
        self._check_ended(answer, until)
        return isinstance(answer, Granted)

    def _ask_steps(self, claim: Claim, timeout: float | None, stay: bool) -> Steps[Lease | Refused]:
        """Return the steps of a wait that keeps its place in line when the time is over, and sends no signal then.

        Args:
            claim: What is asked for.
            timeout: The longest wait in seconds.
            stay: Whether it stands in line also after the last look.
        """
        until = None if timeout is None else self._space.clock.now() + timeout
        try:
            answer = yield from self._in_line(claim, until, stay=stay)
            ended = self._ended_error(answer, until)
            if ended is not None:
                yield partial(self._leave_line, claim)
        except BaseException as error:
            self._undo(claim, error)
            raise
        if ended is not None:
            raise ended
        return answer

    def _stand_steps(self, claim: Claim, timeout: Duration | None, place: float) -> Steps[Lease | Refused]:
        """For `LockTicket`: waits in line, and stays in it. The place is kept for ``place`` seconds after each look.

        Raises:
            StoreUnavailable: The store can't be reached; what it may have granted is granted to the next call.
        """
        until = self._until(claim, timeout)
        try:
            answer = yield from self._in_line(claim, until, place, stay=True)
        except StoreUnavailable:
            raise
        except BaseException as error:
            self._undo(claim, error)
            raise
        self._check_ended(answer, until)
        return answer

    def _leave_line(self, claim: Claim) -> None:
        """Gives up a place in line, and what the store granted while nobody heard its answer."""
        try:
            self._store.leave(claim.name, claim.token)
            self._store.release(claim.name, claim.token)
        except BaseException as error:
            self._undo(claim)
            if not isinstance(error, StoreUnavailable):
                raise

    def try_acquire(self) -> Lease | None:
        """The lease, or ``None`` when others hold the key or wait for it.

        Raises:
            StoreUnavailable: The store can't be reached; nothing was acquired.
        """
        claim = self._new_claim()
        try:
            answer = self._attempt(claim)
            return answer if isinstance(answer, Lease) else None
        except BaseException as error:
            self._undo_interrupted(claim, error)
            raise

    def _try_steps(self) -> Steps[Lease | None]:
        """The steps of `try_acquire`."""
        claim = self._new_claim()
        try:
            answer = yield from self._in_line(claim, self._space.clock.now())
        except BaseException as error:
            self._undo(claim, error)
            raise
        return answer if isinstance(answer, Lease) else None

    def _attempt(self, claim: Claim | None = None, keep: bool = True) -> Lease | Refused:
        """Like `try_acquire`, with the store's answer where the lease was not to be had.

        Args:
            claim: What to ask for.
            keep: Whether the lease is watched and renewed here. One that is not is for another process.
        """
        claim = claim or self._new_claim()
        try:
            answer = self._look(claim, keep=keep)
            if isinstance(answer, Lease):
                return answer
        except BaseException:
            self._undo(claim)
            raise
        self._report_contention(answer)
        return answer

    def _enter(self, parking: Parking, claim: Claim, ticket: Ticket) -> Lease | Parked | Dropped | Full | Out:
        """`Parking.enter`, with the lease where it was granted."""
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
            # Not by a release: the ticket would be done, and its message be dropped when it is sent again.
            keeper().take_back_later(parking, claim.name, claim.token, claim.ttl)
            raise
        from celery_locks.stores.parking import Parked

        if isinstance(answer, Parked) and not ticket.message:
            self._report_contention(answer.refused)
        return answer

    def run(self, function: Callable[..., T], *args: Any, timeout: Duration | None = None, **kwargs: Any) -> T:
        """Calls the function under the lock and returns what it returns.

        Args:
            function: What to call with the arguments.
            timeout: The longest wait for the key.

        Raises:
            LockTimeout: The key was not to be had in time.
            LockLost: The lease was lost while the function ran.
        """
        return self._run(lambda lease: function(*args, **kwargs), timeout)

    def update(
        self, function: Callable[[Any], T], *, timeout: Duration | None = None, keep: Duration | None = None
    ) -> T:
        """Change the value kept with the key, under the lock.

        Args:
            function: Called with the value, ``None`` for none; returns the new one, which must be JSON.
            timeout: The longest wait for the key.
            keep: How long the new value is kept; 30 days by default.

        Returns:
            The new value. It was written in the step that released the key.

        Raises:
            LockTimeout: The key was still held by others when the time was over.
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
            released = lease.release()  # here, because the end of a block leaves what fails to the background
            lease._check_written(released)
            return value

        return self._run(change, timeout)

    def _require_values(self) -> None:
        """Refuse `update` where the store keeps no values.

        Raises:
            LockConfigError: It keeps none.
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
        """Whether anybody holds the key."""
        return bool(self.holders())

    def holders(self) -> tuple[Holder, ...]:
        """Return the holders of the key."""
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
            self._undo_block(claim)
            raise

    def _enter_block(self, claim: Claim) -> Lease:
        """Begin a ``with`` block under a lease of this claim."""
        try:
            lease = self.acquire(claim=claim)
            self._entered.setdefault(threading.get_ident(), []).append(lease)
            lease._begin_block()
            return lease
        except BaseException:
            self._undo_block(claim)
            raise

    def _undo_block(self, claim: Claim) -> None:
        """Release what a block has acquired that was interrupted at its beginning."""
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

    def _in_line(
        self,
        claim: Claim,
        until: float | None,
        place: float | None = None,
        stay: bool = False,
        seen: Refused | None = None,
        begun: float | None = None,
        attempts: int | None = None,
    ) -> Steps[Lease | Refused]:
        clock = self._space.clock
        look = partial(self._look, begun=clock.now() if begun is None else begun)
        hopeless = self._is_hopeless(until)
        return wait_in_line(
            self._store, clock, claim, until, look, self._report_contention, place, stay, seen, hopeless, attempts
        )

    def _look(
        self,
        claim: Claim,
        line_up: float | None = None,
        keep: bool = True,
        begun: float | None = None,
        sent: float | None = None,
    ) -> Lease | Refused:
        # The lease is kept by the thread that hears of it: a loop may be busy for long before it does.
        sent = self._space.clock.now() if sent is None else sent
        answer = self._store.acquire(claim, line_up)
        if not isinstance(answer, Granted):
            return answer
        return self._granted(claim, answer, sent, keep, 0.0 if begun is None else sent - begun)

    def _timed_out(self, refused: Refused, message: str = "") -> LockTimeout:
        """Send `on_lock_timed_out` and return the `LockTimeout`.

        Each acquisition that times out calls this once, whatever its policy.

        Args:
            refused: The store's last answer.
            message: That of the error; by default, that the time is over.
        """
        names = holder_names(refused)
        if signals.on_lock_timed_out.receivers:
            self._send(signals.on_lock_timed_out, names)
        self._call_hook("timed_out", names)
        message = message or f"{self.key!r} was not to be had in time: {who_holds(names)}"
        return LockTimeout(message, self.key, names)

    def _new_claim(self) -> Claim:
        """What one acquisition of this lock asks for, with an owner token of its own."""
        terms, owner, token = self._terms, self._owner, new_token()
        scope = _nesting.current_scope()
        if scope is not None:
            owner, token = owner or scope.owner, token + _nesting.mark_of_run(scope.lease.token)
        owner = owner or host_and_pid()
        return Claim(
            self._name,
            token,
            owner,
            terms.first_ttl,
            terms.limit,
            terms.permits,
            max_waiters=terms.max_waiters,
        )

    def _granted(self, claim: Claim, granted: Granted, sent: float, keep: bool = True, waited: float = 0.0) -> Lease:
        number, max_hold, clock = granted.fencing_token, self._terms.max_hold, self._space.clock
        lease = Lease(
            self._store,
            claim,
            self.key,
            number,
            sent,
            max_hold=max_hold,
            sender=self._sender,
            clock=clock,
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

    def _undo_interrupted(self, claim: Claim, error: BaseException) -> None:
        """`undo`, unless the error is one of ours: what raised it has left nothing behind."""
        if not isinstance(error, LockError):
            self._undo(claim, error)

    def _undo(self, claim: Claim, error: BaseException | None = None) -> None:
        """Gives back what an acquisition that failed may have got all the same."""
        # The store may have said yes while the reply was lost, or while this thread was interrupted.
        lease = kept_lease(claim.token)
        if lease is not None:
            release_or_later(lease)
        elif isinstance(error, Abandoned):
            self._leave_line(claim)
        else:
            keeper().release_later(self._store, claim.name, claim.token, claim.ttl)

    def _report_contention(self, refused: Refused) -> None:
        """Tells that it was not to be had."""
        debug = logger.isEnabledFor(logging.DEBUG)
        if not (debug or signals.on_lock_contended.receivers or self._on_event):
            return
        names = holder_names(refused)
        if debug:
            said = f"{self.key!r} is not to be had now: {who_holds(names)}"
            _logging.line(logger, logging.DEBUG, "contended", said, key=self.key, owner=self._owner, holders=names)
        self._send(signals.on_lock_contended, names)
        self._call_hook("contended", names)

    def _send(self, signal: signals.Signal, holders: list[str]) -> None:
        """Send a signal about an acquisition without a lease."""
        signal.send(self._sender, key=self.key, holders=holders, owner=self._owner, store=self._store_name)

    def _call_hook(self, kind: OutcomeKind, holders: list[str]) -> None:
        if self._on_event is not None:
            from celery_locks.outcomes import call, of_key

            call(self._on_event, of_key(kind, self.key, holders, self._owner, self._sender, self._store_name))


def _no_signal(refused: Refused) -> None:
    """Send no signal."""


def holder_names(refused: Refused) -> list[str]:
    """The names of those who hold a key."""
    return [holder.owner for holder in refused.holders]


def who_holds(names: list[str]) -> str:
    """The end of a sentence that says who holds a key."""
    return f"it is held by {', '.join(map(_logging.one_line, names))}" if names else "others are before in line"
