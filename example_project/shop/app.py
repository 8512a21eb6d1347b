"""The shop's Celery app. What all its tasks and locks have in common is set here, once."""

from __future__ import annotations

import os

from celery import Celery
from celery.schedules import crontab

TASKS = "example_project.shop.tasks"

app = Celery("shop", include=[f"{TASKS}.{name}" for name in ("customers", "catalogue", "stock", "payments", "reports")])

# Where messages travel and leases lie: example_project/shop/settings has a module for each place.
app.config_from_object(f"example_project.shop.settings.{os.environ.get('SHOP_RUNS_ON', 'embedded')}")

app.conf.update(
    task_ignore_result=True,  # the shop's database says what was done
    # --- Locks ---
    # A machine that dies keeps its keys for so many seconds at most. Long tasks need no more: leases are renewed.
    locks_ttl=30,
    # What all names in the lock store begin with. All processes of the shop have the same, and no other shop has it.
    locks_prefix="shop",
    # Where workers write down what they hold, so that it is free soon after one dies. Not set: in memory.
    locks_folder=os.environ.get("SHOP_LOCKS_FOLDER"),
    # --- No task is lost with its worker: its message is acknowledged when it is done, and else delivered again. ---
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    # --- Beat ---
    timezone="UTC",
    beat_schedule={
        "close the day": {"task": f"{TASKS}.reports.close_day", "schedule": crontab(hour=0, minute=5)},
        "look for forgotten carts": {"task": f"{TASKS}.reports.look_for_forgotten_carts", "schedule": 60.0},
        "count sales": {"task": f"{TASKS}.reports.count_sales", "schedule": 10.0, "options": {"expires": 10}},
    },
)
