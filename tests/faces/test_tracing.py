"""Spans of locks, by OpenTelemetry's own SDK."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from celery_locks import LockConfigError, Locks, owners, signals, tracing
from celery_locks.tasks.worker import telemetry
from tests.support.waiting import eventually

SOON = 100


class Traced:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def traced() -> Iterator[Traced]:
    made = Traced()
    stop = tracing.instrument(made.provider)
    yield made
    stop()
    assert not signals.on_lock_acquired
    assert not signals.on_lock_lost


def test_a_lease_has_two_spans(traced: Traced) -> None:
    lock = Locks("memory://").lock("user:7", owner=owners.running("shop.sync", "id-1", "web1"))
    with traced.tracer.start_as_current_span("run") as run, lock as lease:
        pass
    acquire, hold, _ = traced.spans()
    assert (acquire.name, hold.name) == ("lock acquire", "lock hold")
    for span in (acquire, hold):
        assert span.parent is not None
        assert span.parent.span_id == run.get_span_context().span_id
        assert span.attributes == {
            "celery_locks.key": "user:7",
            "celery_locks.owner": lease.owner,
            "celery_locks.fencing_token": lease.fencing_token,
            "celery.task_name": "shop.sync",
            "celery.task_id": "id-1",
        }
    assert acquire.end_time == hold.start_time
    assert acquire.start_time < acquire.end_time <= hold.end_time  # type: ignore[operator]


def test_the_waiting_is_within_the_span(traced: Traced) -> None:
    locks = Locks("memory://")
    first = locks.lock("k").acquire()
    waiter = threading.Thread(target=lambda: locks.lock("k").acquire().release())
    waiter.start()
    eventually(lambda: locks.info("k").waiting == 1, SOON)
    begun = locks._space.clock.now()
    eventually(lambda: locks._space.clock.now() - begun > 0.2, SOON)
    first.release()
    waiter.join(SOON)
    acquire = [span for span in traced.spans() if span.name == "lock acquire"][-1]
    assert acquire.end_time - acquire.start_time >= 0.2e9  # type: ignore[operator]


def test_a_loss_is_an_error_and_contention_an_event(traced: Traced) -> None:
    lock = Locks("memory://").lock("k")
    with traced.tracer.start_as_current_span("run"):
        lease = lock.acquire()
        assert lock.try_acquire() is None
    lock.force_release()
    assert not lease.release()
    spans: dict[str, Any] = {span.name: span for span in traced.spans()}
    assert spans["lock hold"].status.status_code is StatusCode.ERROR
    assert spans["lock hold"].attributes["celery_locks.lost_reason"] == "force_released"
    [event] = spans["run"].events
    assert (event.name, event.attributes["celery_locks.key"]) == ("lock contended", "k")
    assert not [span for span in traced.spans() if lease.token in str(span.to_json())]


def test_without_a_provider_nothing_is_kept() -> None:
    stop = tracing.instrument()
    try:
        assert tracing.instrument() is stop, "twice is once"
        with Locks("memory://").lock("k"):
            pass
    finally:
        stop()


def test_traces_that_are_asked_for_need_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    assert telemetry.is_tracing_enabled({})
    assert not telemetry.is_tracing_enabled({"locks_traces": False})
    monkeypatch.setattr(telemetry, "find_spec", lambda name: None)
    assert not telemetry.is_tracing_enabled({})
    with pytest.raises(LockConfigError, match=r"pip install 'celery-locks\[otel\]'"):
        telemetry.is_tracing_enabled({"locks_traces": True})
