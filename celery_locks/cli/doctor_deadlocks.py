"""Deadlocks: ``doctor`` searches holders and lines for runs that wait for each other's keys."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from celery_locks import LockInfo, Locks, owners
from celery_locks._logging import one_line
from celery_locks._nesting import mark_in, mark_of_run
from celery_locks.cli.doctor_results import Finding
from celery_locks.cli.output import in_store, key_text
from celery_locks.stores.types import Holder

#: How many keys with a line are read.
MOST_LINES = 1_000
#: How many deadlocks are reported.
MOST_DEADLOCKS = 5
#: Seconds between two reads. In this time a `MultiLock` releases its leases and stops waiting, so it is not reported.
CONFIRM_SECONDS = 1.0


class Place(NamedTuple):
    """A key with its part, in a store.

    Attributes:
        locks: The store's locks.
        key: The key.
        part: The part of the key; see `LockInfo.part`.
    """

    locks: Locks
    key: str
    part: str

    def __str__(self) -> str:
        return key_text(self.key, self.part) + in_store(self.locks)

    def read(self) -> LockInfo:
        """Read the key from the store."""
        return self.locks.info(self.key, self.part)


@dataclass
class Runs:
    """The runs behind owner tokens. A run is identified by the mark of the tokens that it made; see `mark_of_run`."""

    #: The mark of a run → the mark of the run that it is nested in.
    outer: dict[str, str] = field(default_factory=dict)

    def add(self, holders: Iterable[Holder]) -> None:
        """Record the runs that are nested in others."""
        for holder in holders:
            within = mark_in(holder.token)
            if within is not None:
                self.outer[mark_of_run(holder.token)] = within

    def of_waiter(self, token: str) -> str | None:
        """Return the run that waits in line; ``None`` if the waiter is not a run."""
        mark = mark_in(token)
        return None if mark is None else self._outermost(mark)

    def of_holder(self, holder: Holder) -> str | None:
        """Return the run that holds a lease and will end it; ``None`` if the holder is not a run."""
        if holder.state not in ("running", "held"):  # a called or dispatched task does not run yet
            return None
        mark = mark_in(holder.token)
        if mark is None:
            return mark_of_run(holder.token) if holder.state == "running" else None
        return self._outermost(mark)

    def _outermost(self, mark: str) -> str:
        seen = {mark}
        while (outer := self.outer.get(mark)) is not None and outer not in seen:
            seen.add(outer)
            mark = outer
        return mark


@dataclass(frozen=True)
class Wait:
    """A run that waits for a key.

    Attributes:
        token: The owner token by which the run waits in line.
        place: The key.
        holders: The runs that hold the key, with their owners' names. ``None`` stands for holders that are not runs.
        tokens: The owner tokens of the holders.
    """

    token: str
    place: Place
    holders: dict[str | None, str]
    tokens: frozenset[str]


def deadlocks(places: Iterable[Place], runs: Runs) -> Iterator[Finding]:
    """Find runs of which each waits for another to end.

    Args:
        places: The keys that are held and have a line, in all stores.
        runs: The runs that are nested in others.
    """
    places = list(places)[:MOST_LINES]
    found = _cycles(_waits(places, runs))
    if not found:
        return
    # A read of many keys is not atomic. A wait that both reads see existed at one moment, between them.
    time.sleep(CONFIRM_SECONDS)
    before = {each for cycle in found for each in _tokens(cycle)}
    again = _waits({wait.place for cycle in found for wait in cycle.values()}, runs)
    for cycle in _cycles(again)[:MOST_DEADLOCKS]:
        if before.issuperset(_tokens(cycle)):
            yield Finding("deadlock", "warning", _text(cycle))


def _waits(places: Iterable[Place], runs: Runs) -> dict[str, list[Wait]]:
    """Return the waits of each run."""
    infos = [(place, place.read()) for place in places]
    for _, info in infos:
        runs.add(info.holders)
    waits: dict[str, list[Wait]] = {}
    for place, info in infos:
        for run, wait in _waits_for(place, info, runs):
            waits.setdefault(run, []).append(wait)
    return waits


def _waits_for(place: Place, info: LockInfo, runs: Runs) -> Iterator[tuple[str, Wait]]:
    holders = {runs.of_holder(holder): holder.owner for holder in info.holders}
    tokens = frozenset(holder.token for holder in info.holders)
    if not info.names_all:
        holders[None] = ""
    for waiter in info.line:
        run = runs.of_waiter(waiter.token)
        if run is not None:
            yield run, Wait(waiter.token, place, holders, tokens)


def _cycles(waits: dict[str, list[Wait]]) -> list[dict[str, Wait]]:
    """Return the deadlocks. Each maps a run to its wait for a key that the next run holds."""
    stuck = {run: _stuck_waits(its, waits) for run, its in waits.items()}
    while not_stuck := [run for run, its in stuck.items() if not its]:
        for run in not_stuck:
            del stuck[run]
        stuck = {run: _stuck_waits(its, stuck) for run, its in stuck.items()}
    cycles: list[dict[str, Wait]] = []
    while stuck:
        path: dict[str, Wait] = {}
        member: str | None = next(iter(stuck))
        while member is not None and member not in path and member in stuck:
            path[member] = stuck[member][0]
            member = next(iter(path[member].holders))
        members = list(path)
        if member in path:
            cycles.append({each: path[each] for each in members[members.index(member) :]})
        for member in members:
            del stuck[member]
    return cycles


def _stuck_waits(waits: list[Wait], stuck: Mapping[str, object]) -> list[Wait]:
    """Return the waits that only stuck runs can end. A wait for a semaphore may end by any of its holders."""
    return [wait for wait in waits if wait.holders and all(holder in stuck for holder in wait.holders)]


def _tokens(cycle: dict[str, Wait]) -> set[str]:
    return {token for wait in cycle.values() for token in (wait.token, *wait.tokens)}


def _text(cycle: dict[str, Wait]) -> str:
    members = list(cycle)
    parts = []
    for number, run in enumerate(members):
        before = cycle[members[number - 1]]  # it waits for a key that this run holds
        name = _task(before.holders[run])
        parts.append(f"{name} holds {before.place} and waits for {cycle[run].place}")
    if len(members) == 1:
        summary = "a run waits for itself"
    else:
        summary = f"{len(members)} runs wait for each other, and none can continue"
    return (
        f"{summary}: {one_line('; '.join(parts))}. Revoke one of them with terminate=True, and have tasks acquire "
        "their keys in one order, or at the same time with locks.multi()"
    )


def _task(owner: str) -> str:
    task = owners.read(owner)
    return owner if task is None else f"{task.name}[{task.id}]"
