"""Locks on a clock that tests move, in a store that fails as it is told, with a keeper of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_locks import Lock, Locks, renewal, signals
from celery_locks.stores.memory import MemoryStore
from celery_locks.testing import MovableClock
from tests.support.faulty_store import FaultyStore

_keeper_of_this_process = renewal.keeper()


@pytest.fixture(autouse=True)
def keeper(monkeypatch: pytest.MonkeyPatch) -> Iterator[renewal.Keeper]:
    """The keeper of this test; what an earlier one left behind is not its concern."""
    monkeypatch.setattr(renewal, "RETRY_SECONDS", 0.02)
    keeper = renewal.Keeper()
    monkeypatch.setitem(renewal.keeper._values, "value", keeper)
    yield keeper
    for lease in list(keeper._watch._leases.values()):
        keeper.forget(lease)


@pytest.fixture(autouse=True)
def no_receivers_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for signal in vars(signals).values():
        if isinstance(signal, signals.Signal):
            monkeypatch.setattr(signal, "receivers", ())


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def store(clock: MovableClock) -> FaultyStore:
    return FaultyStore(clock)


@pytest.fixture
def locks(store: FaultyStore, clock: MovableClock) -> Locks:
    return Locks(store, clock=clock)


@pytest.fixture
def lock(locks: Locks) -> Lock:
    return locks.lock("k", ttl=30)


def _tell(told: list[tuple[str, dict[str, Any]]], name: str, named: dict[str, Any]) -> None:
    """Leaves out the leases that tests of other stores left to this process's renewer."""
    if isinstance(getattr(named["sender"], "store", None), (FaultyStore, MemoryStore, type(None))):
        told.append((name, named))


@pytest.fixture
def told() -> list[tuple[str, dict[str, Any]]]:
    """All signals that are sent, by name, in order."""
    told: list[tuple[str, dict[str, Any]]] = []
    of_other_tests = _keeper_of_this_process.leases()  # they may be renewed meanwhile
    for name in ("acquired", "contended", "renewed", "released", "lost"):
        signal = getattr(signals, f"on_lock_{name}")
        signal.connect(
            lambda name=name, **named: named.get("lease") in of_other_tests or _tell(told, name, named), weak=False
        )
    return told  # the receivers go with the monkeypatch above
