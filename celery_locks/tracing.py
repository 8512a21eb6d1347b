"""OpenTelemetry's spans of locks: ``lock acquire`` and ``lock hold``. They need ``celery-locks[otel]``.

Made by receivers of signals, so that the way of a lock has nothing of it. Both are children of the span that is current
where the lease was acquired: that of the task, with OpenTelemetry's own instrumentation of Celery.
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
    """Makes spans from now on, in this process and those that are forked from it.

    Called again it changes nothing, unless a provider is named: that one takes over.

    Args:
        tracer_provider: Who makes them; by default OpenTelemetry's global one, whenever that is set.

    Returns:
        A function that ends it.
    """
    global _stop
    if _stop is not None and tracer_provider is not None:
        _stop()  # the one that is named counts, not the one that was found
    if _stop is None:
        _stop = _connected(_Spans(tracer_provider))
    return _stop


def _connected(spans: _Spans) -> Callable[[], None]:
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
        self._given = provider is not None
        # A lease that goes on elsewhere, such as one that travels with a message, is never told of here again.
        self._open: WeakKeyDictionary[Lease, Span] = WeakKeyDictionary()

    @property
    def _recorded(self) -> bool:
        """Whether anybody takes the spans: where the API is installed alone, making them would be for nothing."""
        return self._given or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    def acquired(self, lease: Lease, **_: Any) -> None:
        if not self._recorded:
            return
        now, attributes = time.time_ns(), _attributes(lease)
        begun = now - round((lease.waited + lease.held_for()) * _NANOSECONDS)
        self._tracer.start_span("lock acquire", start_time=begun, attributes=attributes).end(now)
        span = self._tracer.start_span("lock hold", start_time=now, attributes=attributes)
        if span.is_recording():
            self._open[lease] = span

    def contended(self, key: str, holders: list[str], **_: Any) -> None:
        if not self._recorded:
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
    """Never the owner token, by which anybody could release the lease."""
    attributes: dict[str, str | int] = {
        "celery_locks.key": lease.key,
        "celery_locks.owner": lease.owner,
        "celery_locks.fencing_token": lease.fencing_token,
    }
    task = owners.task_of(lease.owner)
    if task is not None:
        attributes |= {"celery.task_name": task[0], "celery.task_id": task[1]}
    return attributes
