"""The shop's Celery app, with the settings that all its tasks and locks share."""

from __future__ import annotations

import os

from celery import Celery
from celery.schedules import crontab

TASKS = "example_project.shop.tasks"

app = Celery("shop", include=[f"{TASKS}.{name}" for name in ("customers", "catalogue", "stock", "payments", "reports")])

# The broker and the lock store: example_project/shop/settings has a module for each choice.
app.config_from_object(f"example_project.shop.settings.{os.environ.get('SHOP_RUNS_ON', 'embedded')}")

app.conf.update(
    task_ignore_result=True,  # the shop's database records the results
    # --- Locks ---
    # If a machine dies, its keys become free after this many seconds at most. Long tasks renew their leases.
    locks_ttl=30,
    # The prefix of all names in the lock store. All processes of the shop share it, and no other shop uses it.
    locks_prefix="shop",
    # Workers record their leases here, so that the keys of a dead worker become free soon. Not set: in memory.
    locks_folder=os.environ.get("SHOP_LOCKS_FOLDER"),
    # --- No task is lost with its worker: a message is acknowledged after its task, or delivered again. ---
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
