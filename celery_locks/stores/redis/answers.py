"""What the scripts answer, read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery_locks.stores.base import Granted, Holder, Refused
from celery_locks.stores.redis.connections import as_text

MICROSECONDS = 1_000_000


def granted_or_refused(answer: Any) -> Granted | Refused:
    """A fencing token, or a refusal: 2 where it was replaced, else 0, and what `refused` reads."""
    if not isinstance(answer, Sequence):  # the usual answer is the one that is read the fastest
        return Granted(int(answer))
    return refused(answer, replaced=answer[0] == 2)


def refused(answer: Sequence[Any], replaced: bool = False) -> Refused:
    """A refusal: its kind, retry in, position, holders …."""
    position = None if answer[2] == -1 else int(answer[2])
    return Refused(holders_of(answer[3:]), int(answer[1]) / MICROSECONDS, position, replaced)


def holders_of(answer: Sequence[Any]) -> tuple[Holder, ...]:
    """The holders of an answer: token, record, deadline, …, and the time."""
    *parts, now = (as_text(part) for part in answer)
    holders = []
    for token, record, deadline in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        permits, fence, since, owner = record.split(" ", 3)
        held_for, expires_in = (int(now) - int(since)) / MICROSECONDS, (float(deadline) - int(now)) / MICROSECONDS
        holders.append(Holder(owner, int(fence), int(permits), held_for, expires_in, token))
    return tuple(sorted(holders, key=lambda holder: holder.fencing_token))
