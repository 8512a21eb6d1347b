"""Asking several stores at once."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable

import pytest

from celery_locks.errors import StoreUnavailable
from celery_locks.stores.parallel import ask
from celery_locks.stores.redis.redlock.member import MOST_UNDER_WAY, Member
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


def failing() -> str:
    raise StoreUnavailable("away")


def test_answers_come_in_order_and_errors_are_answers() -> None:
    one, two, three = ask([lambda: "a", failing, lambda: "c"], 30)
    assert (one, three) == ("a", "c")
    assert isinstance(two, StoreUnavailable)


def test_no_request_waits_for_servers_that_are_not_needed() -> None:
    go = threading.Event()
    begun = time.monotonic()
    answers = ask([lambda: 1, go.wait, lambda: 1], 60, lambda answers: answers.count(1) == 2)
    assert time.monotonic() - begun < 30
    assert answers == [1, None, 1]
    go.set()


def test_the_time_is_bounded() -> None:
    go = threading.Event()
    assert ask([go.wait], 0.05) == [None]
    go.set()


def test_other_errors_are_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        ask([lambda: 1 // 0], 30)


def test_a_forked_child_asks_by_threads_of_its_own() -> None:
    ask([os.getpid, os.getpid], 30)
    if (child := os.fork()) == 0:
        os._exit(0 if ask([os.getpid, os.getpid], 30) == [os.getpid()] * 2 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_server_that_hangs_holds_a_limited_number_of_threads(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    member = Member(server.url())
    member.ping()
    with server.paused():
        refused = threading.Event()
        threads = [threading.Thread(target=_ask, args=(member, refused), daemon=True) for _ in range(MOST_UNDER_WAY)]
        for thread in threads:
            thread.start()
        eventually(lambda: _refuses(member), 60)
        refused.set()
    for thread in threads:
        thread.join(30)
    assert member.held("p:{k}") == 0
    member.close()


def _ask(member: Member, refused: threading.Event) -> None:
    """Ask until one was refused: the first requests may be given up before the last thread has started."""
    while not refused.is_set():
        with contextlib.suppress(StoreUnavailable):
            member.held("p:{k}")


def _refuses(member: Member) -> bool:
    with pytest.raises(StoreUnavailable) as caught:
        member.held("p:{k}")
    return "hangs" in str(caught.value)
