"""``sharded:``: locks in several stores, each of which serves a part of the keys.

Rendezvous hashing decides which store serves a lock (Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit
Rates", 1998). Each store has a number for each name, and the store with the greatest number serves it. A new store
takes over the names for which its number is the greatest. No name moves between the other stores.
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
from celery_locks.stores.parking import Dispatch, Dropped, Full, Out, Parked, Parking, RunEndName, Ticket, tickets_of
from celery_locks.stores.types import Claim, Granted, Holder, Refused, Renewal, Value
from celery_locks.stores.write_check import all_of

T = TypeVar("T")

#: How many seconds a request waits for a store that ignores its own timeouts.
PATIENCE_SECONDS = 30.0
#: A function of a key and the names of all stores that returns the name of the store that serves the key.
Strategy = Callable[[str, Sequence[str]], str]


class Sharded(Store, Parking):
    """Locks in several stores, each of which serves a part of the keys.

    It has the capabilities that all of its stores have. When a store can't be reached, only its own keys fail, and
    requests about all keys.

    When you add or remove a store while locks are held, the keys that move are free in their new store. Stop the
    programs that use them before, or let the ttls pass.

    Args:
        stores: The URLs of the stores, or a mapping of names to URLs or stores. The names decide which store serves
            which keys, so a store that keeps its name may move to another address. The name of a URL is the part that
            all URLs of that store share: ``redis://h1``, ``redis://H1:6379/0`` and ``redis://:password@h1/?db=0`` have
            the same name.
        strategy: How a key's store is chosen. ``"rendezvous"`` is described above. ``"modulo"`` takes the hash of the
            key modulo the number of stores, in their order. It is quicker with very many stores, but another store
            moves nearly all keys. Or a function of the key and the names of the stores, which returns one of the names.
            It must return the same name in each process.

    Raises:
        LockConfigError: There is no store, a store is named twice, a URL is wrong, or the strategy is unknown.
    """

    def __init__(
        self, stores: Sequence[str] | Mapping[str, str | Store], *, strategy: str | Strategy = "rendezvous"
    ) -> None:
        self._stores = _opened(stores)
        self._shard_of = _shard_of(strategy, list(self._stores))
        self._due_waits: dict[tuple[int, str, str], DueWaits] = {}
        self.waits_for = min(store.waits_for for store in self._stores.values())
        self.keeps_places = all(store.keeps_places for store in self._stores.values())
        for capability in CAPABILITIES:
            if capability != "parks":
                setattr(self, capability, all(getattr(store, capability) for store in self._stores.values()))
        self.can_park = all(tickets_of(store) for store in self._stores.values())

    def store_of(self, name: str) -> Store:
        """Return the store that serves a lock, by its full name."""
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
        """Renew leases. When some stores can't be reached, the leases in the others are renewed all the same."""
        own: dict[Store, list[int]] = {}
        for number, renewal in enumerate(renewals):
            own.setdefault(self.store_of(renewal.name), []).append(number)
        calls = [partial(store.renew, [renewals[number] for number in numbers]) for store, numbers in own.items()]
        shortest = min((renewal.ttl for renewal in renewals), default=PATIENCE_SECONDS)
        reasons: list[LossReason | None] = ["unreachable"] * len(renewals)
        answers = [calls[0]()] if len(calls) == 1 else ask(calls, min(PATIENCE_SECONDS, shortest / 2))
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

    # Parking

    def enter(self, claim: Claim, ticket: Ticket) -> Granted | Parked | Dropped | Full | Out:
        return _parking(self.store_of(claim.name)).enter(claim, ticket)

    def park(self, claim: Claim, ticket: Ticket) -> Parked | None:
        return _parking(self.store_of(claim.name)).park(claim, ticket)

    def end_run(
        self, name: str, token: str, end: RunEndName, *, broker: str, value: Value | None = None
    ) -> tuple[bool, tuple[Dispatch, ...]]:
        return _parking(self.store_of(name)).end_run(name, token, end, broker=broker, value=value)

    def published(self, dispatch: Dispatch, within: float) -> None:
        _parking(self.store_of(dispatch.name)).published(dispatch, within)

    def finish(self, name: str, ticket_id: str, token: str = "", *, running: bool = True) -> None:
        _parking(self.store_of(name)).finish(name, ticket_id, token, running=running)

    def waiting(self, name: str) -> int:
        return _parking(self.store_of(name)).waiting(name)

    def sweep(self, prefix: str, broker: str, most: int = 100) -> tuple[Dispatch, ...]:
        """Sweep the stores that can be reached."""
        return self._dispatches(lambda store: store.sweep(prefix, broker, most))

    def withdraw(self, prefix: str, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        return self._dispatches(lambda store: store.withdraw(prefix, broker, task_id))

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        """Wait in all stores at the same time."""
        place = process.forks, prefix, broker  # a fork has none of its parent's threads
        waits = self._due_waits.get(place)
        if waits is None:
            waits = self._due_waits.setdefault(
                place, DueWaits(list(map(_parking, self._stores.values())), prefix, broker)
            )
        waits.wait(timeout)

    def _dispatches(self, step: Callable[[Parking], tuple[Dispatch, ...]]) -> tuple[Dispatch, ...]:
        """Return the dispatches of a step in all stores. When it fails in some, return those of the others."""
        answers = self._asked(step)
        dispatches = tuple(dispatch for answer in answers if isinstance(answer, tuple) for dispatch in answer)
        if not dispatches and not all(isinstance(answer, tuple) for answer in answers):
            raise _failure(answers)
        return dispatches

    # The stores

    def ping(self) -> None:
        self._all(_pings)

    def about(self) -> str:
        return f"{', '.join(dict.fromkeys(self._all(lambda store: store.about())))}, {len(self._stores)} stores"

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        return merge(self._all(lambda store: store.checks(parks=parks)))

    def try_writes(self, prefix: str, *, parks: bool = False) -> list[str]:
        """Use a throwaway lock in each store."""
        warnings, failures = all_of(self._asked(lambda store: store.try_writes(prefix, parks=parks)))
        if failures:
            raise StoreUnavailable("; ".join(failures))
        return warnings

    def close(self) -> None:
        for store in self._stores.values():
            store.close()
        end_idle()

    def _all(self, call: Callable[[Store], T]) -> list[T]:
        """Return the answers of all stores, in order.

        Raises:
            StoreUnavailable: A store did not answer.
        """
        answers = self._asked(call)
        found = [answer for answer in answers if answer is not None and not isinstance(answer, StoreUnavailable)]
        if len(found) < len(answers):
            raise _failure(answers)
        return found

    def _asked(self, call: Callable[[Any], T]) -> list[T | StoreUnavailable | None]:
        return ask([partial(call, store) for store in self._stores.values()], PATIENCE_SECONDS)


def open_sharded(url: str) -> Sharded:
    """Return the store of a URL: ``sharded:`` and the URLs of its stores, with ``|`` between them."""
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
    """Return the function that chooses the store of a lock, by the lock's full name."""
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
        raise LockConfigError(
            f"the strategy returned {shard!r} for the key {key!r}: return one of {', '.join(names)}", key
        )
    return shard


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _parking(store: Store) -> Parking:
    parking = tickets_of(store)
    assert parking is not None  # callers ask `tickets_of` first
    return parking


def _pings(store: Store) -> bool:
    store.ping()
    return True


def _failure(answers: Sequence[Any]) -> StoreUnavailable:
    failed = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
    return failed[0] if failed else StoreUnavailable("one of the lock stores did not answer in time")
