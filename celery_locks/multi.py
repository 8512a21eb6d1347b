"""`MultiLock`: several keys at once, all or none."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from celery_locks._durations import Duration
from celery_locks._runtime import threads
from celery_locks._sansio import Steps, run
from celery_locks._space import Space
from celery_locks._validation import checked_count, checked_timeout
from celery_locks.errors import LockError, LockLost, LossReason, StoreUnavailable
from celery_locks.lease import Holding, Lease, release_kept_later, release_or_later, release_rest_later
from celery_locks.lock import Lock
from celery_locks.renewal import keeper
from celery_locks.stores.types import Claim, Refused

T = TypeVar("T")
R = TypeVar("R")

#: What a call asks for: written down before, so that all of it can be released.
Claims = list[tuple[Lock, Claim]]

#: For how many seconds a holder of some of the keys waits for the next one: in the first round, and at most.
PATIENCE_SECONDS, LONGEST_PATIENCE_SECONDS = 0.5, 30.0

MultiLostCallback = Callable[["MultiLease", Lease, LossReason], object]


class MultiLease(Holding):
    """The leases of several keys, that are held and lost together: when one is lost, the others are given back.

    As a context manager it releases all at the end of the block, as a `Lease` does.

    Attributes:
        leases: One for each key, ordered by key.
    """

    def __init__(self, leases: Sequence[Lease]) -> None:
        self.leases = tuple(leases)
        self._mutex = threads.RLock()
        self._lost: tuple[Lease, LossReason] | None = None
        self._releasing = False
        self._callbacks: list[MultiLostCallback] = []
        for lease in self.leases:
            lease.on_lost(self._one_is_lost)

    def __repr__(self) -> str:
        state = "held" if self.held else "lost" if self.lost else "released"
        return f"<MultiLease of {[lease.key for lease in self.leases]} {state}>"

    @property
    def held(self) -> bool:
        """Whether all are held; asks only the local clock."""
        return not self._releasing and all(lease.held for lease in self.leases)

    @property
    def lost(self) -> bool:
        """Whether one ended before it was released."""
        return any(lease.lost for lease in self.leases)

    @property
    def lost_reason(self) -> LossReason | None:
        """Why the first one that was lost was lost, or ``None``."""
        lease = self._first_lost()
        return None if lease is None else lease.lost_reason

    def remaining(self) -> float:
        """Seconds until the first deadline; 0 when they are no longer held."""
        return min(lease.remaining() for lease in self.leases) if self.held else 0.0

    def check(self) -> None:
        """Does nothing while all are held; without I/O.

        Raises:
            LockLost: One is held no more; its ``key`` says which.
        """
        for lease in self.leases:
            if lease.lost:
                raise self._lost_error()
        if not self.held:
            raise LockLost("the leases were released", self.leases[0].key)

    def extend(self, ttl: Duration | None = None) -> None:
        """Prolongs all of them now; see `Lease.extend`.

        Raises:
            LockLost: One was held no more, and so all are lost.
            StoreUnavailable: The store can't be reached; they are still held until their deadlines.
        """
        for lease in self.leases:
            lease.extend(ttl)
        self.check()

    def release(self) -> bool:
        """Gives all keys back.

        Returns:
            ``True`` when this call released all of them, ``False`` when one was no longer held.

        Raises:
            StoreUnavailable: The store can't be reached. None is renewed any more; call again to release the rest.
        """
        try:
            return self._release()
        except BaseException as error:
            if not isinstance(error, LockError):  # an interrupt: the holder has no reason to release them again
                release_rest_later(self)
            raise

    def _release(self) -> bool:
        with self._mutex:
            self._releasing = True
        answers = [_release(lease) for lease in reversed(self.leases)]
        for answer in answers:
            if isinstance(answer, StoreUnavailable):
                raise answer
        return all(answers)

    def abandon(self) -> bool:
        """Stop holding all of them without releasing them; see `Lease.abandon`.

        Returns:
            ``True`` when this call abandoned all of them, ``False`` when one was no longer held.
        """
        with self._mutex:
            self._releasing = True
        abandoned = [lease.abandon() for lease in self.leases]
        return all(abandoned)

    def on_lost(self, callback: MultiLostCallback) -> Callable[[], None]:
        """Calls ``callback(self, lease, reason)`` once, with the first lease that is lost.

        Returns:
            A function that disconnects the callback.
        """
        with self._mutex:
            self._callbacks.append(callback)
            lost = self._lost
        if lost is not None and self._take(callback):
            callback(self, *lost)
        return lambda: self._disconnect(callback)

    def _lost_error(self) -> LockLost:
        """The error that says that they are held no more."""
        return (self._first_lost() or self.leases[0])._lost_error()

    def _members(self) -> Sequence[Lease]:
        return self.leases

    def _first_lost(self) -> Lease | None:
        # Callbacks may be told a moment later than a lease knows.
        return self._lost[0] if self._lost else next((lease for lease in self.leases if lease.lost), None)

    def _one_is_lost(self, lease: Lease, reason: LossReason) -> None:
        with self._mutex:
            if self._lost is not None or self._releasing:
                return
            self._lost = lease, reason
        for other in self.leases:
            if other is not lease:
                # By the thread that talks to the store: this one may be the watch, which must not hang with it.
                keeper().release_lease_later(other, other.remaining())
        while self._callbacks:
            callback = self._callbacks[0]
            if self._take(callback):
                callback(self, lease, reason)

    def _take(self, callback: MultiLostCallback) -> bool:
        with self._mutex:
            if callback not in self._callbacks:
                return False
            self._callbacks.remove(callback)
            return True

    def _disconnect(self, callback: MultiLostCallback) -> None:
        self._take(callback)


class MultiLock:
    """Several keys that are acquired together: all of them or none.

    The keys are acquired in one order, that of their text, so that two of these rarely wait for each other. A holder of
    some of them waits for the next one for half a second only. Then it releases all, but keeps its place in line for
    the one that was missing. In the next round it acquires that one first, and has twice the patience for the others.
    So nothing is deadlocked, whatever order other code uses, and a crowd at one of the keys starves no one. The price:
    first come, first served holds for each key, not for all of them together.

    As a context manager it waits as long as it takes, and raises `LockLost` at the end when a lease was lost within.

    Attributes:
        keys: What is locked, in the order in which it is.

    Examples:
        >>> with locks.multi(["account:1", "account:2"]) as leases:
        ...     leases.check()
    """

    def __init__(self, space: Space, members: Sequence[Lock]) -> None:
        self.keys = tuple(lock.key for lock in members)
        self._space = space
        self._members = tuple(members)
        self._entered = threading.local()

    def __repr__(self) -> str:
        return f"<MultiLock of {list(self.keys)} at {self._space.url}>"

    def acquire(self, *, timeout: Duration | None = None, attempts: int | None = None) -> MultiLease:
        """Wait until all keys are acquired.

        Args:
            timeout: The longest wait; ``None`` for as long as it takes, 0 for a single try.
            attempts: How many rounds there are at most; ``None`` for any number.

        Raises:
            LockTimeout: One was still held by others when the time was over, or after the last round; none was
                acquired.
            LockQueueFull: As many wait already for one of them as ``max_waiters`` allows; none was acquired.
            StoreUnavailable: The store can't be reached; none was acquired.
        """
        return self._settled(lambda claims: self._acquire_steps(timeout, claims, attempts))

    def _acquire_steps(
        self, timeout: Duration | None = None, claims: Claims | None = None, attempts: int | None = None
    ) -> Steps[MultiLease]:
        """The steps of `acquire`."""
        until = None if timeout is None else self._now() + checked_timeout(timeout)
        attempts = None if attempts is None else checked_count("attempts", attempts)
        had = yield from self._acquire_rounds(until, [] if claims is None else claims, attempts)
        if isinstance(had, MultiLease):
            return had
        blocked, refused = had
        raise blocked._timed_out(refused)

    def _try_steps(self, claims: Claims | None = None) -> Steps[MultiLease | None]:
        """The steps of `try_acquire`."""
        had = yield from self._acquire_rounds(self._now(), [] if claims is None else claims)
        return had if isinstance(had, MultiLease) else None

    def _acquire_rounds(
        self, until: float | None, claims: Claims, attempts: int | None = None
    ) -> Steps[MultiLease | tuple[Lock, Refused]]:
        """Return the lease of all keys, or the lock that was not available in time, and the store's answer."""
        order, patience, rounds = self._members, PATIENCE_SECONDS, 0
        while True:
            rounds += 1
            last = attempts is not None and rounds >= attempts
            had = yield from self._round(order, until, patience, claims, last, attempts is not None)
            if isinstance(had, MultiLease):
                try:
                    if had.held:
                        return had
                    yield had.release  # one ended while the last one was waited for
                    claims.clear()
                except BaseException:
                    release_rest_later(had)
                    raise
                continue
            if not claims:
                return had
            # With empty hands from here on, and first in the next round at the key that was missing.
            order = (had[0], *(lock for lock in self._members if lock is not had[0]))
            patience = min(2 * patience, LONGEST_PATIENCE_SECONDS)

    def try_acquire(self) -> MultiLease | None:
        """All the leases, or ``None`` when others hold one of the keys or wait for it.

        Raises:
            StoreUnavailable: The store can't be reached; none was acquired.
        """
        return self._settled(self._try_steps)

    def run(self, function: Callable[..., T], *args: Any, timeout: Duration | None = None, **kwargs: Any) -> T:
        """Calls the function while it holds all keys, and returns what it returns.

        Raises:
            LockTimeout: The keys were not to be had in time.
            LockLost: A lease was lost while the function ran.
        """
        claims: Claims = []
        try:
            with run(self._acquire_steps(timeout, claims)):
                return function(*args, **kwargs)
        except BaseException:  # an interrupt may have come before the block, or at its end
            _release_kept_later(claims)
            raise

    def _settled(self, steps: Callable[[Claims], Steps[R]]) -> R:
        """Take steps; when they are interrupted, release all that they asked for."""
        claims: Claims = []
        try:
            answer = run(steps(claims))
            return answer  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            for lock, claim in claims:
                lock._undo_interrupted(claim, error)
            raise

    def __enter__(self) -> MultiLease:
        claims: Claims = []
        try:
            lease = run(self._acquire_steps(None, claims))
            vars(self._entered).setdefault("leases", []).append(lease)
            lease._begin_block()
            return lease
        except BaseException:
            _release_kept_later(claims)
            leases = vars(self._entered).get("leases", [])
            while leases and not leases[-1].held:
                leases.pop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease: MultiLease | None = None
        try:
            lease = self._entered.leases[-1]
            self._leave(lease)
            lease.__exit__(kind, error, trace)
        except BaseException:
            release_rest_later(self._entered.leases.pop() if lease is None else lease)
            raise

    def _leave(self, lease: MultiLease) -> None:
        leases = vars(self._entered).get("leases", [])
        if lease in leases:
            leases.remove(lease)

    def _round(
        self, order: Sequence[Lock], until: float | None, patience: float, claims: Claims, last: bool, bounded: bool
    ) -> Steps[MultiLease | tuple[Lock, Refused]]:
        """Acquire all of them, or none: then return the lock that was missing.

        Unless its time is over, the place in line for that one is kept. Its claim is the only one left in ``claims``
        then, and is used again in the next round.
        """
        leases: list[Lease] = []
        places = {lock._name: claim for lock, claim in claims}
        try:
            for lock in order:
                claim = places.get(lock._name) or lock._new_claim()
                if lock._name not in places:
                    claims.append((lock, claim))
                claim.patience = self._left(until, None) or None
                # With empty hands it waits for the first one for as long as it takes, unless rounds are counted. A
                # random part of the patience is left out, so that two that wait for each other don't release at the
                # same time.
                most = patience * random.uniform(0.5, 1) if leases or bounded else None
                stay = not (last or self._is_over(until))
                answer = yield from lock._ask_steps(claim, self._left(until, most), stay)
                if isinstance(answer, Lease):
                    leases.append(answer)
                    continue
                yield partial(self._give_back, leases)
                claims[:] = [(lock, claim)]
                if last or self._is_over(until):
                    if answer.position is not None:
                        yield partial(lock._leave_line, claim)
                    claims.clear()
                return lock, answer
            return MultiLease(leases)
        except BaseException as error:
            self._give_back(leases)
            for lock, claim in claims:
                lock._undo(claim, error)
            raise

    @staticmethod
    def _give_back(leases: list[Lease]) -> None:
        while leases:
            release_or_later(leases.pop())

    def _left(self, until: float | None, most: float | None) -> float | None:
        left = None if until is None else max(0.0, until - self._now())
        return left if most is None else most if left is None else min(left, most)

    def _is_over(self, until: float | None) -> bool:
        return until is not None and self._now() >= until

    def _now(self) -> float:
        return self._space.clock.now()


def _release_kept_later(claims: Claims) -> None:
    """Release in the background what was granted: this thread was interrupted."""
    for _, claim in claims:
        release_kept_later(claim.token)


def _release(lease: Lease) -> bool | StoreUnavailable:
    try:
        return lease.release()
    except StoreUnavailable as error:
        return error


def members(keys: Iterable[str], make: Callable[[str], Lock]) -> list[Lock]:
    """The locks of some keys, each once, in the one order in which they are taken."""
    return sorted({lock._name: lock for lock in map(make, keys)}.values(), key=lambda lock: lock._name)
