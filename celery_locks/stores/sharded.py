"""``sharded:``: locks dealt out over several stores, each of which serves its own.

Which store serves a lock is decided by rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to
Increase Hit Rates", 1998): each store has a number for each name, and the greatest wins. A store that comes takes those
names for which its number is the greatest, and none moves between the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

from celery_locks._addresses import UnreadableError, place_of
from celery_locks._runtime import process
from celery_locks.errors import LockConfigError, LossReason, StoreUnavailable
from celery_locks.keys.names import key_and_part
from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.capabilities import CAPABILITIES
from celery_locks.stores.check_results import merge
from celery_locks.stores.listing import LockInfo, NameRange, Page, Stats, merge_pages
from celery_locks.stores.parallel import ask, end_idle
from celery_locks.stores.parallel_waits import DueWaits
from celery_locks.stores.parking import Dispatch, Dropped, Full, Out, Parked, Parking, RunEndName, Ticket
from celery_locks.stores.trial import all_of
from celery_locks.stores.types import Claim, Granted, Holder, Refused, Renewal, Value

T = TypeVar("T")

#: Each store has its own time-outs; one that keeps to none is not waited for any longer, in seconds.
PATIENCE = 30.0
#: Gives the name of the shard that serves a key, out of the names of all.
Strategy = Callable[[str, Sequence[str]], str]


class Sharded(Store):
    """Locks dealt out over several stores.

    It can do what all of them can. One that can't be reached is missed by its own locks alone, and by those who look at
    all of them. Where one is added or taken away while locks are held, those that move are free at their new place:
    stop what uses them before, or let their ttls pass.

    Args:
        stores: Their URLs; or a mapping of names to URLs or stores. The names decide on who serves what, so a store
            that keeps its name may move to another address. The name of a URL is what all URLs of that store have in
            common: ``redis://h1``, ``redis://H1:6379/0`` and ``redis://:password@h1/?db=0`` are one.
        strategy: Which store serves a key. ``"rendezvous"``, as above. ``"modulo"`` counts the key's hash modulo the
            number of stores, in their order: quicker with very many stores, but a store more or less moves nearly all
            keys. Or a function of the key and the names of the stores, that returns one of these names; each process
            must get the same answer.

    Raises:
        LockConfigError: There is none, one is named twice, a URL is wrong, or there is no such strategy.
    """

    def __new__(
        cls, stores: Sequence[str] | Mapping[str, str | Store], *, strategy: str | Strategy = "rendezvous"
    ) -> Sharded:
        """Tasks can park in it if they can in all of its stores."""
        opened = _opened(stores)
        parks = cls is Sharded and all(isinstance(store, Parking) for store in opened.values())
        made = super().__new__(ShardedParking if parks else cls)
        made._stores = opened
        return made

    def __init__(
        self, stores: Sequence[str] | Mapping[str, str | Store], *, strategy: str | Strategy = "rendezvous"
    ) -> None:
        self._stores: dict[str, Store]
        self._shard_of = _shard_of(strategy, list(self._stores))
        self._due_waits: dict[tuple[int, str, str], DueWaits] = {}
        self.waits_for = min(store.waits_for for store in self._stores.values())
        for capability in CAPABILITIES:
            if capability != "parks":
                setattr(self, capability, all(getattr(store, capability) for store in self._stores.values()))

    def store_of(self, name: str) -> Store:
        """The store that serves a lock, by its full name."""
        return self._stores[self._shard_of(name)]

    # One lock

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        return self.store_of(claim.name).acquire(claim, line_up)

    def leave(self, name: str, token: str) -> None:
        self.store_of(name).leave(name, token)

    def wait(self, name: str, token: str, timeout: float) -> None:
        self.store_of(name).wait(name, token, timeout)

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        return self.store_of(places[0][0]).wait_any(places, timeout)

    def waits_with(self, name: str) -> Hashable:
        store = self.store_of(name)
        return id(store), store.waits_with(name)

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        return self.store_of(name).release(name, token, value)

    def shrink(self, name: str, token: str, permits: int) -> bool:
        return self.store_of(name).shrink(name, token, permits)

    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        return self.store_of(name).force_release(name, token)

    def serving(self, name: str) -> Store:
        return self.store_of(name).serving(name)

    def holders(self, name: str) -> tuple[Holder, ...]:
        return self.store_of(name).holders(name)

    def held(self, name: str) -> int:
        return self.store_of(name).held(name)

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        return self.store_of(name).write(name, token, text, keep)

    def value(self, name: str) -> str | None:
        return self.store_of(name).value(name)

    def delete(self, name: str) -> bool:
        return self.store_of(name).delete(name)

    def info(self, name: str) -> LockInfo:
        return self.store_of(name).info(name)

    # Many locks

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        """Where some stores can't be reached, the leases in the others are renewed all the same."""
        own: dict[Store, list[int]] = {}
        for number, renewal in enumerate(renewals):
            own.setdefault(self.store_of(renewal.name), []).append(number)
        calls = [partial(store.renew, [renewals[number] for number in numbers]) for store, numbers in own.items()]
        shortest = min((renewal.ttl for renewal in renewals), default=PATIENCE)
        reasons: list[LossReason | None] = ["unreachable"] * len(renewals)
        answers = [calls[0]()] if len(calls) == 1 else ask(calls, min(PATIENCE, shortest / 2))
        for numbers, answer in zip(own.values(), answers, strict=True):
            for number, reason in zip(numbers, answer, strict=True) if isinstance(answer, list) else ():
                reasons[number] = reason
        if answers and not any(isinstance(answer, list) for answer in answers):
            raise _failure(answers)
        return reasons

    def page(self, names: NameRange) -> Page:
        return merge_pages(self._all(lambda store: store.page(names)), names.count)

    def stats(self, prefix: str, near: float) -> Stats:
        return Stats.total(self._all(lambda store: store.stats(prefix, near)))

    # The stores

    def ping(self) -> None:
        self._all(_answers)

    def about(self) -> str:
        return f"{', '.join(dict.fromkeys(self._all(lambda store: store.about())))}, {len(self._stores)} stores"

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        return merge(self._all(lambda store: store.checks(parks=parks)))

    def try_writes(self, prefix: str, *, parks: bool = False) -> list[str]:
        """Use a throwaway lock in each of the stores."""
        warnings, failures = all_of(self._asked(lambda store: store.try_writes(prefix, parks=parks)))
        if failures:
            raise StoreUnavailable("; ".join(failures))
        return warnings

    def close(self) -> None:
        for store in self._stores.values():
            store.close()
        end_idle()

    def _all(self, call: Callable[[Store], T]) -> list[T]:
        """What all stores answer, in order.

        Raises:
            StoreUnavailable: One of them does not.
        """
        answers = self._asked(call)
        found = [answer for answer in answers if answer is not None and not isinstance(answer, StoreUnavailable)]
        if len(found) < len(answers):
            raise _failure(answers)
        return found

    def _asked(self, call: Callable[[Any], T]) -> list[T | StoreUnavailable | None]:
        return ask([partial(call, store) for store in self._stores.values()], PATIENCE)


