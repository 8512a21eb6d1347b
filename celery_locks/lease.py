"""A lease: a holding that ends by itself at its deadline, and knows when it has."""

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
from celery_locks._loss_reader import why_lost
from celery_locks._nesting import block_here
from celery_locks._runtime import threads
from celery_locks._runtime.callbacks import tell
from celery_locks._runtime.clock import Clock, system_clock
from celery_locks._runtime.hubs import home
from celery_locks._validation import checked_count, checked_ttl
from celery_locks.errors import LockConfigError, LockError, LockLost, LossReason, StoreUnavailable
from celery_locks.renewal import keeper
from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Granted, Renewal, Value

if TYPE_CHECKING:
    from typing_extensions import Self

    from celery_locks.outcomes import OutcomeCallback, OutcomeKind

logger = _logging.logger(__name__)

LostCallback = Callable[["Lease", LossReason], object]

_TOLD = {
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

    #: Whether a run of a task releases it.
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
        """Note that a ``with`` block of this thread or asyncio task holds it: to wait for it there is a deadlock."""
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
    """A holding of a key, made by `Lock.acquire` and its like.

    It is *held* until its holder *releases* or *abandons* it, or until it is *lost*. It never goes back. Once `release`
    is called it is no longer held, also while the store has not confirmed it.

    As a context manager it is released at the end of the block, after an error too. If it was lost within, the end
    raises `LockLost`, unless the block raised an error of its own. A lease that is not held raises `LockLost` at the
    beginning.

    Its deadline is counted from before the request that was last confirmed was sent, on a clock that goes on while
    the machine sleeps: it never ends later here than in the store.

    Attributes:
        key: What is locked.
        owner: The holder's name, for people to read.
        token: The owner token: random, one for each acquisition. Whoever has it can release the lease.
        fencing_token: Greater than that of every earlier lease of this key. Send it along with writes, and have the
            receiver refuse a smaller one than it has seen: that stops even a holder who does not know yet that it lost.
        ttl: How long the lease lives without renewal, in seconds.
        sender: What signals name as their sender.
        waited: How long this process had waited for it, in seconds.

    Examples:
        >>> with lock.acquire(timeout=10) as lease:
        ...     lease.check()
    """

    # What most leases never change: so it costs none of them anything.
    _state = "held"
    _reason: LossReason | None = None
    _renewal: Renewal | None = None
    #: What is to be kept with the key.
    _update: Value | None = None
    #: How many permits are left once the release of some, that the store has not confirmed, is done.
    _kept: int | None = None
    #: How often it is renewed, in seconds, and when next, on its clock; set by what renews it.
    _renew_every = _renew_at = 0.0
    #: What the ``with`` block belongs to that holds it; see `block_here`.
    _block: object = None
    #: Whether all have been told that it was lost.
    _told = False
    #: Releases it in the store in another way than `Store.release`, as a task's run does.
    _release_in_store: Callable[[Lease, Value | None], bool] | None = None
    #: Whether it runs a parked task's ticket.
    _has_ticket = False
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
        #: When it was asked for, on its clock.
        self._since = sent
        #: When the request that was last confirmed was sent, on its clock.
        self._confirmed = sent
        self._asked = sent
        self._deadline = self._capped(sent + claim.ttl)
        self._callbacks: list[LostCallback] = []
        # Both re-entrant: a signal's handler may interrupt its own thread within, and ask or release.
        self._mutex = threads.RLock()
        self._releases = threads.RLock()
        #: Where others are told of it, in a process of greenlets.
        self._home = home()
        #: Stops what runs under it: called first when it is lost, by the thread that notices.
        self._abort: LostCallback = _nothing
        #: Takes the lease out of renewal; set by what put it in.
        self._forget: Callable[[Any], object] = _nothing

    def __repr__(self) -> str:
        return f"<Lease {self.key!r} {self._state} fencing_token={self.fencing_token} owner={self.owner!r}>"

    # ------------------------------------------------------------------ for the holder

    @property
    def permits(self) -> int:
        """How many permits of its key it holds; 1 for a lock.

        Permits that were to be released are not counted, also where the store could not be reached then.
        """
        return self._claim.permits if self._kept is None else min(self._kept, self._claim.permits)

    @property
    def held(self) -> bool:
        """Whether it is still held; asks only the local clock."""
        return not self.lost and self._state == "held" and self._clock.now() < self._deadline

    @property
    def lost(self) -> bool:
        """Whether it ended before it was released; asks only the local clock."""
        if self._state == "held" and self._clock.now() >= self._deadline:
            self._end_at_deadline()
        return self._state == "lost"

    @property
    def lost_reason(self) -> LossReason | None:
        """Why it was lost, or ``None``."""
        return self._reason if self.lost else None

    def remaining(self) -> float:
        """Seconds until the deadline; 0 when it is no longer held."""
        left = self._deadline - self._clock.now()
        return left if left > 0 and self._state == "held" else 0.0

    def _time_left(self) -> float:
        """Seconds until the deadline, whether it is still held or not; 0 when it has passed."""
        return max(0.0, self._ends_in(self._clock.now()))

    def held_for(self) -> float:
        """Seconds since it was asked for."""
        return self._clock.now() - self._since

    def check(self) -> None:
        """Does nothing while it is held; without I/O, so a loop may call it often.

        Raises:
            LockLost: It is held no more.
        """
        if not self.held:
            raise self._lost_error()

    def extend(self, ttl: Duration | None = None) -> None:
        """Prolongs it now, to ``ttl`` seconds from now; it never ends sooner than before.

        Args:
            ttl: The time from now; its own ttl by default.

        Raises:
            LockLost: It was held no more.
            LockConfigError: The ttl is no number, or out of bounds.
            StoreUnavailable: The store can't be reached; it is still held until its deadline.
        """
        ttl = None if ttl is None else checked_ttl(ttl)
        self.check()
        sent = self._clock.now()
        renewal = self._renewal_request(sent, ttl)
        self._answer(sent, renewal.ttl, renew_one(self._store, renewal, self.key))
        self.check()

    def release(self, *, permits: int | None = None) -> bool:
        """Release the key, or some of its permits.

        Args:
            permits: How many permits of a semaphore to release; the lease is held with the rest of them. By default,
                and if the lease has no more, the whole lease is released.

        Returns:
            ``True`` when this call released it, ``False`` when it was no longer held.

        Raises:
            LockConfigError: The lease has fewer permits, or it is no whole number of at least 1.
            StoreUnavailable: The store can't be reached. A lease that was to be released as a whole is no longer
                renewed nor held; call again to release it in the store before its deadline there.
        """
        if permits is not None and self._has_more_than(permits):
            return self._release_permits(permits)
        try:
            with self._releases:
                released = self._release()
            return released  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            if not isinstance(error, LockError):  # an interrupt: the holder has no reason to release it again
                keeper().release_lease_later(self, self._time_left())
            raise

    def _release(self) -> bool:
        if self._state in ("released", "abandoned"):
            return False
        # From here on a renewal that is under way finds nothing to lose.
        repeated = self._state == "releasing"
        if not (repeated or self.lost):
            self._move("held", "releasing")
        self._forget(self)
        # A lease that is lost here may live on in the store for a moment: it is freed there all the same.
        released = self._give_back()
        if self._state == "lost":
            return False
        # The store's no to a repeated release tells of no loss: the first may have got there, and its reply not back.
        if not (released or repeated):
            self._lose(self._why_gone(), "releasing")
        elif self._move("releasing", "released"):
            self._tell_release()
        return released

    def _has_more_than(self, permits: int) -> bool:
        """Return whether it has more permits.

        Raises:
            LockConfigError: It has fewer, or it is no whole number of at least 1.
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
            kept = self._claim.permits - permits
            # If an earlier reply was lost, the store may have fewer already: this is the same release once more.
            self._kept = kept if self._kept is None else min(self._kept, kept)
            if not self._store.shrink(self._claim.name, self.token, self._kept):
                self._lose(self._why_gone())
                return False
            self._claim, self._kept = replace(self._claim, permits=self._kept), None
            return True

    def abandon(self) -> bool:
        """Stop holding it without releasing it: the key stays taken until the lease expires in the store.

        It is no longer renewed, and a value that was to be kept is not written. This is not a loss.

        Returns:
            ``True`` when this call abandoned it, ``False`` when it was no longer held.
        """
        try:
            return not self.lost and self._move("held", "abandoned")
        finally:
            if self._state == "abandoned":
                self._forget(self)

    def _hand_over(self, claim: Claim) -> bool:
        """Gives it to a claim that adopts it, in one step: like `release`, but nobody gets in between.

        Returns:
            Whether the claim has it now; ``False`` when it was no longer held.

        Raises:
            StoreUnavailable: The store can't be reached. It is no longer renewed nor held; `release` may be called.
        """
        try:
            with self._releases:
                handed = self._hand_over_once(claim)
            return handed  # noqa: RET504 - as in `release`
        except BaseException as error:
            if not isinstance(error, LockError):  # an interrupt: one of the two has it
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
            self._tell_release()
        return True

    def _give_back(self) -> bool:
        # In one step: a value that was written is that of a holder who held the key until then.
        value = self._update if self._state == "releasing" else None
        if self._release_in_store is not None:
            return self._release_in_store(self, value)
        return self._store.release(self._claim.name, self.token, value)

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
        """The value kept with the key: that of `update`, else what the store has, ``None`` for none. Asks the store.

        Raises:
            LockConfigError: The store keeps no values.
            StoreUnavailable: The store can't be reached.
        """
        from celery_locks.stores import json_values

        update = self._update
        return json_values.read(self._store, self._claim.name) if update is None else json.loads(update.text)

    def update(self, value: Any, keep: Duration | None = None) -> None:
        """Sets the value to be kept with the key: written when the lease is released, if it is still held then.

        Nothing is written before: a holder that dies or loses its lease leaves the value as it was.

        Args:
            value: Anything that JSON has.
            keep: How long it is kept from the release on; 30 days by default.

        Raises:
            LockLost: The lease is held no more.
            LockConfigError: The value is no JSON, the time is out of bounds, or the store keeps no values.
        """
        from celery_locks.stores import json_values
        from celery_locks.stores.capabilities import require

        if not self._store.values:
            require(self._store, "values", "lease.update()", self.key)
        self.check()
        kept = checked_ttl(json_values.KEEP_SECONDS if keep is None else keep, "keep")
        self._update = Value(json_values.to_text(value, self.key), kept)

    def _check_written(self, released: bool) -> None:
        """Raise an error unless its release has written its value.

        A release that is sent again after a lost reply finds no lease. Before the deadline, the first copy released it.
        Later the lease may have expired, and the value with it.
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
        """Calls ``callback(lease, reason)`` once when the lease is lost.

        It is called by the thread that finds it lost, or by one of this library where that is the first to notice. A
        lease that is lost already calls it at once.

        Returns:
            A function that disconnects the callback.
        """
        self._callbacks.append(callback)
        if self.lost:  # told here, or by the thread that is about to: whoever takes it from the list
            self._tell()
        return lambda: self._disconnect(callback)

    def serialize(self) -> str:
        """The lease as text, for `Locks.restore` in another process. Whoever has the text can release the lease."""
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
        """The error that says that it is held no more."""
        if self._state in ("releasing", "released", "abandoned"):
            how = "abandoned" if self._state == "abandoned" else "released"
            return LockLost(f"the lease of {self.key!r} was {how}", self.key)
        reason = self._reason or "expired"
        return LockLost(f"the lease of {self.key!r} was lost: {_TOLD[reason]}", self.key, reason)

    # ------------------------------------------------------------------ for renewal

    def _lives(self, now: float) -> bool:
        """Whether it is held when its clock says ``now``."""
        return self._state == "held" and now < self._deadline

    def _ends_in(self, now: float) -> float:
        """Seconds until its deadline when its clock says ``now``."""
        return self._deadline - now

    def _is_of_block(self, here: object) -> bool:
        """Whether a ``with`` block of this thread or task holds it and only the block's end ends it.

        Args:
            here: What `block_here` returns.
        """
        endless = self._renew_every > 0 and self._hold_end is None
        return endless and self._block == here and self._state == "held"

    def _renewal_request(self, now: float, ttl: float | None = None) -> Renewal:
        """What to ask the store for, ``now`` being when it is asked."""
        if now > self._asked:
            self._asked = now
        if ttl is None and self._hold_end is None:  # the same each time
            self._renewal = self._renewal or Renewal(self._claim.name, self.token, self.ttl)
            return self._renewal
        ttl = self.ttl if ttl is None else ttl
        if self._hold_end is not None:
            ttl = min(ttl, max(self._hold_end - now, 0.001))
        return Renewal(self._claim.name, self.token, ttl)

    def _answer(self, sent: float, ttl: float, reason: LossReason | None) -> None:
        """Takes the store's answer to a renewal that was sent at ``sent``."""
        if reason is not None:
            self._lose(self._why_ended("expired") if self._clock.now() >= self._deadline else reason)
            return
        deadline = self._capped(sent + ttl)
        with self._mutex:
            if self._state != "held" or self._clock.now() >= self._deadline:
                return  # The answer came too late: the holder may have been told already.
            if sent > self._confirmed:
                self._confirmed = sent
            if deadline > self._deadline:
                self._deadline = deadline
        if signals.on_lock_renewed.receivers or self._on_event is not None:
            tell(partial(self._send, signals.on_lock_renewed, "renewed"), self._home)

    def _end_at_deadline(self) -> None:
        """Loses it: the deadline has passed."""
        self._lose(self._why_ended("unreachable" if self._asked > self._confirmed else "expired"))

    def _lose(self, reason: LossReason, state: str = "held") -> None:
        """Marks it lost and tells, if it was in that state."""
        if not self._move(state, "lost", reason):
            return
        self._forget(self)
        try:
            self._abort(self, reason)
        finally:
            tell(partial(self._tell_loss, reason), self._home)

    def _in_forked_child(self) -> None:
        """Leaves renewal and news to the parent: the child has a copy, which knows nothing of later renewals."""
        self._mutex, self._releases = threads.RLock(), threads.RLock()  # another thread may have had them
        self._callbacks.clear()
        self._abort = self._forget = _nothing
        self._on_event = None

    # ------------------------------------------------------------------ inside

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
            self._reason = reason  # first: who sees the state asks for it
            self._state = after
            return True

    def _tell_release(self) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            _logging.of_lease(
                logger, logging.DEBUG, "released", f"released {self.key!r}", self, seconds=self.held_for()
            )
        self._send(signals.on_lock_released, "released")

    def _tell_loss(self, reason: LossReason) -> None:
        said = f"lost the lease of {self.key!r}: {reason}"
        _logging.of_lease(logger, logging.WARNING, "lost", said, self, reason=reason, seconds=self.held_for())
        try:
            self._tell()
        finally:
            self._send(signals.on_lock_lost, "lost", reason=reason)
            self._told = True

    def _send(self, signal: signals.Signal, kind: OutcomeKind, **named: LossReason) -> None:
        """Send a signal about it, and call the hook of its lock."""
        if signal.receivers:
            signal.send(self.sender, lease=self, **named)
        if self._on_event is not None:
            from celery_locks.outcomes import call, of_lease

            call(self._on_event, of_lease(kind, self, self.sender, **named))

    def _tell(self) -> None:
        """Calls the callbacks that nobody has called yet."""
        while self._callbacks:
            try:
                callback = self._callbacks.pop(0)
            except IndexError:  # another thread took it
                return
            assert self._reason is not None
            try:
                callback(self, self._reason)
            except (Exception, SystemExit):  # an exit would end the thread that watches over all leases
                logger.exception("a callback for the lost lease of %r raised", self.key)
            except BaseException:  # what stops this thread, such as its abort: only when all have been told
                self._tell()
                raise

    def _disconnect(self, callback: LostCallback) -> None:
        with suppress(ValueError):
            self._callbacks.remove(callback)


def release_or_later(lease: Lease) -> bool:
    """Release a lease, in the background where the store can't be reached now.

    Returns:
        Whether it was held until now.
    """
    try:
        return lease.release()
    except BaseException as error:  # also when this thread is stopped while it waits for the store
        keeper().release_lease_later(lease, lease._time_left())
        if not isinstance(error, StoreUnavailable):
            raise
        return not lease.lost


def renew_one(store: Store, renewal: Renewal, key: str) -> LossReason | None:
    """Renew one lease now; see `Store.renew`.

    Raises:
        StoreUnavailable: Nothing is known of the lease, which is not a loss.
    """
    reason = store.renew([renewal])[0]
    if reason == "unreachable":
        raise StoreUnavailable(f"the lock store could not renew the lease of {key!r} in time", key)
    return reason


def release_rest_later(holding: Holding) -> None:
    """Release in the background what is not released yet: this thread was interrupted."""
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


def _nothing(*args: Any) -> None:
    """Does nothing."""
