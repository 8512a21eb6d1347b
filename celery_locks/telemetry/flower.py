"""The store's metrics in Flower's own ``/metrics``, which serves all that prometheus_client's default registry has."""

from __future__ import annotations

from typing import Any

from flower import events

from celery_locks import LockConfigError, Locks, log, metrics

logger = log.logger(__name__)
_served = False


def install() -> None:
    """Has every Flower that is started in this process tell of the store of its app."""
    start = events.Events.start

    def start_with_store(self: Any) -> None:
        serve(self.capp)
        start(self)

    events.Events.start = start_with_store


def serve(app: Any) -> None:
    """Tells of the store of an app, if it has one: the first is served, once a process."""
    global _served
    if _served:
        return
    try:
        locks = Locks.from_app(app)
    except LockConfigError as error:
        logger.info("no metrics of locks: %s", error)
        return
    metrics.watch(locks)
    _served = True
