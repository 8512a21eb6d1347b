"""The replies of the scripts, parsed."""

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
#: The ttl in a holder's record. The version before wrote none.
_TTL = re.compile(r"^(\d+ \d+ \d+ \d+ )t\d+ ")


def parse_claim(reply: Any) -> Granted | Refused:
    """Parse the reply to a claim: a fencing token or a refusal, whose kind is 2 for replaced and 3 for a full line."""
    if isinstance(reply, int):
        return Granted(reply)
    return parse_refusal(reply, replaced=reply[0] == 2, full=reply[0] == 3)


def parse_refusal(reply: Sequence[Any], replaced: bool = False, full: bool = False) -> Refused:
    """Parse a refusal: its kind, retry in, position, holders …."""
    position = None if reply[2] == -1 else int(reply[2])
    return Refused(parse_holders(reply[3:]), int(reply[1]) / MICROSECONDS, position, replaced, full)


def parse_holders(reply: Sequence[Any]) -> tuple[Holder, ...]:
    """Parse holders: token, record and deadline of each, then the time."""
    *parts, now = (as_text(part) for part in reply)
    holders = []
    for token, record, deadline in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        permits, fence, since, limit, owner = _TTL.sub(r"\1", record, count=1).split(" ", 4)
        held_for, expires_in = (int(now) - int(since)) / MICROSECONDS, (float(deadline) - int(now)) / MICROSECONDS
        holders.append(Holder(owner, int(fence), int(permits), held_for, expires_in, token, int(limit)))
    return tuple(sorted(holders, key=lambda holder: holder.fencing_token))


def parse_renewal(reply: Any) -> LossReason | None:
    """Return why a lease could not be renewed, ``None`` if it was renewed."""
    reason = as_text(reply)
    return None if reason == "renewed" else cast(LossReason, reason)


def parse_info(name: str, reply: Sequence[Any]) -> LockInfo:
    """Parse a lock with its line: number of waiters, permits, the waiters, holders …."""
    waiting, permits, line, *holders = reply
    texts = [as_text(part) for part in line]
    waiters = tuple(Waiter(*each) for each in zip(texts[::3], texts[1::3], texts[2::3], strict=True))
    return replace(_parse_lock(name, (waiting, permits, *holders)), line=waiters)


def parse_page(reply: Sequence[Any]) -> Page:
    """Parse a page: the time, the last name or nothing, and the locks."""
    now, last, *locks = reply
    states = (_parse_lock(as_text(name), (*rest, now)) for name, *rest in locks)
    return Page(tuple(states), as_text(last) or None)


def parse_stats(reply: Sequence[Any]) -> Stats:
    locks, holders, near, waiting, complete, oldest, held_for = reply
    counted = (int(locks), int(holders), int(near), int(waiting))
    return Stats(*counted, as_text(oldest) or None, int(held_for) / MICROSECONDS, complete == 1)


def _parse_lock(name: str, reply: Sequence[Any]) -> LockInfo:
    """Parse a lock: number of waiters, permits, holders …."""
    waiting, permits, *holders = reply
    return LockInfo(name, parse_holders(holders), int(permits), int(waiting))
