"""OpenTelemetry spans of locks: ``lock acquire`` and ``lock hold``. They need ``celery-locks[otel]``.

Receivers of signals make them, so the code of locks contains no tracing. Both spans are children of the current span at
the acquisition. With OpenTelemetry's instrumentation of Celery this is the span of the task.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode, TracerProvider

from celery_locks import Lease, owners, signals

__all__ = ("instrument",)

_NANOSECONDS = 1_000_000_000
_stop: Callable[[], None] | None = None


def instrument(tracer_provider: TracerProvider | None = None) -> Callable[[], None]:
    """Make spans from now on, in this process and in its forks.

    A second call changes nothing, unless it names a provider, which then replaces the first.

    Args:
        tracer_provider: The provider of the tracer. By default it is OpenTelemetry's global provider, also if that is
            set later.

    Returns:
        A function that stops it.
    """
    global _stop
    if _stop is not None and tracer_provider is not None:
        _stop()  # a named provider has precedence
    if _stop is None:
        _stop = _connect(_Spans(tracer_provider))
    return _stop


def _connect(spans: _Spans) -> Callable[[], None]:
    receivers: list[tuple[signals.Signal, Callable[..., None]]] = [
        (signals.on_lock_acquired, spans.acquired),
        (signals.on_lock_contended, spans.contended),
        (signals.on_lock_released, spans.released),
        (signals.on_lock_lost, spans.lost),
    ]
    for signal, receiver in receivers:
        signal.connect(receiver, weak=False)

    def stop() -> None:
        global _stop
        _stop = None
        for signal, receiver in receivers:
            signal.disconnect(receiver)

    return stop


class _Spans:
    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = trace.get_tracer("celery_locks", tracer_provider=provider)
        self._has_provider = provider is not None
        # Weak, because a lease that another process continues is never released or lost here.
        self._open: WeakKeyDictionary[Lease, Span] = WeakKeyDictionary()

    @property
    def _is_recorded(self) -> bool:
        """Whether spans are recorded. Without OpenTelemetry's SDK they are not, and need not be made."""
        return self._has_provider or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    def acquired(self, lease: Lease, **_: Any) -> None:
        if not self._is_recorded:
            return
        now, attributes = time.time_ns(), _attributes(lease)
        started = now - round((lease.waited + lease.held_for()) * _NANOSECONDS)
        self._tracer.start_span("lock acquire", start_time=started, attributes=attributes).end(now)
        span = self._tracer.start_span("lock hold", start_time=now, attributes=attributes)
        if span.is_recording():
            self._open[lease] = span

    def contended(self, key: str, holders: list[str], **_: Any) -> None:
        if not self._is_recorded:
            return
        trace.get_current_span().add_event("lock contended", {"celery_locks.key": key, "celery_locks.holders": holders})

    def released(self, lease: Lease, **_: Any) -> None:
        span = self._open.pop(lease, None) if self._open else None
        if span is not None:
            span.end()

    def lost(self, lease: Lease, reason: str, **_: Any) -> None:
        span = self._open.pop(lease, None) if self._open else None
        if span is not None:
            span.set_attribute("celery_locks.lost_reason", reason)
            span.set_status(Status(StatusCode.ERROR, f"lost: {reason}"))
            span.end()


def _attributes(lease: Lease) -> dict[str, str | int]:
    """Return the attributes of a span. The owner token is not one: with it anyone could release the lease."""
    attributes: dict[str, str | int] = {
        "celery_locks.key": lease.key,
        "celery_locks.owner": lease.owner,
        "celery_locks.fencing_token": lease.fencing_token,
    }
    task = owners.task_of(lease.owner)
    if task is not None:
        attributes |= {"celery.task_name": task[0], "celery.task_id": task[1]}
    return attributes
