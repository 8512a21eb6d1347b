"""The stores in database servers when an exception, a signal handler or another thread interrupts a thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest

from celery_locks import StoreUnavailable
from celery_locks.stores import open_store
from celery_locks.stores.sql import sweeper
from celery_locks.stores.sql.pool import IDLE_CONNECTION_SECONDS, SteadyPool
from celery_locks.stores.sql.shared_call import SharedCall
from celery_locks.stores.sql.store import ServerStore
from celery_locks.stores.sql.sweeper import SWEEP_TIMEOUT_SECONDS, Sweeper
from celery_locks.stores.types import Refused
from tests.stores.test_sql import SOON, claim, granted, open_, postgresql, prefix

__all__ = ["open_", "postgresql", "prefix"]

MARIADB = "mysql://nobody@127.0.0.1:1/locks"  # it is never connected


class Interrupted(BaseException):
    """An exception such as a soft time limit."""


@contextmanager
def interrupting(
    inside: Callable[..., object], step: int, interrupt: Callable[[], object], below: int
) -> Iterator[list[int]]:
    """Call a function at one of the steps of another one, and of what that calls. The list counts the steps.

    Steps above the depth ``below`` don't count.
    """
    steps, code, depth = [0], inside.__code__, 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal depth
        if event == "call" and not depth and frame.f_code is not code:
            return None
        frame.f_trace_opcodes = True
        depth += {"call": 1, "return": -1}.get(event, 0)
        if event == "opcode" and depth > below:
            steps[0] += 1
            if steps[0] == step:
                sys.settrace(None)
                interrupt()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield steps
    finally:
        sys.settrace(before)


def interrupt_everywhere(
    inside: Callable[..., object], run: Callable[[], object], interrupt: Callable[[], object], below: int = 0
) -> None:
    """Run something again and again, until each step of a function in it has been interrupted once."""
    step, seen = 0, 1
    while step < seen:
        step += 1
        try:
            with interrupting(inside, step, interrupt, below) as steps:
                run()
        except Interrupted:
            pass
        seen = max(seen, steps[0] + (step == steps[0]))
    assert step > 1


def ends(work: Callable[[], object]) -> None:
    """Check that something ends, in a thread of its own."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SOON)
    assert not thread.is_alive()


def interrupt() -> None:
    raise Interrupted


class TestInterrupted:
    def test_promise_40_a_query_of_a_waiter_leaves_its_slot_free(self) -> None:
        store = cast(ServerStore, open_store(MARIADB))
        inside = (
            ServerStore._query_for_waiters
        )  # Python strikes between no two instructions of a `with` statement itself
        interrupt_everywhere(inside, lambda: store._query_for_waiters(lambda: None), interrupt, below=1)
        for _ in range(4):
            ends(lambda: store._query_for_waiters(lambda: None))

    def test_promise_40_a_sweep_is_followed_by_others(self, monkeypatch: Any) -> None:
        swept: list[bool] = []
        mine = Sweeper(cast(Any, SimpleNamespace(timeout=2.0)))
        monkeypatch.setattr(mine, "sweep", lambda: swept.append(True))

        def sweep() -> None:
            mine._next = 0.0
            mine.sweep_if_due()

        interrupt_everywhere(Sweeper.sweep_if_due, sweep, interrupt)
        swept.clear()
        sweep()
        assert swept

    def test_another_thread_takes_a_connection_while_one_is_returned(self) -> None:
        pool = SteadyPool(lambda: None, 1.0)

        def give_back() -> None:
            entries = [SimpleNamespace(close=lambda: None, place=None) for _ in range(2)]
            for entry in entries:
                pool._do_return_conn(cast(Any, entry))
                entry.idle_since -= 2 * IDLE_CONNECTION_SECONDS

        interrupt_everywhere(SteadyPool._do_return_conn, give_back, pool._next_idle)

    def test_the_handler_of_a_signal_may_use_the_store(self) -> None:
        """It runs in the thread that it interrupts, which may have just taken a mutex."""
        pool = SteadyPool(lambda: None, 1.0)
        ends(lambda: interrupt_everywhere(SteadyPool._free_place, pool._free_place, pool._free_place))


class TestSweeps:
    def test_promise_33_all_transactions_of_a_sweep_share_one_timeout(self, monkeypatch: Any) -> None:
        now, ends_at = 0.0, list[float]()
        monkeypatch.setattr(sweeper, "monotonic", lambda: now)

        def request(work: Any, timeout: float) -> Any:
            nonlocal now
            ends_at.append(now + timeout)
            now += 0.3
            return 1 if len(ends_at) < 3 else ["lock"]

        mine = Sweeper(cast(Any, SimpleNamespace(timeout=2.0, single=request, transaction=request)))
        with pytest.raises(StoreUnavailable, match="a sweep took longer than 1 s"):
            mine.sweep()
        assert len(ends_at) == 4
        assert max(ends_at) <= SWEEP_TIMEOUT_SECONDS + 1e-9


def test_promise_42_a_task_that_left_the_line_is_forgotten(postgresql: str, open_: Any) -> None:
    store = open_(postgresql)
    granted(store, claim())
    waiter = claim(task_id="task")
    assert isinstance(store.acquire(waiter, 10.0), Refused)
    assert store._in_line == {waiter.token}
    store.leave(waiter.name, waiter.token)
    assert not store._in_line


def test_a_shared_call_whose_thread_did_not_start_is_made_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    call, start = SharedCall(lambda: called.append(1), "call"), threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        call.wait(1)
    monkeypatch.setattr(threading.Thread, "start", start)
    assert call.wait(30)
    assert called == [1]
