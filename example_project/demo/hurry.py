"""Settings of the demo that differ from the shop's: shorter times, so that everything happens within seconds."""

from __future__ import annotations

import os

from celery import Celery

#: If this variable is "no", the shop runs without locks.
LOCKED = "DEMO_LOCKED"
#: Seconds after which Redis delivers the messages of a dead worker again: more than the demo's longest task takes.
VISIBILITY_TIMEOUT = 6


def hurry(app: Celery) -> None:
    """Set shorter times. This must happen before the app's tasks are imported."""
    app.conf.update(
        locks_ttl=3,
        # A task whose key is held is deferred for a random pause of at most 0.2, 0.4, 0.8 and 1 s.
        locks_backoff={"base": 0.2, "cap": 1},
        # Without locks the demo shows which promises break.
        locks_enabled=os.environ.get(LOCKED, "yes") != "no",
        worker_enable_remote_control=False,
        broker_transport_options={
            **app.conf.broker_transport_options,
            "visibility_timeout": VISIBILITY_TIMEOUT,
            # Restore these messages every second. Without these two settings it takes up to 100 seconds.
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
    )
