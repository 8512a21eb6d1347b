"""Found by ``autodiscover_tasks``: shared tasks, in each order."""

from __future__ import annotations

from typing import Any

from celery import shared_task

from celery_locks import LockedTask, single_instance
from tests.tasks.bodies import work
from tests.tasks.shop import QUICK


@shared_task(bind=True)
@single_instance(key="<key>", ttl=5, backoff=QUICK)
def shared_above(self: Any, key: str, seconds: float = 0.0) -> str:
    return work(self, key, seconds)


@single_instance(key="<key>", ttl=5, backoff=QUICK)
@shared_task(bind=True)
def shared_below(self: Any, key: str, seconds: float = 0.0) -> str:
    return work(self, key, seconds)


@shared_task(bind=True, base=LockedTask, lock_key="<key>", lock_ttl=5, lock_backoff=QUICK)
def shared_base(self: Any, key: str, seconds: float = 0.0) -> str:
    return work(self, key, seconds)
