"""`MultiLock`: several keys, acquired together or not at all."""

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

#: The claims of one acquisition, each noted before its first request, so that all of them can be released.
Claims = list[tuple[Lock, Claim]]

#: For how many seconds a holder of some of the keys waits for the next one: in the first round, and at most.
PATIENCE_SECONDS, LONGEST_PATIENCE_SECONDS = 0.5, 30.0

MultiLostCallback = Callable[["MultiLease", Lease, LossReason], object]


class MultiLease(Holding):
    """The leases of several keys, held and lost together: when one is lost, the others are released.

    As a context manager, it releases all of them at the end of the block, as a `Lease` does.

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
        """Whether all are held, by the local clock."""
        return not self._releasing and all(lease.held for lease in self.leases)

    @property
    def lost(self) -> bool:
        """Whether one ended before it was released, by the local clock."""
        return any(lease.lost for lease in self.leases)

    @property
    def lost_reason(self) -> LossReason | None:
        """Why the first lost lease was lost; ``None`` if none was."""
        lease = self._first_lost()
        return None if lease is None else lease.lost_reason

    def remaining(self) -> float:
        """Return the seconds until the first deadline, 0 if they are not all held any more."""
        return min(lease.remaining() for lease in self.leases) if self.held else 0.0

    def check(self) -> None:
        """Raise `LockLost` unless all are held. Without I/O.

        Raises:
            LockLost: One is not held any more; ``key`` is its key.
        """
        for lease in self.leases:
            if lease.lost:
                raise self._lost_error()
        if not self.held:
            raise LockLost("the leases were released", self.leases[0].key)

    def extend(self, ttl: Duration | None = None) -> None:
        """Extend all of them now; see `Lease.extend`.

        Args:
            ttl: The time from now: seconds, a ``timedelta`` or a text such as ``"5m"``; each lease's own by default.

        Raises:
            LockLost: One was not held any more, and so all are lost.
            LockConfigError: The ttl is not a duration, or it is out of bounds.
            StoreUnavailable: The store can't be reached. They are still held until their deadlines.
        """
        for lease in self.leases:
            lease.extend(ttl)
        self.check()

    def release(self) -> bool:
        """Release all keys.

        Returns:
            ``True`` if this call released all of them, ``False`` if one was not held any more.

        Raises:
            StoreUnavailable: The store can't be reached. None is renewed any more. Call again to release the rest.
        """
        try:
            return self._release()
        except BaseException as error:
            if not isinstance(error, LockError):  # after an interrupt, the holder may not release them again
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
        """Stop holding all of them without a release; see `Lease.abandon`.

        Returns:
            ``True`` if this call abandoned all of them, ``False`` if one was not held any more.
        """
        with self._mutex:
            self._releasing = True
        abandoned = [lease.abandon() for lease in self.leases]
        return all(abandoned)

    def on_lost(self, callback: MultiLostCallback) -> Callable[[], None]:
        """Call ``callback(self, lease, reason)`` once, with the first lease that is lost.

        Returns:
            A function that disconnects the callback.
        """
        with self._mutex:
            self._callbacks.append(callback)
            lost = self._lost
        if lost is not None and self._take(callback):
            callback(self, *lost)

        def disconnect() -> None:
            self._take(callback)

        return disconnect

    def _lost_error(self) -> LockLost:
        """Return the error of leases that are not held any more."""
        return (self._first_lost() or self.leases[0])._lost_error()

    def _members(self) -> Sequence[Lease]:
        return self.leases

    def _first_lost(self) -> Lease | None:
        # A lease knows that it is lost a moment before its callbacks are called.
        return self._lost[0] if self._lost else next((lease for lease in self.leases if lease.lost), None)

    def _one_is_lost(self, lease: Lease, reason: LossReason) -> None:
        with self._mutex:
            if self._lost is not None or self._releasing:
                return
            self._lost = lease, reason
        for other in self.leases:
            if other is not lease:
                # In the background: this thread may be the watch, which must not hang with the store.
                keeper().release_lease_later(other, other.remaining())
        while self._callbacks:
            callback = self._callbacks[0]
            if self._take(callback):
                callback(self, lease, reason)

    def _take(self, callback: MultiLostCallback) -> bool:
        """Remove a callback. Return whether this call removed it."""
        with self._mutex:
            if callback not in self._callbacks:
                return False
            self._callbacks.remove(callback)
            return True


class MultiLock:
    """Several keys that are acquired together: all of them or none.

    The keys are acquired in the order of their text, so that two multi-locks rarely wait for each other. A holder of
    some of the keys waits only half a second for the next one. Then it releases all, but keeps its place in line for
    the missing key. In the next round it acquires that key first, and waits twice as long for the others. So there is
    no deadlock, even if other code uses another order, and many waiters at one key starve no one. The price: the order
    of arrival holds for each key, not for all of them together.

    As a context manager, it waits for any time, and raises `LockLost` at the end if a lease was lost in the block.

    Attributes:
        keys: The keys, in the order in which they are acquired.

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
        """Acquire all keys. Wait until they are free.

        Args:
            timeout: The longest wait: seconds, a ``timedelta`` or a text such as ``"5m"``; ``None`` for no limit, 0 for
                a single attempt.
            attempts: The highest number of rounds; ``None`` for any number.

        Raises:
            LockTimeout: Others still held one of the keys at the end of the timeout, or after the last round. None was
                acquired.
            LockQueueFull: The line of one of the keys has ``max_waiters`` waiters already. None was acquired.
            StoreUnavailable: The store can't be reached. None was acquired.
        """
        return self._run_or_release(lambda claims: self._acquire_steps(timeout, claims, attempts))

    def _acquire_steps(
        self, timeout: Duration | None = None, claims: Claims | None = None, attempts: int | None = None
    ) -> Steps[MultiLease]:
        """Return the steps of `acquire`."""
        until = None if timeout is None else self._now() + checked_timeout(timeout)
        attempts = None if attempts is None else checked_count("attempts", attempts)
        answer = yield from self._acquire_rounds(until, [] if claims is None else claims, attempts)
        if isinstance(answer, MultiLease):
            return answer
        missing, refused = answer
        raise missing._timed_out(refused)

    def _try_steps(self, claims: Claims | None = None) -> Steps[MultiLease | None]:
        """Return the steps of `try_acquire`."""
        answer = yield from self._acquire_rounds(self._now(), [] if claims is None else claims)
        return answer if isinstance(answer, MultiLease) else None

    def _acquire_rounds(
        self, until: float | None, claims: Claims, attempts: int | None = None
    ) -> Steps[MultiLease | tuple[Lock, Refused]]:
        """Return the lease of all keys, or the lock that was not available in time, and the store's answer."""
        order, patience, rounds = self._members, PATIENCE_SECONDS, 0
        while True:
            rounds += 1
            last = attempts is not None and rounds >= attempts
            answer = yield from self._round(order, until, patience, claims, last, attempts is not None)
            if isinstance(answer, MultiLease):
                try:
                    if answer.held:
                        return answer
                    yield answer.release  # one lease ended during the wait for the last key
                    claims.clear()
                except BaseException:
                    release_rest_later(answer)
                    raise
                continue
            if not claims:
                return answer
            # It holds no key now. The next round begins with the missing key.
            missing = answer[0]
            order = (missing, *(lock for lock in self._members if lock is not missing))
            patience = min(2 * patience, LONGEST_PATIENCE_SECONDS)

    def try_acquire(self) -> MultiLease | None:
        """Acquire all keys without a wait. Return ``None`` if others hold one of them or wait for it.

        Raises:
            StoreUnavailable: The store can't be reached. None was acquired.
        """
        return self._run_or_release(self._try_steps)

    def run(self, function: Callable[..., T], *args: Any, timeout: Duration | None = None, **kwargs: Any) -> T:
        """Call a function while all keys are held, and return its result.

        Args:
            function: The function.
            *args: Its positional arguments.
            timeout: The longest wait for the keys; see `acquire`.
            **kwargs: Its keyword arguments.

        Raises:
            LockTimeout: Others still held one of the keys at the end of the timeout.
            LockLost: A lease was lost while the function ran.
            StoreUnavailable: The store can't be reached. None was acquired.
        """
        claims: Claims = []
        try:
            with run(self._acquire_steps(timeout, claims)):
                return function(*args, **kwargs)
        except BaseException:  # an interrupt may have come before the block, or at its end
            _release_kept_later(claims)
            raise

    def _run_or_release(self, steps: Callable[[Claims], Steps[R]]) -> R:
        """Run steps. If they are interrupted, release all their claims."""
        claims: Claims = []
        try:
            answer = run(steps(claims))
            return answer  # noqa: RET504 - a call in the return is outside the try
        except BaseException as error:
            for lock, claim in claims:
                lock._roll_back_interrupt(claim, error)
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
        """Acquire all keys. If one is missing, release the others, and return its lock and the store's answer.

        Unless the time is over, it keeps its place in line for the missing key. That claim is then the only one in
        ``claims``, and the next round uses it again.
        """
        leases: list[Lease] = []
        places = {lock._name: claim for lock, claim in claims}
        try:
            for lock in order:
                claim = places.get(lock._name) or lock._new_claim()
                if lock._name not in places:
                    claims.append((lock, claim))
                claim.patience = self._left(until, None) or None
                # While it holds no key, it waits for the first one for any time, unless the rounds are counted. The
                # patience is random, so that two multi-locks that wait for each other don't release at the same time.
                most = patience * random.uniform(0.5, 1) if leases or bounded else None
                stay = not (last or self._is_over(until))
                answer = yield from lock._member_steps(claim, self._left(until, most), stay)
                if isinstance(answer, Lease):
                    leases.append(answer)
                    continue
                yield partial(_release_all, leases)
                claims[:] = [(lock, claim)]
                if last or self._is_over(until):
                    if answer.position is not None:
                        yield partial(lock._leave_line, claim)
                    claims.clear()
                return lock, answer
            return MultiLease(leases)
        except BaseException as error:
            _release_all(leases)
            for lock, claim in claims:
                lock._roll_back(claim, error)
            raise

    def _left(self, until: float | None, most: float | None) -> float | None:
        left = None if until is None else max(0.0, until - self._now())
        return left if most is None else most if left is None else min(left, most)

    def _is_over(self, until: float | None) -> bool:
        return until is not None and self._now() >= until

    def _now(self) -> float:
        return self._space.clock.now()


def _release_all(leases: list[Lease]) -> None:
    while leases:
        release_or_later(leases.pop())


def _release_kept_later(claims: Claims) -> None:
    """Release in the background the leases of these claims, because this thread was interrupted."""
    for _, claim in claims:
        release_kept_later(claim.token)


def _release(lease: Lease) -> bool | StoreUnavailable:
    try:
        return lease.release()
    except StoreUnavailable as error:
        return error


def members(keys: Iterable[str], make: Callable[[str], Lock]) -> list[Lock]:
    """Return the locks of some keys, each once, in the order in which they are acquired."""
    return sorted({lock._name: lock for lock in map(make, keys)}.values(), key=lambda lock: lock._name)
