"""What a message says of the lease that was taken at its call: in our own header, beside the counter of deferrals.

``id``
    The task's; a header that came along from another task's message counts for nothing.
``key``, ``lock``, ``token``
    The key, the lock's name in the store, and the owner token of the lease: for the run to adopt.
``ticket``, ``copy``
    The message was sent on from the line, where this is its ticket; or it is a safety copy.
``since``
    When it was first parked, in seconds since 1970, for the metrics.
``refused``, ``holders``
    The key was held at the call: the policy by which the run is to end without running the body, and who held it.
``started``
    The call's lease has done its part, and this is a later message of the same task.
``lasting``
    The lease is left alone, whatever becomes of the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_locks.tasks.message import HEADER


def ours_in(headers: Any, task_id: str | None) -> Mapping[str, Any]:
    """What the headers of a task's message say of its call; empty when that is nothing."""
    ours = headers.get(HEADER) if headers and isinstance(headers, Mapping) else None
    return ours if isinstance(ours, Mapping) and task_id is not None and ours.get("id") == task_id else {}


def ours_of(request: Any) -> Mapping[str, Any]:
    """What the message of a request says of its call."""
    return ours_in(request.headers, request.id)


def with_ours(headers: Any, **ours: Any) -> dict[str, Any]:
    """Headers with these fields, and no other, in our own."""
    return {**(headers if isinstance(headers, Mapping) else {}), HEADER: ours}


def ours_alone(request: Any) -> dict[str, Any]:
    """Our own header of a request, if it has one, as headers."""
    return {HEADER: request.headers[HEADER]} if ours_of(request) else {}
