"""Renewal: one renewer a process, that prolongs all leases which are due in one round trip to their store.

Kinds of thread, made at the first lease and made anew in a forked child, never one a lease:

* a *renewer* for each store talks to it, and may hang as long as the store does;
* the *watch* talks to nobody, and loses the leases whose deadline has passed;
* a *releaser* for each store, made when a lease could not be released at once;
* a *loss reader* for each store that notifies, which waits there for leases that are taken by force.

All but the releaser are real threads also in a process of greenlets, and call nothing that users wrote.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from celery_locks import _logging
from celery_locks._loss_reader import LossReader
from celery_locks._protocols import KeptLease
from celery_locks._runtime import threads
from celery_locks._runtime.callbacks import tell
from celery_locks._runtime.clock import Clock, monotonic
from celery_locks._runtime.ticker import TRY_AGAIN, Ticker
from celery_locks.errors import LockError, LossReason, StoreUnavailable
from celery_locks.stores.base import Store
from celery_locks.stores.types import Renewal

if TYPE_CHECKING:
    from celery_locks.stores.parking import Parking

logger = _logging.logger(__name__)

#: A lease is due when it is to be renewed within so many seconds.
SLACK = 0.05
#: With those that are due go all that would be due within this share of their interval. So however many leases there
#: are, and whenever they were taken, an interval has few round trips.
SHARE = 0.25


class Watch:
    """Loses leases whose deadline has passed. Does no I/O, so no store can hold it up."""

    def __init__(self) -> None:
        self._leases: dict[str, KeptLease] = {}
        #: A lease that was restored in the process of its holder has the same token, and a life of its own.
        self._doubles: dict[int, KeptLease] = {}
        self._ticker = Ticker("celery-locks-watch", self.tick)

    def add(self, lease: KeptLease, now: float) -> None:
        if self._leases.setdefault(lease.token, lease) is not lease:
            self._doubles[id(lease)] = lease
        self._ticker.wake_in(lease._ends_in(now))

    def discard(self, lease: KeptLease) -> None:
        if self._leases.get(lease.token) is lease:
            self._leases.pop(lease.token, None)
        elif self._doubles:
            self._doubles.pop(id(lease), None)

    def lease(self, token: str) -> KeptLease | None:
        return self._leases.get(token)

    def leases(self) -> list[KeptLease]:
        return [*list(self._leases.values()), *list(self._doubles.values())]

    def tick(self) -> float | None:
        leases = self.leases()
        now = _now(leases)
        # Most live: those are not asked whether they are lost, which would look at the clock once more.
        living = [lease for lease in leases if lease._lives(now[lease._clock]) or not lease.lost]
        return min([lease._ends_in(now[lease._clock]) for lease in living], default=None)


class Renewer:
    """Renews the leases of one store: each every ``_renew_every`` seconds, next when its clock is at ``_renew_at``."""

    #: Whether its store was closed: it ends when it has nothing left to do.
    closed = False

    def __init__(self) -> None:
        self._leases: dict[int, KeptLease] = {}
        #: Whether this thread still has to connect to the store by itself: then it does so at the first lease, well
        #: before it has to.
        self._apart_and_new = bool(threads.greenlets())
        self._ticker = Ticker("celery-locks-renewer", self.tick)

    def add(self, lease: KeptLease, interval: float, now: float) -> None:
        lease._renew_every = interval
        # From when the lease began: the store may have taken long to answer.
        lease._renew_at = lease._confirmed + interval
        if self._apart_and_new:
            self._apart_and_new, lease._renew_at = False, now
        self._leases[id(lease)] = lease
        self._ticker.wake_in(lease._renew_at - now)

    def discard(self, lease: KeptLease) -> None:
        self._leases.pop(id(lease), None)

    @property
    def busy(self) -> bool:
        """Whether it has leases to renew."""
        return bool(self._leases)

    def end(self) -> None:
        self._ticker.end()

    def tick(self) -> float | None:
        """Renews what is due. Returns the seconds until something is due again."""
        leases, waits = self._waits()
        if waits and min(waits) <= SLACK and (due := self._due(leases, waits)):
            self._renew(due)
            _, waits = self._waits()
        return min(waits, default=None)

    def _waits(self) -> tuple[list[KeptLease], list[float]]:
        """The leases, and in how many seconds each is due."""
        leases = list(self._leases.values())
        now = _now(leases)
        return leases, [lease._renew_at - now[lease._clock] for lease in leases]

    def _due(self, leases: list[KeptLease], waits: list[float]) -> list[KeptLease]:
        """Those that are due, and those that go along."""
        pairs = zip(leases, waits, strict=True)
        going = [lease for lease, wait in pairs if wait <= SLACK or wait <= SHARE * lease._renew_every]
        now = _now(going)
        # One that ended is renewed no more, however it came to be still here: nobody would ever release it.
        living = [lease for lease in going if lease._lives(now[lease._clock])]
        if len(living) < len(going):
            for ended in set(going).difference(living):
                self.discard(ended)
        return living

    def _renew(self, due: list[KeptLease]) -> None:
        now = _now(due)
        sent = [now[lease._clock] for lease in due]
        renewals = [lease._renewal_request(at) for lease, at in zip(due, sent, strict=True)]
        answers = self._ask(due[0], renewals)
        if answers is None:
            answers = ["unreachable"] * len(due)
        elif away := answers.count("unreachable"):
            said = "%d leases could not be renewed, trying again: a part of the store is away"
            tell(partial(logger.warning, said, away), due[0]._home)
        for lease, at, renewal, answer in zip(due, sent, renewals, answers, strict=True):
            if answer == "unreachable":
                lease._renew_at = lease._clock.now() + min(lease._renew_every, TRY_AGAIN)
            else:
                lease._renew_at = at + lease._renew_every
                lease._answer(at, renewal.ttl, answer)

    @staticmethod
    def _ask(lease: KeptLease, renewals: list[Renewal]) -> list[LossReason | None] | None:
        try:
            return lease._store.renew(renewals)
        except StoreUnavailable as error:
            said = "%d leases could not be renewed, trying again: %s"
            tell(partial(logger.warning, said, len(renewals), error), lease._home)
        except Exception as error:
            said = "%d leases could not be renewed, trying again"
            tell(partial(logger.error, said, len(renewals), exc_info=error), lease._home)
        return None


def _now(leases: Iterable[KeptLease]) -> dict[Clock, float]:
    """What the clocks of some leases say: nearly always it is one clock for all of them."""
    return {clock: clock.now() for clock in {lease._clock for lease in leases}}


class _Release(NamedTuple):
    """A release to be tried until a moment of ``monotonic()``."""

    release: Callable[[], object]
    until: float


class Releaser:
    """Releases what could not be released at once, in one store."""

    #: Whether its store was closed: it ends when it has nothing left to do.
    closed = False

    def __init__(self) -> None:
        self._releases: dict[str, _Release] = {}
        # It sends on those in line, which is for a greenlet where there are greenlets.
        self._ticker = Ticker("celery-locks-releaser", self.tick, real=False)

    def add(self, token: str, release: Callable[[], object], within: float) -> None:
        """Releases what could not be released now, trying for so many seconds."""
        self._releases[token] = _Release(release, monotonic() + within)
        self._ticker.wake_in(TRY_AGAIN)

    @property
    def busy(self) -> bool:
        """Whether it has leases to release."""
        return bool(self._releases)

    def end(self) -> None:
        self._ticker.end()

    def tick(self) -> float | None:
        """Tries what is left. Returns the seconds until the next try."""
        self._release()
        return TRY_AGAIN if self._releases else None

    def _release(self) -> None:
        for token, release in list(self._releases.items()):
            if self._released(release):
                self._releases.pop(token, None)
                continue
            # The rest would fail as well, and renewals must not wait for it. But another is first the next time.
            if self._releases.pop(token, None) is not None:
                self._releases[token] = release
            break
        now = monotonic()
        for token, release in list(self._releases.items()):
            if now >= release.until:
                self._releases.pop(token, None)

    @staticmethod
    def _released(release: _Release) -> bool:
        try:
            release.release()
            return True
        except LockError:
            return False
        except Exception:
            logger.exception("a lease could not be released, trying again")
            return False


Part = TypeVar("Part", Renewer, Releaser)


class Keeper:
    """All renewal of a process."""

    def __init__(self) -> None:
        self._watch = Watch()
        self._renewers: dict[int, Renewer] = {}
        self._releasers: dict[int, Releaser] = {}
        #: By the store that notifies, and by prefix.
        self._readers: dict[tuple[int, str], LossReader] = {}

    def keep(self, lease: KeptLease, interval: float | None) -> None:
        """Watches a lease's deadline and, with an ``interval`` in seconds, renews it that often."""
        lease._forget = self.forget
        now = lease._clock.now()
        self._watch.add(lease, now)
        if interval is not None:
            self._renewer(lease._store).add(lease, interval, now)
        if lease._store.notices:
            self._reader(lease._store, lease._claim.name).keep(lease)

    def forget(self, lease: KeptLease) -> None:
        """Neither watches nor renews it any more."""
        self._watch.discard(lease)
        renewer = self._renewers.get(id(lease._store))
        if renewer is not None:
            renewer.discard(lease)

    def kept(self, token: str) -> KeptLease | None:
        """The lease with this owner token, as long as it is watched."""
        return self._watch.lease(token)

    def release_later(self, store: Store, name: str, token: str, within: float) -> None:
        """Gives up a holding or a place in line in the background, trying for so many seconds."""

        def release() -> None:
            store.leave(name, token)
            store.release(name, token)

        self._releaser(store).add(token, release, within)

    def take_back_later(self, parking: Parking, name: str, token: str, within: float) -> None:
        """Ends a lease that a run got without hearing of it, in the background; its ticket stays.

        Whose turn comes by it is sent on by the sweeper of a worker.
        """
        self._releaser(cast(Store, parking)).add(token, lambda: cast(Store, parking).release(name, token), within)

    def release_lease_later(self, lease: KeptLease, within: float) -> None:
        """Releases a lease in the background, trying for so many seconds."""
        self._releaser(lease._store).add(lease.token, lease.release, within)

    def drop(self, store: Store) -> None:
        """Forgets all leases in a store that is given up, and ends the threads that served it."""
        self.end_notices(store)
        for lease in self.leases():
            if lease._store is store:
                self.forget(lease)
        for part in (self._renewers.pop(id(store), None), self._releasers.pop(id(store), None)):
            if part is not None:
                part.end()

    def close(self, store: Store) -> None:
        """End the threads that serve a store: those of its notices now, the others when they have nothing left to do.

        Leases that are still held are renewed until they are released.
        """
        self.end_notices(store)
        for part in (self._renewers.get(id(store)), self._releasers.get(id(store))):
            if part is not None:
                part.closed = True
        self._end_closed()

    def _end_closed(self) -> None:
        _end_closed(self._renewers)
        _end_closed(self._releasers)

    def end_notices(self, store: Store) -> None:
        """End the threads that read a store's notices. The next lease that is kept in it starts them anew."""
        for place, reader in list(self._readers.items()):
            if reader.store is store and self._readers.pop(place, None) is not None:
                reader.end()

    def tick(self) -> None:
        """Does now what is due, in this thread (for tests with a clock that they move)."""
        for part in self._parts():
            part.tick()

    def leases(self) -> list[KeptLease]:
        """All that are watched."""
        return self._watch.leases()

    def _parts(self) -> Iterable[Watch | Renewer | Releaser]:
        return [*self._renewers.values(), *self._releasers.values(), self._watch]

    def _renewer(self, store: Store) -> Renewer:
        # By the store's identity, and kept until it is closed.
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


def _end_closed(parts: dict[int, Part]) -> None:
    """End the threads of closed stores that have nothing left to do."""
    for place, part in list(parts.items()):
        if part.closed and not part.busy and parts.pop(place, None) is not None:
            part.end()


_keeper = Keeper()


def keeper() -> Keeper:
    """The keeper of this process."""
    return _keeper


def _in_forked_child() -> None:
    # Threads do not survive a fork; leases taken before it stay the parent's to renew, and its news to tell.
    global _keeper
    before, _keeper = _keeper, Keeper()
    for lease in before.leases():
        lease._in_forked_child()


os.register_at_fork(after_in_child=_in_forked_child)
