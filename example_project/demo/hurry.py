"""What the demo sets otherwise than a shop would: all that is waited for happens within seconds."""

from __future__ import annotations

import os

from celery import Celery

#: Set to "no": without locks.
LOCKED = "DEMO_LOCKED"
#: Seconds after which Redis delivers again what a dead worker had: more than the demo's longest task takes.
VISIBILITY_TIMEOUT = 6


def hurry(app: Celery) -> None:
    """Sets it, before the app's tasks are imported."""
    app.conf.update(
        locks_ttl=3,
        # A task that finds its key held is sent again after a random pause of at most 0.2, 0.4, 0.8 and 1 s.
        locks_backoff={"base": 0.2, "cap": 1},
        # The off switch: what the locks are good for is seen best without them.
        locks_enabled=os.environ.get(LOCKED, "yes") != "no",
        worker_enable_remote_control=False,
        broker_transport_options={
            **app.conf.broker_transport_options,
            "visibility_timeout": VISIBILITY_TIMEOUT,
            # Redis looks for such messages every second; without these two settings, every 100 seconds.
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        },
    )
