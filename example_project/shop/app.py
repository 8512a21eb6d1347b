"""The shop's Celery app. What all locks have in common is set here, once."""

from __future__ import annotations

import os

from celery import Celery

from example_project.shop import files_broker

files_broker.register()

app = Celery("shop", include=["example_project.shop.tasks"])

app.conf.update(
    broker_url=os.environ.get("SHOP_BROKER", "redis://localhost:6379/0"),
    task_ignore_result=True,
    # --- Locks ---
    locks_url=os.environ.get("SHOP_LOCKS", "redis://localhost:6379/1"),
    # A worker that dies keeps its keys for so many seconds at most. Long tasks need no more: the lease is renewed.
    locks_ttl=3,
    # A task that finds its key held is sent again after a random pause of at most 0.2, 0.4, 0.8 and 1 s.
    locks_backoff={"base": 0.2, "cap": 1},
    # The off switch: what the locks are good for is seen best without them.
    locks_enabled=os.environ.get("SHOP_LOCKED", "yes") != "no",
    # --- No task is lost with its worker: its message is acknowledged when it is done, and else delivered again. ---
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={
        # Redis delivers again what was not acknowledged for so many seconds. It must be more than the longest task
        # takes, or that task's message comes a second time while the first is still worked on.
        "visibility_timeout": 6,
        # It looks for such messages every second; without these two settings, every 100 seconds.
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # A broker that is made of files has to be asked for messages; Redis tells.
        "polling_interval": 0.02,
    },
    # The broker of files has no channel to all workers at once, which remote control needs.
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)
