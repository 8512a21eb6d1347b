"""The rule of acquisition, as a table of cases that all stores answer alike; see `Store.acquire`."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim, Granted, Refused
from celery_locks.testing.compliance.base import StoreTests

#: Name of the case → earlier steps, the claim, the answer, and the holders then, earliest acquisition first.
#:
#: Steps are separated by semicolons. ``a`` is a claim with the token a, with options after it: ``permits=`` and
#: ``limit=``, ``adopts=`` a token, ``replaces``, ``line`` to line up, ``most=`` as `Claim.max_waiters`, ``short`` for a
#: deadline that ``pass`` lets pass. ``-a`` is a release, ``~a`` leaves the line. An answer is ``granted``,
#: ``same`` (granted again; see `StoreTests.fence_may_grow`), ``refused`` (with a number: and in line at this place),
#: ``full`` or ``replaced``.
CASES: dict[str, list[tuple[str, str, str, str]]] = {
    "free": [
        ("", "a", "granted", "a"),
        ("", "a line", "granted", "a"),
        ("a; -a", "b", "granted", "b"),
    ],
    "held": [
        ("a", "b", "refused", "a"),
        ("a", "b line", "refused 0", "a"),
    ],
    "expired": [
        ("a short; pass", "b", "granted", "b"),
        ("a short; pass", "a", "granted", "a"),
        ("a limit=2 short; b limit=2; pass", "c limit=2", "granted", "b c"),
    ],
    "the same token again": [
        ("a", "a", "same", "a"),
        ("a; b line", "a", "same", "a"),
        ("a limit=2 permits=2", "a limit=2", "same", "a"),
        ("a limit=2; b limit=2", "a", "same", "a b"),
    ],
    "permits": [
        ("", "a limit=3 permits=3", "granted", "a"),
        ("", "a limit=2 permits=3", "refused", ""),
        ("a limit=3 permits=2", "b limit=3", "granted", "a b"),
        ("a limit=3 permits=2", "b limit=3 permits=2", "refused", "a"),
    ],
    "another limit": [
        ("a", "b limit=2", "granted", "a b"),
        ("a limit=2", "b", "refused", "a"),
        ("a limit=3; b limit=3; -b", "c", "refused", "a"),
        ("a limit=3; b limit=3; c limit=3; -c", "d limit=2", "refused", "a b"),
    ],
    "line": [
        ("a; b line; -a", "b", "granted", "b"),
        ("a; b line; -a", "c", "refused", ""),
        ("a; b line; -a", "c line", "refused 1", ""),
        ("a; b line; c line", "b line", "refused 0", "a"),
        ("a; b line; c line", "c", "refused 1", "a"),
        ("a; b line; ~b; -a", "c", "granted", "c"),
        ("a limit=2; b limit=2 permits=2 line", "c limit=2", "refused", "a"),
        ("a limit=2; b limit=2 permits=2 line", "c limit=3", "refused", "a"),
        ("a; b line short; pass; -a", "c", "granted", "c"),
    ],
    "max_waiters": [
        ("", "a line most=1", "granted", "a"),
        ("a", "b line most=1", "refused 0", "a"),
        ("a; b line", "c line most=1", "full", "a"),
        ("a; b line", "c line most=2", "refused 1", "a"),
        ("a; b line", "b line most=1", "refused 0", "a"),
        ("a; b line", "c most=1", "refused", "a"),
        ("a; b line; ~b", "c line most=1", "refused 0", "a"),
        ("a; b line short; pass", "c line most=1", "refused 0", "a"),
    ],
    "adoption": [
        ("a", "b adopts=a", "granted", "b"),
        ("a; c line", "b adopts=a", "granted", "b"),
        ("a; b adopts=a", "b adopts=a", "same", "b"),
        ("a; b adopts=a", "c adopts=a", "refused", "b"),
        ("a; b adopts=a", "a", "refused", "b"),
        ("a; -a", "b adopts=a", "granted", "b"),
        ("a; -a; c", "b adopts=a", "refused", "c"),
        ("a short; pass; c", "b adopts=a", "refused", "c"),
        ("a limit=2; c limit=2", "b limit=2 adopts=a", "granted", "c b"),
        ("a limit=2; c limit=2", "b adopts=a", "granted", "c b"),
        ("a limit=3; c limit=3", "b limit=3 permits=2 adopts=a", "granted", "c b"),
        ("a limit=2; c limit=2", "b limit=2 permits=2 adopts=a", "refused", "a c"),
        ("a limit=2 permits=2; c limit=2 line", "b limit=2 adopts=a; c limit=2", "granted", "b c"),
    ],
    "replacement": [
        ("", "b replaces", "granted", "b"),
        ("a", "b replaces", "granted", "b"),
        ("a; c line", "b replaces", "granted", "b"),
        ("a; b replaces", "b replaces", "same", "b"),
        ("a; b replaces", "a replaces", "replaced", "b"),
        ("a", "b limit=2 permits=3 replaces", "refused", "a"),
        ("a limit=2; b limit=2", "c limit=2 replaces", "granted", "b c"),
        ("a limit=3; b limit=3 permits=2", "c limit=3 permits=2 replaces", "granted", "c"),
        ("a; b replaces", "c adopts=a", "replaced", "b"),
        ("a; b replaces; -b", "c adopts=a", "replaced", ""),
        ("a; b replaces", "c adopts=a replaces", "replaced", "b"),
        ("a", "b adopts=a replaces", "granted", "b"),
        ("a limit=2; c limit=2", "b limit=2 adopts=a replaces", "granted", "c b"),
    ],
}


class AcquireRule(StoreTests):
    """The rule of acquisition."""

    @pytest.mark.parametrize("subject", CASES)
    def test_the_rule_of_acquisition(self, store: Store, another: Store, name: str, subject: str) -> None:
        wrong, supported = list[str](), 0
        for number, (before, asked, answer, holders) in enumerate(CASES[subject]):
            steps = _Steps(self, store, another, f"{name}:{number}")
            if not steps.are_supported(f"{before}; {asked}"):
                continue
            supported += 1
            for step in before.split("; "):
                steps.take(step)
            for step in asked.split("; "):
                got = steps.take(step)
            held = " ".join(steps.letters[holder.token] for holder in store.holders(steps.name))
            if self.fence_may_grow:
                answer = answer.replace("same", "granted")
            if (got, held) != (answer, holders):
                wrong.append(f"{before} > {asked}: {got}, held by {held!r}; should be {answer}, held by {holders!r}")
        assert not wrong, "\n".join(wrong)
        if not supported:
            pytest.skip(f"{type(store).__name__} declares that it lacks a capability of this case")


class _Steps:
    """The steps of one case, on a lock of its own.

    Args:
        tests: The tests of the case.
        store: The store.
        another: Another object of the store, which takes every second step.
        name: The lock's full name.
    """

    def __init__(self, tests: StoreTests, store: Store, another: Store, name: str) -> None:
        self.name = name
        self.letters: dict[str, str] = {}
        self._tests, self._store, self._stores = tests, store, [store, another]
        self._tokens: dict[str, str] = {}
        self._fences: dict[str, int] = {}

    def are_supported(self, steps: str) -> bool:
        """Return whether the store has the capabilities that these steps need."""
        words = steps.replace(";", "").split()
        line = "line" in words or any(word.startswith("most=") for word in words)
        limits = any(word.startswith(("limit=", "permits=")) for word in words)
        return (self._store.fair or not line) and (self._store.semaphores or not limits)

    def take(self, step: str) -> str:
        """Take a step, and return the answer to a claim; of other steps an empty text."""
        self._stores.reverse()
        store, (letter, *options) = self._stores[0], step.split() or [""]
        if letter == "pass":
            self._tests.pass_time(self._tests.short)
        elif letter.startswith("-"):
            assert store.release(self.name, self._token(letter[1:]))
        elif letter.startswith("~"):
            store.leave(self.name, self._token(letter[1:]))
        elif letter:
            return self._acquire(store, letter, options)
        return ""

    def _acquire(self, store: Store, letter: str, options: list[str]) -> str:
        seconds = self._tests.short if "short" in options else self._tests.long
        claim = Claim(self.name, self._token(letter), letter, seconds)
        line_up = seconds if "line" in options else None
        if line_up is not None:
            claim.ttl = self._tests.long
        given = dict[str, Any](option.split("=") for option in options if "=" in option)
        named = {"most": "max_waiters", "adopts": "adopts", "limit": "limit", "permits": "permits"}
        asked: dict[str, Any] = {
            named[key]: self._token(value) if key == "adopts" else int(value) for key, value in given.items()
        }
        answer = store.acquire(replace(claim, replaces="replaces" in options, **asked), line_up)
        if isinstance(answer, Granted):
            before, self._fences[letter] = self._fences.get(letter), answer.fencing_token
            return "same" if before == answer.fencing_token and not self._tests.fence_may_grow else "granted"
        return _kind(answer)

    def _token(self, letter: str) -> str:
        token = self._tokens.setdefault(letter, uuid.uuid4().hex)
        self.letters[token] = letter
        return token


def _kind(refused: Refused) -> str:
    if refused.full or refused.replaced:
        return "full" if refused.full else "replaced"
    return "refused" if refused.position is None else f"refused {refused.position}"