class ShardedParking(Sharded, Parking):
    """`Sharded` over stores in which tasks can park."""

    def _of(self, name: str) -> Parking:
        store = self.store_of(name)
        assert isinstance(store, Parking)
        return store

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        return self._of(claim.name).enter(claim, ticket)

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        return self._of(claim.name).park(claim, ticket)

    def end_run(
        self, name: str, token: str, end: RunEndName, *, broker: str, value: Value | None = None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        return self._of(name).end_run(name, token, end, broker=broker, value=value)

    def published(self, dispatch: Dispatch, within: float) -> None:
        self._of(dispatch.name).published(dispatch, within)

    def finish(self, name: str, ticket_id: str, token: str = "", *, running: bool = True) -> None:
        self._of(name).finish(name, ticket_id, token, running=running)

    def waiting(self, name: str) -> int:
        return self._of(name).waiting(name)

    def sweep(self, prefix: str, broker: str, most: int = 100) -> tuple[Dispatch, ...]:
        """Do what is due in the stores that can be reached."""
        return self._dispatches(lambda store: store.sweep(prefix, broker, most))

    def withdraw(self, prefix: str, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        return self._dispatches(lambda store: store.withdraw(prefix, broker, task_id))

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        """Wait in all stores at once."""
        place = process.forks, prefix, broker  # a fork has none of its parent's threads
        waits = self._due_waits.get(place)
        if waits is None:
            stores = [store for store in self._stores.values() if isinstance(store, Parking)]
            waits = self._due_waits.setdefault(place, DueWaits(stores, prefix, broker))
        waits.wait(timeout)

    def _dispatches(self, step: Callable[[Parking], tuple[Dispatch, ...]]) -> tuple[Dispatch, ...]:
        """Return the dispatches of several steps: where one fails, those of the others."""
        answers = self._asked(step)
        dispatches = tuple(dispatch for answer in answers if isinstance(answer, tuple) for dispatch in answer)
        if not dispatches and not all(isinstance(answer, tuple) for answer in answers):
            raise _failure(answers)
        return dispatches


def open_sharded(url: str) -> Sharded:
    """The store at ``sharded:`` and the URLs of its stores, with ``|`` between them."""
    urls = [each.strip() for each in url.partition(":")[2].split("|") if each.strip()]
    if not all("://" in each for each in urls):
        raise UnreadableError("each store has an address with ://, and a | in a password is written as %7C")
    return Sharded(urls)


def _opened(stores: Sequence[str] | Mapping[str, str | Store]) -> dict[str, Store]:
    if isinstance(stores, str):
        raise LockConfigError("Sharded takes a list of URLs, not a text: write Sharded([url, …]), or sharded:url|url")
    if not isinstance(stores, Mapping):
        if not all(isinstance(store, str) for store in stores):
            raise LockConfigError("stores that are no URLs need names: write Sharded({'name': store, …})")
        named = {place_of(url): url for url in stores}
        if len(named) < len(stores):
            raise LockConfigError("a store is named twice among the shards")
        stores = named
    if not stores:
        raise LockConfigError("Sharded needs at least one store")
    return {name: open_store(store) if isinstance(store, str) else store for name, store in stores.items()}


def _shard_of(strategy: str | Strategy, names: Sequence[str]) -> Callable[[str], str]:
    """Return what gives the name of the shard that serves a lock, by the lock's full name."""
    if strategy == "rendezvous":
        return _rendezvous(names)
    if strategy == "modulo":
        return lambda name: names[int.from_bytes(blake2b(_bytes(name), digest_size=8).digest(), "big") % len(names)]
    if not callable(strategy):
        raise LockConfigError(f"strategy={strategy!r} is unknown: give 'rendezvous', 'modulo', or a function")
    return partial(_by_function, strategy, tuple(names))


def _rendezvous(names: Sequence[str]) -> Callable[[str], str]:
    hashes = [(blake2b(f"{name}\0".encode(), digest_size=8), name) for name in names]

    def shard_of(name: str) -> str:
        text, greatest, found = _bytes(name), b"", names[0]
        for begun, shard in hashes:
            number = begun.copy()
            number.update(text)
            if (digest := number.digest()) > greatest:
                found, greatest = shard, digest
        return found

    return shard_of


def _by_function(strategy: Strategy, names: tuple[str, ...], name: str) -> str:
    key, _ = key_and_part(name)
    shard = strategy(key, names)
    if shard not in names:
        raise LockConfigError(f"the strategy gave {shard!r} for the key {key!r}: give one of {', '.join(names)}", key)
    return shard


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _answers(store: Store) -> bool:
    store.ping()
    return True


def _failure(answers: Sequence[Any]) -> StoreUnavailable:
    failed = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
    return failed[0] if failed else StoreUnavailable("one of the lock stores did not answer in time")
