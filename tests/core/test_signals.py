"""Signals: who hears what, and for how long."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from celery_locks.signals import Signal


@pytest.fixture
def signal() -> Signal:
    return Signal("on_test")


class Receiver:
    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def hear(self, **named: Any) -> None:
        self.heard.append(named)


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, **named: Any) -> None:
        raise self.error


def test_receivers_get_sender_and_names(signal: Signal) -> None:
    receiver = Receiver()
    signal.connect(receiver.hear)
    signal.send("sender", lease=1, reason="expired")
    assert receiver.heard == [{"sender": "sender", "lease": 1, "reason": "expired"}]


def test_it_is_true_when_a_process_listens(signal: Signal) -> None:
    receiver = Receiver()
    assert not signal
    signal.connect(receiver.hear)
    assert signal
    signal.disconnect(receiver.hear)
    assert not signal


def test_connect_is_a_decorator_with_and_without_arguments(signal: Signal) -> None:
    heard: list[str] = []

    @signal.connect
    def first(**named: Any) -> None:
        heard.append("first")

    @signal.connect(sender="a")
    def second(**named: Any) -> None:
        heard.append("second")

    @signal.connect(weak=False)
    def third(**named: Any) -> None:
        heard.append("third")

    assert first.__name__ == "first"
    assert second.__name__ == "second"
    signal.send("a")
    signal.send("b")
    assert heard == ["first", "second", "third", "first", "third"]


def test_only_the_wanted_sender_is_heard(signal: Signal) -> None:
    receiver, sender = Receiver(), object()
    signal.connect(receiver.hear, sender=sender)
    signal.send(object())
    signal.send(None)
    signal.send(sender)
    assert receiver.heard == [{"sender": sender}]


def test_a_sender_may_be_known_by_a_proxy_that_is_equal_to_it(signal: Signal) -> None:
    class Proxy:
        def __eq__(self, other: object) -> bool:
            return other == "task"

        __hash__ = None  # type: ignore[assignment]

    receiver = Receiver()
    signal.connect(receiver.hear, sender=Proxy())
    signal.send("task")
    signal.send("other")
    assert len(receiver.heard) == 1


def test_a_receiver_that_is_connected_twice_hears_once(signal: Signal) -> None:
    receiver = Receiver()
    signal.connect(receiver.hear)
    signal.connect(receiver.hear)
    signal.send(None)
    assert len(receiver.heard) == 1


def test_disconnect_returns_whether_it_was_connected(signal: Signal) -> None:
    receiver, sender = Receiver(), object()
    signal.connect(receiver.hear)
    signal.connect(receiver.hear, sender=sender)
    assert signal.disconnect(receiver.hear) is True
    assert signal.disconnect(receiver.hear) is False
    signal.send(sender)
    assert len(receiver.heard) == 1, "that of the sender is another connection"
    assert signal.disconnect(receiver.hear, sender) is True
    signal.send(sender)
    assert len(receiver.heard) == 1


def test_a_weak_method_goes_with_its_object(signal: Signal) -> None:
    receiver = Receiver()
    heard = receiver.heard
    signal.connect(receiver.hear)
    signal.send(None)
    del receiver
    gc.collect()
    signal.send(None)
    assert len(heard) == 1
    assert not signal, "nothing of it is left"


def test_a_weak_lambda_goes_immediately(signal: Signal) -> None:
    heard: list[Any] = []
    signal.connect(lambda **named: heard.append(named))
    gc.collect()
    signal.send(None)
    assert heard == []


def test_a_strong_lambda_stays(signal: Signal) -> None:
    heard: list[Any] = []
    signal.connect(lambda **named: heard.append(named), weak=False)
    gc.collect()
    signal.send("x")
    assert heard == [{"sender": "x"}]


def test_a_dead_receiver_takes_no_living_one_along(signal: Signal) -> None:
    dead, living = Receiver(), Receiver()
    signal.connect(dead.hear)
    signal.connect(living.hear)
    del dead
    gc.collect()
    signal.send(1)
    signal.send(2)
    assert [named["sender"] for named in living.heard] == [1, 2]


def test_one_that_raises_is_logged_and_disturbs_nothing(signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    raises, receiver = Raises(ValueError("oh")), Receiver()
    signal.connect(raises)
    signal.connect(receiver.hear)
    signal.send(None)
    assert len(receiver.heard) == 1
    assert "a receiver of on_test raised" in caplog.text
    assert "ValueError: oh" in caplog.text


def test_a_receiver_without_kwargs_is_logged_too(signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    signal.connect(lambda: None, weak=False)
    signal.send(None, lease=1)
    assert "TypeError" in caplog.text


def test_what_stops_the_thread_is_not_held_up(signal: Signal) -> None:
    raises = Raises(KeyboardInterrupt())
    signal.connect(raises)
    with pytest.raises(KeyboardInterrupt):
        signal.send(None)


def test_a_receiver_may_disconnect_itself(signal: Signal) -> None:
    heard: list[int] = []

    def once(**named: Any) -> None:
        heard.append(1)
        signal.disconnect(once)

    last = Receiver()
    signal.connect(once)
    signal.connect(last.hear)
    signal.send(None)
    signal.send(None)
    assert (heard, len(last.heard)) == ([1], 2)


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """They take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless_threads")
def test_connecting_from_many_threads_while_others_go_loses_no_receiver(signal: Signal) -> None:
    """A send takes dead receivers out at the same time."""
    receivers = [Receiver() for _ in range(400)]
    start, done = threading.Barrier(5), threading.Event()

    def connect(some: list[Receiver]) -> None:
        start.wait()
        for receiver in some:
            signal.connect(receiver.hear)
            signal.connect(Receiver().hear)  # dead at once

    def send() -> None:
        start.wait()
        while not done.is_set():
            signal.send("early")

    threads = [threading.Thread(target=connect, args=(receivers[i::4],)) for i in range(4)]
    sender = threading.Thread(target=send)
    for thread in (*threads, sender):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    sender.join()
    signal.send("last")
    assert [receiver for receiver in receivers if {"sender": "last"} not in receiver.heard] == []
