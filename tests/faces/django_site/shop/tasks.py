"""Tasks of the shop."""

from __future__ import annotations

from celery import shared_task
from django.contrib.auth.models import Group

from celery_locks import current_lease, single_instance
from celery_locks.contrib.django import LockedTask


@shared_task(base=LockedTask, lock_key="group:<group_id>", lock_scope="until_executed", lock_on_contention="raise")
def describe(group_id: int) -> str:
    """What the database has, and who holds the key."""
    lease = current_lease()
    assert lease is not None
    assert lease.held
    return f"{Group.objects.get(pk=group_id).name} under {lease.key} for {lease.ttl:g} s"


@shared_task
@single_instance(key="count", on_contention="skip")
def count() -> int:
    """How many groups there are."""
    return Group.objects.count()


@shared_task(base=LockedTask, lock_key="twice:<what>", lock_scope="until_and_while_executing")
def twice(what: str) -> None:
    """Locked from the call until the run starts, and apart from that while it runs."""
