"""`Lease`: a holding of a key that expires by itself at its deadline."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from celery_locks import _logging, signals
from celery_locks._durations import Duration
from celery_locks._nesting import block_here
from celery_locks._runtime import threads
from celery_locks._runtime.callbacks import run_callback
from celery_locks._runtime.clock import Clock, system_clock
from celery_locks._runtime.hubs import current_hub
from celery_locks._validation import DEFAULT_STORE, checked_count, checked_ttl
from celery_locks.errors import LockConfigError, LockError, LockLost, LossReason, StoreUnavailable
from celery_locks.renewal import keeper
from celery_locks.renewal.loss_reader import why_lost
from celery_locks.signals import OutcomeCallback, OutcomeKind, call_on_event, outcome_of_lease
from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Granted, Renewal, Value

if TYPE_CHECKING:
    from typing_extensions import Self

logger = _logging.logger(__name__)

LostCallback = Callable[["Lease", LossReason], object]

_REASON_TEXTS = {
    "expired": "its time ran out",
    "stolen": "someone else holds it",
    "deleted": "its record is gone from the store",
    "unreachable": "the store did not answer in time",
    "max_hold": "it was held as long as it may be",
    "replaced": "a newcomer took it over",
    "force_released": "it was released by force",
}


class Holding(ABC):
    """One lease, or several that are held and lost together. A context manager that releases them."""

    #: Whether it is the lease of a task's run, which releases it.
    _of_run = False

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Whether it ended before it was released."""

    @abstractmethod
    def check(self) -> None:
        """Raise `LockLost` unless it is held."""

    @abstractmethod
    def _lost_error(self) -> LockLost:
        """Return the error that `check` raises."""

    @abstractmethod
    def _members(self) -> Sequence[Lease]:
        """Return the leases, in the order in which they were acquired."""

    def __enter__(self) -> Self:
        if self._of_run:
            raise LockError('a run releases its lease itself: use it without "with"')
        try:
            self.check()
            self._begin_block()
            return self
        except BaseException:
            release_rest_later(self)
            raise

    def _begin_block(self) -> None:
        """Note the thread or asyncio task whose ``with`` block holds it, which must not wait for it."""
        here = block_here()
        for lease in self._members():
            lease._block = here

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for lease in self._members():
                lease._block = None
            held = [release_or_later(lease) for lease in reversed(self._members())]
        except BaseException:
            release_rest_later(self)
            raise
        if kind is None and not all(held) and self.lost:
            raise self._lost_error()


