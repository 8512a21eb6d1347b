"""A user's ``self.retry()`` under a lease.

Celery sends the new message immediately, while the body still holds the lease. With a short countdown the retry would
find its key held by its own first run, and under ``"skip"`` it would be lost. So it is sent after the release.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from celery.exceptions import Retry

from celery_locks import owners
from celery_locks._validation import LONGEST_TTL
from celery_locks.errors import StoreUnavailable
from celery_locks.lease import Lease, release_or_later
from celery_locks.renewal import keeper
from celery_locks.tasks.messages.header import fields_of, store_field, store_in, with_fields
from celery_locks.tasks.options import locks_for
from celery_locks.tasks.spec import TaskLock, TaskWithLock


class PostponedRetry(Retry):
    """The exception that ``self.retry()`` raises in the body of a locked task.

    Args:
        send: Sends the message, and returns the `Retry` that Celery gets.
        exc: Why the task retries.
        pause: Seconds until the message may be run.
    """

    def __init__(self, send: Callable[[], Retry], exc: BaseException | None, pause: float) -> None:
        super().__init__(exc=exc)
        self.pause = pause
        self.published: Retry | None = None
        self._send = send

    def publish(self) -> None:
        """Send the message.

        Raises:
            Reject: It could not be sent.
        """
        self.published = self._send()


def hand_to_retry(task: TaskWithLock, spec: TaskLock, store: str, lease: Lease, pause: float) -> bool:
    """Hand the lease of a run to its retry, whose message is about to be published and runs after a pause in seconds.

    Returns:
        Whether the run held the lease until now.
    """
    request = task.request
    ttl = min(spec.options.ttl + pause, LONGEST_TTL)
    claim = replace(
        lease._claim,
        token=secrets.token_hex(16),
        owner=owners.called(task.name, request.id, request.hostname),  # until the retry starts
        ttl=ttl,
        adopts=lease.token,
        replaces=False,
        task_id=request.id,
    )
    try:
        handed = lease._hand_over(claim)
    except StoreUnavailable:
        return release_or_later(lease)
    if handed:
        header = {"id": request.id, "key": lease.key, "lock": claim.name, "token": claim.token} | store_field(store)
        request.headers = with_fields(request.headers, **header)
    return handed


def take_from_retry(task: TaskWithLock, spec: TaskLock) -> None:
    """Release the lease that was handed to a retry whose message could not be published."""
    header = fields_of(task.request)
    if "token" in header:
        store = locks_for(task.app, store_in(header)).store
        keeper().release_later(store, header["lock"], header["token"], spec.options.ttl)
