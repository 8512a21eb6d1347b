"""What the store tells, as the pages and programs get it. Moments are milliseconds since 1970, by Flower's clock.

Moments and not durations, so that an answer to which nothing has changed is the same answer, and is not sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery_locks.lock_info import LockInfo, Page, Stats
from celery_locks.stores.listing import Waiter
from celery_locks.stores.types import Holder
from celery_locks.views import holder_fields, lock_fields, owner_fields

#: How many holders a row of the list names.
NAMED = 3


def index(page: Page, stats: Stats, now: float) -> dict[str, Any]:
    """A page of the list, and figures over all."""
    return {
        "locks": [row(info, now) for info in page.items],
        "next": page.next,
        "stats": {
            "locks": stats.locks,
            "holders": stats.holders,
            "waiting": stats.waiting,
            "near_expiry": stats.near_expiry,
            "oldest": stats.oldest,
            "oldest_part": stats.oldest_part,
            "oldest_since": None if stats.oldest is None else moment(now - stats.oldest_held_for),
            "complete": stats.complete,
        },
    }


def row(info: LockInfo, now: float) -> dict[str, Any]:
    """A key in the list."""
    return {
        **lock_fields(info),
        "holders": holders(info.holders[:NAMED], now),
        "unnamed": len(info.holders[NAMED:]),
        "all_counted": info.names_all,
    }


def one(info: LockInfo, parts: Sequence[LockInfo], now: float) -> dict[str, Any]:
    """A key by itself, and which parts of it are held apart."""
    line = [waiter(each) for each in info.line]
    return {
        **lock_fields(info),
        "holders": holders(info.holders, now),
        "line": line,
        "parts": [each.part for each in parts],
    }


def holders(all_of_them: Sequence[Holder], now: float) -> list[dict[str, Any]]:
    """Those who hold a key."""
    return [
        {
            **holder_fields(holder),
            "since": moment(now - holder.held_for),
            "until": moment(now + holder.expires_in),
        }
        for holder in all_of_them
    ]


def waiter(one_of_them: Waiter) -> dict[str, Any]:
    """One who stands in line."""
    return {**owner_fields(one_of_them.owner), "task_id": one_of_them.task_id or None}


def moment(seconds: float) -> int:
    """Milliseconds since 1970, to a tenth of a second: two reads of one lease tell the same."""
    return round(seconds * 10) * 100
