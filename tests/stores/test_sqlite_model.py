"""The store in a file does what the small model in memory does, whatever the order of calls."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from celery_locks.stores.base import Claim, Granted, Refused, Renewal, Store
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.sqlite import SQLiteStore
from celery_locks.testing import MovableClock

NAMES = st.sampled_from(["a", "b"])
TOKENS = st.sampled_from(["1", "2", "3", "4"])
SECONDS = st.sampled_from([1.0, 5.0, 20.0])


class Alike(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = MovableClock()
        self.model = MemoryStore(self.clock)
        self.file = SQLiteStore(str(Path(self.folder.name, "locks.db")), clock=self.clock)
        #: (name, token) → fencing tokens of the model and the file
        self.last: dict[str, tuple[int, int]] = {}

    def teardown(self) -> None:
        self.file.close()
        self.folder.cleanup()

    @rule(name=NAMES, token=TOKENS, ttl=SECONDS, permits=st.integers(1, 3), line_up=st.none() | SECONDS)
    def acquire(self, name: str, token: str, ttl: float, permits: int, line_up: float | None) -> None:
        claim = Claim(name, token, f"owner {token}", ttl, 3, permits)
        modelled, filed = self.model.acquire(claim, line_up), self.file.acquire(claim, line_up)
        if isinstance(modelled, Refused):
            assert isinstance(filed, Refused)
            assert filed.position == modelled.position
            assert abs(filed.retry_in - modelled.retry_in) < 0.001
        else:
            assert isinstance(filed, Granted)
            self.compare_growth(name, modelled.fencing_token, filed.fencing_token)

    def compare_growth(self, name: str, modelled: int, filed: int) -> None:
        before = self.last.get(name, (0, 0))
        assert (modelled > before[0]) == (filed > before[1])
        self.last[name] = max(before[0], modelled), max(before[1], filed)

    @rule(name=NAMES, token=TOKENS)
    def leave(self, name: str, token: str) -> None:
        self.model.leave(name, token)
        self.file.leave(name, token)

    @rule(name=NAMES, token=TOKENS)
    def release(self, name: str, token: str) -> None:
        assert self.model.release(name, token) == self.file.release(name, token)

    @rule(name=NAMES, token=TOKENS, ttl=SECONDS)
    def renew(self, name: str, token: str, ttl: float) -> None:
        renewals = [Renewal(name, token, ttl)]
        (modelled,), (filed,) = self.model.renew(renewals), self.file.renew(renewals)
        assert (modelled is None) == (filed is None)

    @rule(name=NAMES)
    def force_release(self, name: str) -> None:
        assert self.told(self.model, name) == self.told(self.file, name)
        assert len(self.model.force_release(name)) == len(self.file.force_release(name))

    @rule(name=NAMES)
    def holders(self, name: str) -> None:
        assert self.told(self.model, name) == self.told(self.file, name)

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @staticmethod
    def told(store: Store, name: str) -> list[tuple[object, ...]]:
        return [
            (holder.token, holder.owner, holder.permits, round(holder.held_for, 3), round(holder.expires_in, 3))
            for holder in store.holders(name)
        ]


TestAlike = Alike.TestCase
TestAlike.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