class Lease(Holding):
    """A holding of a key, returned by `Lock.acquire` and the other ways to acquire.

    A lease is *held* until its holder *releases* or *abandons* it, or until it is *lost*. Then it is never held again.
    From the call of `release` on it is not held, even before the store confirms the release.

    As a context manager, it is released at the end of the block, also after an error. If the lease was lost in the
    block, the end raises `LockLost`, unless the block raised another error. The beginning raises `LockLost` if the
    lease is not held.

    The deadline is counted from before the last confirmed request was sent, on a clock that counts the sleep of the
    machine too. So a lease never ends later here than in the store.

    Attributes:
        key: What is locked.
        owner: The holder's name, for people to read.
        token: The owner token: random, one for each acquisition. Every process that has it can release the lease.
        fencing_token: A number greater than that of every earlier lease of this key. Send it with each write, and let
            the receiver refuse a number below the highest that it has seen. That stops even a holder that does not
            know yet that its lease is lost.
        ttl: How long the lease lives without renewal, in seconds.
        sender: The sender of its signals.
        waited: How long this process waited for the lease, in seconds.

    Examples:
        >>> with lock.acquire(timeout=10) as lease:
        ...     lease.check()
    """

    # Attributes of the class, because most leases never change them.
    _state = "held"
    _reason: LossReason | None = None
    _renewal: Renewal | None = None
    #: The new value of the key, written at the release.
    _new_value: Value | None = None
    #: The number of permits after a release of some of them that the store has not confirmed.
    _permits_left: int | None = None
    #: The renewer's interval in seconds, and its next renewal, on the lease's clock.
    _renew_every = _renew_at = 0.0
    #: The owner of the ``with`` block that holds it; see `block_here`.
    _block: object = None
    #: Whether all callbacks and receivers have been called for its loss.
    _loss_reported = False
    #: Replaces `Store.release`: a task's run also settles its ticket.
    _release_in_store: Callable[[Lease, Value | None], bool] | None = None
    #: Whether its run has a parked task's ticket.
    _has_ticket = False
    #: The name of its store among those of an app.
    _store_name = DEFAULT_STORE
    #: Called with each `Outcome` of this lease.
    _on_event: OutcomeCallback | None = None

    def __init__(
        self,
        store: Store,
        claim: Claim,
        key: str,
        fencing_token: int,
        sent: float,
        *,
        max_hold: float | None = None,
        sender: object = None,
        clock: Clock = system_clock,
        waited: float = 0.0,
    ) -> None:
        self.key = key
        self.owner = claim.owner
        self.token = claim.token
        self.fencing_token = fencing_token
        self.ttl = claim.ttl
        self.sender = sender
        self._store = store
        self._claim = claim
        self._clock = clock
        self._hold_end = None if max_hold is None else sent + max_hold
        self.waited = waited
        #: When it was requested, when its last confirmed request was sent, and its last request, on its clock.
        self._since = self._confirmed = self._last_sent = sent
        self._deadline = self._capped(sent + claim.ttl)
        self._callbacks: list[LostCallback] = []
        # Both re-entrant: a handler of a system signal may interrupt the thread that holds one, and use the lease.
        self._mutex = threads.RLock()
        self._releases = threads.RLock()
        #: The hub in which receivers and callbacks are called, in a process of greenlets.
        self._hub = current_hub()
        #: Aborts the work under the lease. When the lease is lost, the thread that notices calls this first.
        self._abort: LostCallback = _do_nothing
        #: Takes the lease out of renewal; set by the keeper.
        self._forget: Callable[[Any], object] = _do_nothing

    def __repr__(self) -> str:
        return f"<Lease {self.key!r} {self._state} fencing_token={self.fencing_token} owner={self.owner!r}>"

    # --- For the holder ---

    @property
    def permits(self) -> int:
        """How many permits of its key it holds; 1 for a lock.

        Released permits are not counted, even if the store could not be reached at their release.
        """
        return self._claim.permits if self._permits_left is None else min(self._permits_left, self._claim.permits)

    @property
    def held(self) -> bool:
        """Whether it is still held, by the local clock."""
        return not self.lost and self._state == "held" and self._clock.now() < self._deadline

    @property
    def lost(self) -> bool:
        """Whether it ended before it was released, by the local clock."""
        if self._state == "held" and self._clock.now() >= self._deadline:
            self._end_at_deadline()
        return self._state == "lost"

    @property
    def lost_reason(self) -> LossReason | None:
        """Why it was lost; ``None`` if it was not."""
        return self._reason if self.lost else None

    def remaining(self) -> float:
        """Return the seconds until the deadline, 0 if the lease is not held any more."""
        left = self._deadline - self._clock.now()
        return left if left > 0 and self._state == "held" else 0.0

    def _time_left(self) -> float:
        """Return the seconds until the deadline, also after a release; 0 when it has passed."""
        return max(0.0, self._ends_in(self._clock.now()))

    def held_for(self) -> float:
        """Return the seconds since the lease was requested."""
        return self._clock.now() - self._since

    def check(self) -> None:
        """Raise `LockLost` unless the lease is held. Without I/O, so a loop may call it often.

        Raises:
            LockLost: The lease is not held any more.
        """
        if not self.held:
            raise self._lost_error()

    def extend(self, ttl: Duration | None = None) -> None:
        """Extend the lease now: its deadline is at least ``ttl`` seconds from now.

        Args:
            ttl: The time from now: seconds, a ``timedelta`` or a text such as ``"5m"``; the lease's own by default.

        Raises:
            LockLost: The lease is not held any more.
            LockConfigError: The ttl is not a duration, or it is out of bounds.
            StoreUnavailable: The store can't be reached. The lease is still held until its deadline.
        """
        ttl = None if ttl is None else checked_ttl(ttl)
        self.check()
        sent = self._clock.now()
        renewal = self._renewal_request(sent, ttl)
        self._apply_renewal(sent, renewal.ttl, renew_one(self._store, renewal, self.key))
        self.check()

    def release(self, *, permits: int | None = None) -> bool:
        """Release the key, or some of its permits.

        Args:
            permits: How many permits of a semaphore to release. The lease is held with the rest of them. By default,
                and if the lease has no other permits, the whole lease is released.

        Returns:
            ``True`` if this call released the lease, ``False`` if it was not held any more.

        Raises:
            LockConfigError: The lease has fewer permits, or the number is not a whole number of at least 1.
            StoreUnavailable: The store can't be reached. After the release of a whole lease, it is neither held nor
                renewed any more. Call again to release it in the store before its deadline there.
        """
        if permits is not None and self._has_more_than(permits):
            return self._release_permits(permits)
        try:
            with self._releases:
                released = self._release()
            return released  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            if not isinstance(error, LockError):  # after an interrupt, the holder may not release it again
                keeper().release_lease_later(self, self._time_left())
            raise

    def _release(self) -> bool:
        if self._state in ("released", "abandoned"):
            return False
        # From here on, the answer to a renewal can't mark the lease as lost.
        repeated = self._state == "releasing"
        if not (repeated or self.lost):
            self._move("held", "releasing")
        self._forget(self)
        # A lease that is lost here may still be held in the store for a moment, so it is released there too.
        # In one step with the value: the holder that wrote a value held the key until then.
        value = self._new_value if self._state == "releasing" else None
        if self._release_in_store is not None:
            released = self._release_in_store(self, value)
        else:
            released = self._store.release(self._claim.name, self.token, value)
        if self._state == "lost":
            return False
        # If a repeated release finds no lease, the first one may have released it and its reply may be lost.
        if not (released or repeated):
            self._lose(self._why_gone(), "releasing")
        elif self._move("releasing", "released"):
            self._release_in_store = None  # a run has the lease and its release, so this would be a circle
            self._report_release()
        return released

    def _has_more_than(self, permits: int) -> bool:
        """Return whether the lease has more permits.

        Raises:
            LockConfigError: The lease has fewer, or the number is not a whole number of at least 1.
        """
        if checked_count("permits", permits) > self._claim.permits:
            raise LockConfigError(
                f"permits={permits} is more than the lease of {self.key!r} has: release {self._claim.permits} at most",
                self.key,
            )
        return permits < self._claim.permits

    def _release_permits(self, permits: int) -> bool:
        with self._releases:
            if not self.held:
                return False
            left = self._claim.permits - permits
            # If an earlier reply was lost, the store may have fewer already. Then this is the same release once more.
            self._permits_left = left if self._permits_left is None else min(self._permits_left, left)
            if not self._store.shrink(self._claim.name, self.token, self._permits_left):
                self._lose(self._why_gone())
                return False
            self._claim, self._permits_left = replace(self._claim, permits=self._permits_left), None
            return True

    def abandon(self) -> bool:
        """Stop holding the lease without a release: the key stays taken until the lease expires in the store.

        The lease is not renewed any more, and the value of `update` is not written. This is not a loss.

        Returns:
            ``True`` if this call abandoned the lease, ``False`` if it was not held any more.
        """
        try:
            return not self.lost and self._move("held", "abandoned")
        finally:
            if self._state == "abandoned":
                self._forget(self)

    def _hand_over(self, claim: Claim) -> bool:
        """Let a claim adopt the lease in one step. Unlike with `release`, no waiter can acquire the key in between.

        Returns:
            Whether the claim has the lease now; ``False`` if it was not held any more.

        Raises:
            StoreUnavailable: The store can't be reached. The lease is neither held nor renewed any more. `release` may
                be called.
        """
        try:
            with self._releases:
                handed = self._hand_over_once(claim)
            return handed  # noqa: RET504 - as in `release`
        except BaseException as error:
            if not isinstance(error, LockError):  # an interrupt: the claim or the lease holds the key
                keeper().release_later(self._store, claim.name, claim.token, claim.ttl)
                keeper().release_lease_later(self, self._time_left())
            raise

    def _hand_over_once(self, claim: Claim) -> bool:
        if self.lost or not self._move("held", "releasing"):
            return False
        self._forget(self)
        answer = self._store.acquire(claim)
        if not isinstance(answer, Granted):
            self._lose("replaced" if answer.replaced else self._why_gone(), "releasing")
            return False
        if self._move("releasing", "released"):
            self._report_release()
        return True

    def _why_gone(self) -> LossReason:
        if self._clock.now() >= self._deadline:
            return self._why_ended("expired")
        try:
            reasons = why_lost(self._store, [self])
        except StoreUnavailable:
            return "deleted"
        return reasons[0][1] or "deleted"

    @property
    def value(self) -> Any:
        """The value kept with the key: that of `update`, or the one in the store; ``None`` for none. Asks the store.

        Raises:
            LockConfigError: The store keeps no values.
            StoreUnavailable: The store can't be reached.
        """
        from celery_locks.stores import json_values

        new = self._new_value
        return json_values.read(self._store, self._claim.name) if new is None else json.loads(new.text)

    def update(self, value: Any, keep: Duration | None = None) -> None:
        """Set the value kept with the key. It is written when the lease is released, if it is still held then.

        Nothing is written before. A holder that dies or loses its lease leaves the value as it was.

        Args:
            value: Any JSON value.
            keep: How long to keep the value after the release: seconds, a ``timedelta`` or a text such as ``"5m"``; 30
                days by default.

        Raises:
            LockLost: The lease is not held any more.
            LockConfigError: The value is not JSON, the time is out of bounds, or the store keeps no values.
        """
        from celery_locks.stores import json_values
        from celery_locks.stores.capabilities import require

        if not self._store.values:
            require(self._store, "values", "lease.update()", self.key)
        self.check()
        kept = checked_ttl(json_values.KEEP_SECONDS if keep is None else keep, "keep")
        self._new_value = Value(json_values.to_text(value, self.key), kept)

    def _check_written(self, released: bool) -> None:
        """Raise an error unless the release has written the value.

        A release that is sent again after a lost reply finds no lease. Before the deadline, the first copy released it.
        Later, the lease may have expired, and the value may not be written.
        """
        if not released:
            raise self._lost_error()
        if not self._time_left():
            raise StoreUnavailable(
                f"the lease of {self.key!r} ended before the store confirmed the new value: read the value before you "
                "change it again",
                self.key,
            )

    def on_lost(self, callback: LostCallback) -> Callable[[], None]:
        """Call ``callback(lease, reason)`` once when the lease is lost, immediately if it is lost already.

        The thread that notices the loss calls it. If that is a thread of this library that renews or watches leases,
        the library's callback thread calls it.

        Returns:
            A function that disconnects the callback.
        """
        self._callbacks.append(callback)
        if self.lost:  # this thread may have been the first to notice, and so may another one
            self._call_callbacks()
        return lambda: self._disconnect(callback)

    def serialize(self) -> str:
        """Return the lease as text, for `Locks.restore` in another process. Keep it secret: it contains the token."""
        claim = self._claim
        return json.dumps(
            {
                "key": self.key,
                "owner": self.owner,
                "token": self.token,
                "fencing_token": self.fencing_token,
                "ttl": self.ttl,
                "limit": claim.limit,
                "permits": claim.permits,
                "hold_left": None if self._hold_end is None else max(0.001, self._hold_end - self._clock.now()),
            }
        )

    def _lost_error(self) -> LockLost:
        """Return the error of a lease that is not held any more."""
        if self._state in ("releasing", "released", "abandoned"):
            how = "abandoned" if self._state == "abandoned" else "released"
            return LockLost(f"the lease of {self.key!r} was {how}", self.key)
        reason = self._reason or "expired"
        return LockLost(f"the lease of {self.key!r} was lost: {_REASON_TEXTS[reason]}", self.key, reason)

    # --- For renewal ---

    def _is_held_at(self, now: float) -> bool:
        """Return whether the lease is held when its clock reads ``now``."""
        return self._state == "held" and now < self._deadline

    def _ends_in(self, now: float) -> float:
        """Return the seconds until the deadline when its clock reads ``now``."""
        return self._deadline - now

    def _is_of_block(self, here: object) -> bool:
        """Return whether a ``with`` block of this thread or task holds it, and it can only end with the block.

        Args:
            here: The result of `block_here`.
        """
        endless = self._renew_every > 0 and self._hold_end is None
        return endless and self._block == here and self._state == "held"

    def _renewal_request(self, now: float, ttl: float | None = None) -> Renewal:
        """Return the request for a renewal that is sent when the lease's clock reads ``now``."""
        if now > self._last_sent:
            self._last_sent = now
        if ttl is None and self._hold_end is None:  # the same each time
            self._renewal = self._renewal or Renewal(self._claim.name, self.token, self.ttl)
            return self._renewal
        ttl = self.ttl if ttl is None else ttl
        if self._hold_end is not None:
            ttl = min(ttl, max(self._hold_end - now, 0.001))
        return Renewal(self._claim.name, self.token, ttl)

    def _apply_renewal(self, sent: float, ttl: float, reason: LossReason | None) -> None:
        """Apply the store's answer to a renewal that was sent at ``sent``: ``None``, or the reason of a loss."""
        if reason is not None:
            self._lose(self._why_ended("expired") if self._clock.now() >= self._deadline else reason)
            return
        deadline = self._capped(sent + ttl)
        with self._mutex:
            if self._state != "held" or self._clock.now() >= self._deadline:
                return  # The answer came too late: the holder may know of the loss already.
            if sent > self._confirmed:
                self._confirmed = sent
            if deadline > self._deadline:
                self._deadline = deadline
        if signals.on_lock_renewed.receivers or self._on_event is not None:
            run_callback(partial(self._send, signals.on_lock_renewed, "renewed"), self._hub)

    def _end_at_deadline(self) -> None:
        """Mark the lease as lost, because its deadline has passed."""
        self._lose(self._why_ended("unreachable" if self._last_sent > self._confirmed else "expired"))

    def _lose(self, reason: LossReason, state: str = "held") -> None:
        """Mark the lease as lost, and report the loss, if it is in this state."""
        if not self._move(state, "lost", reason):
            return
        self._forget(self)
        try:
            self._abort(self, reason)
        finally:
            run_callback(partial(self._report_loss, reason), self._hub)

    def _in_forked_child(self) -> None:
        """Leave renewal and reports to the parent: this copy in the child does not see later renewals."""
        self._mutex, self._releases = threads.RLock(), threads.RLock()  # another thread may have held them
        self._callbacks.clear()
        self._abort = self._forget = _do_nothing
        self._on_event = None

    # --- State and reports ---

    def _members(self) -> Sequence[Lease]:
        return (self,)

    def _why_ended(self, otherwise: LossReason) -> LossReason:
        return "max_hold" if self._hold_end is not None and self._deadline >= self._hold_end else otherwise

    def _capped(self, deadline: float) -> float:
        return deadline if self._hold_end is None else min(deadline, self._hold_end)

    def _move(self, before: str, after: str, reason: LossReason | None = None) -> bool:
        with self._mutex:
            if self._state != before:
                return False
            self._reason = reason  # before the state: a reader of the state reads the reason next
            self._state = after
            return True

    def _report_release(self) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            _logging.of_lease(
                logger, logging.DEBUG, "released", f"released {self.key!r}", self, seconds=self.held_for()
            )
        self._send(signals.on_lock_released, "released")

    def _report_loss(self, reason: LossReason) -> None:
        message = f"lost the lease of {self.key!r}: {reason}"
        _logging.of_lease(logger, logging.WARNING, "lost", message, self, reason=reason, seconds=self.held_for())
        try:
            self._call_callbacks()
        finally:
            self._send(signals.on_lock_lost, "lost", reason=reason)
            self._loss_reported = True

    def _send(self, signal: signals.Signal, kind: OutcomeKind, **named: LossReason) -> None:
        """Send a signal of this lease, and call the ``on_event`` of its lock."""
        if signal.receivers:
            signal.send(self.sender, lease=self, **named)
        if self._on_event is not None:
            call_on_event(self._on_event, outcome_of_lease(kind, self, self.sender, **named))

    def _call_callbacks(self) -> None:
        """Call each callback that no thread has called yet."""
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:  # another thread took it
                return
            assert self._reason is not None
            try:
                callback(self, self._reason)
            except (Exception, SystemExit):  # an exit would end the thread that calls all callbacks
                logger.exception("a callback for the lost lease of %r raised", self.key)
            except BaseException:  # an abort of this thread: it waits until all callbacks are called
                self._call_callbacks()
                raise

    def _disconnect(self, callback: LostCallback) -> None:
        with suppress(ValueError):
            self._callbacks.remove(callback)


