"""The threads of a process that keep its leases: each renews all leases of a store that are due in one round trip.

A process has these threads, never one for each lease. They start at the first lease, and again in a forked child:

* a *renewer* for each store sends the renewals, and may hang as long as the store does;
* the *watch* does no I/O, and marks leases as lost when their deadline has passed;
* a *releaser* for each store, once a release has failed, tries it again;
* a *loss reader* for each store that sends notices waits for leases that are taken by force.

All but the releaser are real threads also in a process of greenlets, and none of these calls users' code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from celery_locks import _logging
from celery_locks._runtime import process, threads
from celery_locks._runtime.callbacks import run_callback
from celery_locks._runtime.clock import Clock, monotonic
from celery_locks._runtime.ticker import RETRY_SECONDS, Ticker
from celery_locks.errors import LockError, LossReason, StoreUnavailable
from celery_locks.renewal.loss_reader import LossReader
from celery_locks.renewal.watched_lease import WatchedLease
from celery_locks.stores.base import Store
from celery_locks.stores.types import Renewal

if TYPE_CHECKING:
    from celery_locks.stores.parking import Parking

logger = _logging.logger(__name__)

#: A lease is due this long before its next renewal.
DUE_WITHIN_SECONDS = 0.05
#: When one lease is due, each lease that would be due within this share of its interval is renewed with it. So an
#: interval has few round trips, however many leases there are, and whenever they were acquired.
BATCH_SHARE = 0.25


class Watch:
    """Marks leases as lost when their deadline has passed. It does no I/O, so no store can delay it."""

    def __init__(self) -> None:
        self._leases: dict[str, WatchedLease] = {}
        #: Leases that were restored in the process of their holder: they have the same token, and a state of their own.
        self._restored: dict[int, WatchedLease] = {}
        self._ticker = Ticker("celery-locks-watch", self.tick)

    def add(self, lease: WatchedLease, now: float) -> None:
        """Watch a lease from now on."""
        if self._leases.setdefault(lease.token, lease) is not lease:
            self._restored[id(lease)] = lease
        self._ticker.wake_in(lease._ends_in(now))

    def discard(self, lease: WatchedLease) -> None:
        """Stop watching a lease."""
        if self._leases.get(lease.token) is lease:
            self._leases.pop(lease.token, None)
        elif self._restored:
            self._restored.pop(id(lease), None)

    def lease(self, token: str) -> WatchedLease | None:
        """Return the lease with this owner token, if it is watched."""
        return self._leases.get(token)

    def leases(self) -> list[WatchedLease]:
        """Return all leases."""
        return [*list(self._leases.values()), *list(self._restored.values())]

    def tick(self) -> float | None:
        """Mark leases as lost whose deadline has passed. Return the seconds until the next deadline."""
        leases = self.leases()
        now = _now(leases)
        # Reading `lost` reads the clock once more, so only the few leases that seem to have ended are asked.
        held = [lease for lease in leases if lease._is_held_at(now[lease._clock]) or not lease.lost]
        return min([lease._ends_in(now[lease._clock]) for lease in held], default=None)


class Renewer:
    """Renews the leases of one store: each every ``_renew_every`` seconds, next when its clock reads ``_renew_at``."""

    #: Whether its store was closed: then it ends once it has no lease left.
    closed = False

    def __init__(self) -> None:
        self._leases: dict[int, WatchedLease] = {}
        #: Whether this thread still has to open a connection of its own. Then it renews the first lease immediately.
        self._needs_connection = bool(threads.greenlets())
        self._ticker = Ticker("celery-locks-renewer", self.tick)

    def add(self, lease: WatchedLease, interval: float, now: float) -> None:
        """Renew a lease every ``interval`` seconds from now on."""
        lease._renew_every = interval
        # Counted from the beginning of the lease: the store may have taken long to answer.
        lease._renew_at = lease._confirmed + interval
        if self._needs_connection:
            self._needs_connection, lease._renew_at = False, now
        self._leases[id(lease)] = lease
        self._ticker.wake_in(lease._renew_at - now)

    def discard(self, lease: WatchedLease) -> None:
        """Stop renewing a lease."""
        self._leases.pop(id(lease), None)

    @property
    def busy(self) -> bool:
        """Whether it has leases to renew."""
        return bool(self._leases)

    def end(self) -> None:
        """End the thread."""
        self._ticker.end()

    def tick(self) -> float | None:
        """Renew the leases that are due. Return the seconds until the next one is."""
        leases, waits = self._waits()
        if waits and min(waits) <= DUE_WITHIN_SECONDS and (batch := self._batch(leases, waits)):
            self._renew(batch)
            _, waits = self._waits()
        return min(waits, default=None)

    def _waits(self) -> tuple[list[WatchedLease], list[float]]:
        """Return the leases, and the seconds until each is due."""
        leases = list(self._leases.values())
        now = _now(leases)
        return leases, [lease._renew_at - now[lease._clock] for lease in leases]

    def _batch(self, leases: list[WatchedLease], waits: list[float]) -> list[WatchedLease]:
        """Return the leases that are due, and the leases that join their batch; see `BATCH_SHARE`."""
        pairs = zip(leases, waits, strict=True)
        batch = [lease for lease, wait in pairs if wait <= max(DUE_WITHIN_SECONDS, BATCH_SHARE * lease._renew_every)]
        now = _now(batch)
        # A lease that has ended is never renewed, whatever left it here: no one would release it.
        held = [lease for lease in batch if lease._is_held_at(now[lease._clock])]
        if len(held) < len(batch):
            for ended in set(batch).difference(held):
                self.discard(ended)
        return held

    def _renew(self, batch: list[WatchedLease]) -> None:
        now = _now(batch)
        sent = [now[lease._clock] for lease in batch]
        renewals = [lease._renewal_request(at) for lease, at in zip(batch, sent, strict=True)]
        answers = self._request(batch[0], renewals)
        if answers is None:
            answers = ["unreachable"] * len(batch)
        elif unreachable := answers.count("unreachable"):
            message = "%d leases could not be renewed, trying again: a part of the store can't be reached"
            run_callback(partial(logger.warning, message, unreachable), batch[0]._hub)
        for lease, at, renewal, answer in zip(batch, sent, renewals, answers, strict=True):
            if answer == "unreachable":
                lease._renew_at = lease._clock.now() + min(lease._renew_every, RETRY_SECONDS)
            else:
                lease._renew_at = at + lease._renew_every
                lease._apply_renewal(at, renewal.ttl, answer)

    @staticmethod
    def _request(lease: WatchedLease, renewals: list[Renewal]) -> list[LossReason | None] | None:
        try:
            return lease._store.renew(renewals)
        except StoreUnavailable as error:
            message = "%d leases could not be renewed, trying again: %s"
            run_callback(partial(logger.warning, message, len(renewals), error), lease._hub)
        except Exception as error:
            message = "%d leases could not be renewed, trying again"
            run_callback(partial(logger.error, message, len(renewals), exc_info=error), lease._hub)
        return None


def _now(leases: Iterable[WatchedLease]) -> dict[Clock, float]:
    """Return the time of each clock that the leases use: nearly always they share one."""
    return {clock: clock.now() for clock in {lease._clock for lease in leases}}


class _Release(NamedTuple):
    """A release to be tried until a moment of ``monotonic()``."""

    release: Callable[[], object]
    until: float


class Releaser:
    """Tries releases again that have failed, in one store."""

    #: Whether its store was closed: then it ends once it has no release left.
    closed = False

    def __init__(self) -> None:
        self._releases: dict[str, _Release] = {}
        # A release dispatches parked tasks, which a greenlet has to do in a process of greenlets.
        self._ticker = Ticker("celery-locks-releaser", self.tick, real=False)

    def add(self, token: str, release: Callable[[], object], within: float) -> None:
        """Try a release in the background, for ``within`` seconds at most."""
        self._releases[token] = _Release(release, monotonic() + within)
        self._ticker.wake_in(RETRY_SECONDS)

    @property
    def busy(self) -> bool:
        """Whether it has releases to try."""
        return bool(self._releases)

    def end(self) -> None:
        """End the thread."""
        self._ticker.end()

    def tick(self) -> float | None:
        """Try the releases. Return the seconds until the next try."""
        for token, pending in list(self._releases.items()):
            if self._is_released(pending):
                self._releases.pop(token, None)
                continue
            # The rest would fail too, and each try may block. The next tick begins with another release.
            if self._releases.pop(token, None) is not None:
                self._releases[token] = pending
            break
        now = monotonic()
        for token, pending in list(self._releases.items()):
            if now >= pending.until:
                self._releases.pop(token, None)
        return RETRY_SECONDS if self._releases else None

    @staticmethod
    def _is_released(pending: _Release) -> bool:
        try:
            pending.release()
            return True
        except LockError:
            return False
        except Exception:
            logger.exception("a lease could not be released, trying again")
            return False


ThreadOfStore = TypeVar("ThreadOfStore", Renewer, Releaser)


class Keeper:
    """All renewal of a process."""

    def __init__(self) -> None:
        self._watch = Watch()
        self._renewers: dict[int, Renewer] = {}
        self._releasers: dict[int, Releaser] = {}
        #: By the store that sends the notices, and by prefix.
        self._readers: dict[tuple[int, str], LossReader] = {}

    def keep(self, lease: WatchedLease, interval: float | None) -> None:
        """Watch a lease's deadline, and renew the lease every ``interval`` seconds, if there is an interval."""
        lease._forget = self.forget
        now = lease._clock.now()
        self._watch.add(lease, now)
        if interval is not None:
            self._renewer(lease._store).add(lease, interval, now)
        if lease._store.notices:
            self._reader(lease._store, lease._claim.name).keep(lease)

    def forget(self, lease: WatchedLease) -> None:
        """Stop watching and renewing a lease."""
        self._watch.discard(lease)
        renewer = self._renewers.get(id(lease._store))
        if renewer is not None:
            renewer.discard(lease)

    def kept(self, token: str) -> WatchedLease | None:
        """Return the lease with this owner token, as long as it is watched."""
        return self._watch.lease(token)

    def release_later(self, store: Store, name: str, token: str, within: float) -> None:
        """Release a lease or leave the line in the background, trying for ``within`` seconds at most."""

        def release() -> None:
            store.leave(name, token)
            store.release(name, token)

        self._releaser(store).add(token, release, within)

    def release_unheard_later(self, parking: Parking, name: str, token: str, within: float) -> None:
        """Release in the background a lease that the store may have granted to a run that did not get the answer.

        The run's ticket stays. The tickets that this release makes due are dispatched by a worker's sweeper.
        """
        self._releaser(cast(Store, parking)).add(token, lambda: cast(Store, parking).release(name, token), within)

    def release_lease_later(self, lease: WatchedLease, within: float) -> None:
        """Release a lease in the background, trying for ``within`` seconds at most."""
        self._releaser(lease._store).add(lease.token, lease.release, within)

    def drop(self, store: Store) -> None:
        """Forget all leases in a store that no one uses any more, and end the threads that served it."""
        self.end_notices(store)
        for lease in self.leases():
            if lease._store is store:
                self.forget(lease)
        for thread in (self._renewers.pop(id(store), None), self._releasers.pop(id(store), None)):
            if thread is not None:
                thread.end()

    def close(self, store: Store) -> None:
        """End the threads that serve a store: the loss reader now, the others when they have nothing left to do.

        Leases that are still held are renewed until they are released.
        """
        self.end_notices(store)
        for thread in (self._renewers.get(id(store)), self._releasers.get(id(store))):
            if thread is not None:
                thread.closed = True
        self._end_closed()

    def _end_closed(self) -> None:
        _end_closed(self._renewers)
        _end_closed(self._releasers)

    def end_notices(self, store: Store) -> None:
        """End the threads that read a store's notices. The next lease that is kept in it starts them again."""
        for place, reader in list(self._readers.items()):
            if reader.store is store and self._readers.pop(place, None) is not None:
                reader.end()

    def tick(self) -> None:
        """Do what is due now, in this thread (for tests with a clock that they move)."""
        parts: list[Watch | Renewer | Releaser] = [*self._renewers.values(), *self._releasers.values(), self._watch]
        for part in parts:
            part.tick()

    def leases(self) -> list[WatchedLease]:
        """Return all leases that are watched."""
        return self._watch.leases()

    def _renewer(self, store: Store) -> Renewer:
        renewer = self._renewers.get(id(store))
        if renewer is None:
            self._end_closed()
            renewer = self._renewers.setdefault(id(store), Renewer())
        return renewer

    def _reader(self, store: Store, name: str) -> LossReader:
        place = id(store.serving(name)), name.partition("{")[0]
        reader = self._readers.get(place)
        return self._readers.setdefault(place, LossReader(store, name, self.leases)) if reader is None else reader

    def _releaser(self, store: Store) -> Releaser:
        releaser = self._releasers.get(id(store))
        return self._releasers.setdefault(id(store), Releaser()) if releaser is None else releaser


def _end_closed(threads_of_stores: dict[int, ThreadOfStore]) -> None:
    """End the threads of closed stores that have nothing left to do."""
    for place, thread in list(threads_of_stores.items()):
        if thread.closed and not thread.busy and threads_of_stores.pop(place, None) is not None:
            thread.end()


@process.after_fork_in_child
def _leave_leases_to_parent() -> None:
    # Registered before the keeper, so that it is still the parent's here. The child has none of its threads.
    for lease in keeper().leases():
        lease._in_forked_child()


#: Return the keeper of this process.
keeper = process.PerProcess(Keeper)
