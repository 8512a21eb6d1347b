"""``sharded:``: locks dealt out over several stores, each of which serves its own.

Which store serves a lock is decided by rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to
Increase Hit Rates", 1998): each store has a number for each name, and the greatest wins. A store that comes takes those
names for which its number is the greatest, and none moves between the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

from celery_locks.errors import LockConfigError, LossReason, StoreUnavailable
from celery_locks.stores import open_store
from celery_locks.stores.addresses import UnreadableError
from celery_locks.stores.base import Claim, Granted, Holder, Refused, Renewal, Store
from celery_locks.stores.capabilities import CAPABILITIES
from celery_locks.stores.check_results import merge
from celery_locks.stores.listing import Figures, Names, State, figures_together
from celery_locks.stores.parking import Dispatch, Dropped, Full, Out, Parked, Parking, RunEndName, Ticket
from celery_locks.stores.redis.pages import merged
from celery_locks.stores.together import ask
from celery_locks.stores.trial import all_of

T = TypeVar("T")

#: Each store has its own time-outs; one that keeps to none is not waited for any longer, in seconds.
PATIENCE = 30.0
#: Seconds between two looks at what is due.
LOOK = 0.5


class Sharded(Store):
    """Locks dealt out over several stores.

    It can do what all of them can. One that can't be reached is missed by its own locks alone, and by those who look at
    all of them. Where one is added or taken away while locks are held, those that move are free at their new place:
    stop what uses them before, or let their ttls pass.

    Args:
        stores: Their URLs; or a mapping of names to URLs or stores. The names decide on who serves what, so a store
            that keeps its name may move to another address. The name of a URL is the URL without user, password and
            parameters.

    Raises:
        LockConfigError: There is none, one is named twice, or a URL is wrong.
    """

    def __new__(cls, stores: Sequence[str] | Mapping[str, str | Store]) -> Sharded:
        """Tasks can park in it if they can in all of its stores."""
        opened = _opened(stores)
        parks = cls is Sharded and all(isinstance(store, Parking) for store in opened.values())
        made = super().__new__(ShardedParking if parks else cls)
        made._stores = opened
        return made

    def __init__(self, stores: Sequence[str] | Mapping[str, str | Store]) -> None:
        self._stores: dict[str, Store]
        self._hashes = [(blake2b(f"{name}\0".encode(), digest_size=8), store) for name, store in self._stores.items()]
        self.waits_for = min(store.waits_for for store in self._stores.values())
        for capability in CAPABILITIES:
            if capability != "parks":
                setattr(self, capability, all(getattr(store, capability) for store in self._stores.values()))

    def store_of(self, name: str) -> Store:
        """The store that serves a lock, by its full name."""
        text, greatest = name.encode("utf-8", "surrogatepass"), b""
        found: Store | None = None
        for begun, store in self._hashes:
            number = begun.copy()
            number.update(text)
            if (digest := number.digest()) > greatest:
                found, greatest = store, digest
        assert found is not None
        return found

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

    def release(self, name: str, token: str) -> bool:
        return self.store_of(name).release(name, token)

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

    def info(self, name: str) -> State:
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

    def page(self, names: Names) -> tuple[tuple[State, ...], str | None]:
        pages = dict(zip(self._stores, self._all(lambda store: store.page(names)), strict=True))
        return merged(pages, names.count)

    def stats(self, prefix: str, near: float) -> Figures:
        return figures_together(self._all(lambda store: store.stats(prefix, near)))

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

    def end_run(self, name: str, token: str, end: RunEndName, *, broker: str) -> tuple[bool, tuple[Dispatch, ...]]:
        return self._of(name).end_run(name, token, end, broker=broker)

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
        """Look at each store in turn: a wait for one of them must not miss what is due in another."""
        until = time.monotonic() + timeout
        share = LOOK / len(self._stores)
        while (left := until - time.monotonic()) > 0:
            for store in self._stores.values():
                begun, share = time.monotonic(), min(share, left)
                with suppress(StoreUnavailable):
                    assert isinstance(store, Parking)
                    store.await_due(prefix, broker, share)
                    if time.monotonic() - begun < 0.9 * share:
                        return
                time.sleep(max(0.0, share - (time.monotonic() - begun)))

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
        named = {_name(url): url for url in stores}
        if len(named) < len(stores):
            raise LockConfigError("a store is named twice among the shards")
        stores = named
    if not stores:
        raise LockConfigError("Sharded needs at least one store")
    return {name: open_store(store) if isinstance(store, str) else store for name, store in stores.items()}


def _name(url: str) -> str:
    """A URL without user, password and parameters: to change these moves no lock."""
    scheme, colon, rest = url.partition("://")
    before, _, _ = rest.partition("?")
    servers, slash, path = before.partition("/")
    plain = ",".join(server.rpartition("@")[2] for server in servers.split(","))
    return f"{scheme.lower()}{colon}{plain}{slash}{path}"


def _answers(store: Store) -> bool:
    store.ping()
    return True


def _failure(answers: Sequence[Any]) -> StoreUnavailable:
    failed = [answer for answer in answers if isinstance(answer, StoreUnavailable)]
    return failed[0] if failed else StoreUnavailable("one of the lock stores did not answer in time")