def release_or_later(lease: Lease) -> bool:
    """Release a lease, in the background if the store can't be reached now.

    Returns:
        Whether it was held until now.
    """
    try:
        return lease.release()
    except BaseException as error:  # also if this thread is interrupted while it waits for the store
        keeper().release_lease_later(lease, lease._time_left())
        if not isinstance(error, StoreUnavailable):
            raise
        return not lease.lost


def renew_one(store: Store, renewal: Renewal, key: str) -> LossReason | None:
    """Renew one lease now; see `Store.renew`.

    Raises:
        StoreUnavailable: The state of the lease is unknown, which is not a loss.
    """
    reason = store.renew([renewal])[0]
    if reason == "unreachable":
        raise StoreUnavailable(f"the lock store could not renew the lease of {key!r} in time", key)
    return reason


def release_rest_later(holding: Holding) -> None:
    """Release in the background the leases that are not released yet, because this thread was interrupted."""
    for lease in holding._members():
        if lease._state in ("held", "releasing"):
            keeper().release_lease_later(lease, lease._time_left())


def release_kept_later(token: str) -> Lease | None:
    """Release in the background the lease with this owner token, if it is watched, and return it."""
    lease = kept_lease(token)
    if lease is not None:
        release_rest_later(lease)
    return lease


def kept_lease(token: str) -> Lease | None:
    """Return the lease with this owner token, as long as it is watched."""
    return cast("Lease | None", keeper().kept(token))


def _do_nothing(*args: Any) -> None:
    """Do nothing."""
