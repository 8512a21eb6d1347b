"""What the scripts answer, read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from celery_locks.errors import LossReason
from celery_locks.stores.listing import LockInfo, Page, Stats, Waiter
from celery_locks.stores.redis.wire.connections import as_text
from celery_locks.stores.types import Granted, Holder, Refused

MICROSECONDS = 1_000_000
#: The ttl in a holder's record; the version before wrote none.
_TTL = re.compile(r"^(\d+ \d+ \d+ \d+ )t\d+ ")


def granted_or_refused(answer: Any) -> Granted | Refused:
    """A fencing token, or a refusal: 2 where it was replaced, 3 where the line is full, and what `refused` reads."""
    if isinstance(answer, int):
        return Granted(answer)
    return refused(answer, replaced=answer[0] == 2, full=answer[0] == 3)


def refused(answer: Sequence[Any], replaced: bool = False, full: bool = False) -> Refused:
    """A refusal: its kind, retry in, position, holders …."""
    position = None if answer[2] == -1 else int(answer[2])
    return Refused(holders_of(answer[3:]), int(answer[1]) / MICROSECONDS, position, replaced, full)


def holders_of(answer: Sequence[Any]) -> tuple[Holder, ...]:
    """The holders of an answer: token, record, deadline, …, and the time."""
    *parts, now = (as_text(part) for part in answer)
    holders = []
    for token, record, deadline in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        permits, fence, since, limit, owner = _TTL.sub(r"\1", record, count=1).split(" ", 4)
        held_for, expires_in = (int(now) - int(since)) / MICROSECONDS, (float(deadline) - int(now)) / MICROSECONDS
        holders.append(Holder(owner, int(fence), int(permits), held_for, expires_in, token, int(limit)))
    return tuple(sorted(holders, key=lambda holder: holder.fencing_token))


def reason_of(answer: Any) -> LossReason | None:
    """Why a lease could not be renewed, ``None`` where it was."""
    said = as_text(answer)
    return None if said == "renewed" else cast(LossReason, said)


def state_of(name: str, answer: Sequence[Any]) -> LockInfo:
    """A lock: how many wait, permits held, holders …, and the time."""
    waiting, permits, *holders = answer
    return LockInfo(name, holders_of(holders), int(permits), int(waiting))


def info_of(name: str, answer: Sequence[Any]) -> LockInfo:
    """A lock with its line: what `state_of` reads, and after the permits owner, task and token of each in line."""
    waiting, permits, line, *holders = answer
    texts = [as_text(part) for part in line]
    waiters = tuple(Waiter(*each) for each in zip(texts[::3], texts[1::3], texts[2::3], strict=True))
    return replace(state_of(name, (waiting, permits, *holders)), line=waiters)


def page_of(answer: Sequence[Any]) -> Page:
    """A page: the time, the last name or nothing, and the locks."""
    now, last, *locks = answer
    states = (state_of(as_text(name), (*rest, now)) for name, *rest in locks)
    return Page(tuple(states), as_text(last) or None)


def stats_of(answer: Sequence[Any]) -> Stats:
    locks, holders, near, waiting, complete, oldest, held_for = answer
    counted = (int(locks), int(holders), int(near), int(waiting))
    return Stats(*counted, as_text(oldest) or None, int(held_for) / MICROSECONDS, complete == 1)
