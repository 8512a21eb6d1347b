"""A store in memory that fails on request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from celery_locks._runtime.clock import Clock
from celery_locks.errors import LossReason, StoreUnavailable
from celery_locks.stores.memory import MemoryStore
from celery_locks.stores.types import Claim, Granted, Holder, Refused, Renewal, Value

R = TypeVar("R")


class FaultyStore(MemoryStore):
    """A store whose calls are counted, and can be made to fail, to hang or to take time.

    Attributes:
        calls: The names of the methods, in the order they were called in.
        renewed: How many leases each call of `renew` was about.
        before: By method: called before it. What it raises, the call raises, and nothing is done.
        after: By method: called after it. What it raises, the call raises, though it is done: a lost reply.
    """

    notices = False  # its losses are noticed at renewals, which tests count

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(*([] if clock is None else [clock]))
        self.calls: list[str] = []
        self.renewed: list[int] = []
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}

    def go_down(self) -> None:
        """Every call fails from now on."""
        self.before = dict.fromkeys(
            ("acquire", "leave", "wait", "renew", "release", "force_release", "holders", "held", "write"), fail
        )

    def come_back(self) -> None:
        self.before, self.after = {}, {}

    def acquire(self, claim: Claim, line_up: float | None = None) -> Granted | Refused:
        return self._do("acquire", lambda: super(FaultyStore, self).acquire(claim, line_up))

    def leave(self, name: str, token: str) -> None:
        self._do("leave", lambda: super(FaultyStore, self).leave(name, token))

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        return self._do("wait", lambda: super(FaultyStore, self).wait_any(places, timeout))

    def renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        self.renewed.append(len(renewals))
        return self._do("renew", lambda: super(FaultyStore, self).renew(renewals))

    def release(self, name: str, token: str, value: Value | None = None) -> bool:
        return self._do("release", lambda: super(FaultyStore, self).release(name, token, value))

    def shrink(self, name: str, token: str, permits: int) -> bool:
        return self._do("shrink", lambda: super(FaultyStore, self).shrink(name, token, permits))

    def force_release(self, name: str, token: str = "") -> tuple[Holder, ...]:
        return self._do("force_release", lambda: super(FaultyStore, self).force_release(name, token))

    def holders(self, name: str) -> tuple[Holder, ...]:
        return self._do("holders", lambda: super(FaultyStore, self).holders(name))

    def held(self, name: str) -> int:
        return self._do("held", lambda: super(FaultyStore, self).held(name))

    def write(self, name: str, token: str, text: str, keep: float) -> bool:
        return self._do("write", lambda: super(FaultyStore, self).write(name, token, text, keep))

    def in_line(self, name: str) -> int:
        """How many stand in line."""
        return self.waiting(name)

    def _do(self, method: str, call: Callable[[], R]) -> R:
        self.calls.append(method)
        self.before.get(method, nothing)()
        answer = call()
        self.after.get(method, nothing)()
        return answer


def fail() -> None:
    raise StoreUnavailable("the store is away")


def nothing() -> None:
    pass
