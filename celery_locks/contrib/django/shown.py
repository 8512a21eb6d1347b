"""What the pages show: the library's figures in words. Django's templates escape all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from celery_locks.durations import duration
from celery_locks.listing import LockInfo, Page, Stats
from celery_locks.stores.base import Holder
from celery_locks.stores.listing import Waiter

#: How soon a lease is about to end, in seconds.
NEAR = 10.0


def page_of(page: Page, prefix: str, after: str | None) -> dict[str, Any]:
    """A page of the list."""
    following = None if page.next is None else urlencode({"prefix": prefix, "after": page.next})
    return {
        "rows": [row_of(item) for item in page.items],
        "next": following,
        "first": urlencode({"prefix": prefix}) if after else None,
    }


def row_of(item: LockInfo) -> dict[str, Any]:
    """A key in the list."""
    more = len(item.holders) - 1
    return {
        **_counts(item),
        "link": urlencode({"key": item.key}),
        "holder": holder_of(item.holders[0]) if item.holders else None,
        "more": max(more, 0),
    }


def lock_of(info: LockInfo) -> dict[str, Any]:
    """A key by itself."""
    line = [waiter_of(each) for each in info.line]
    return {
        **_counts(info),
        "holders": [{**holder_of(each), "release": _release_link(info.key, each)} for each in info.holders],
        "line": line,
        "unnamed": info.waiting - len(line),
    }


def stats_of(stats: Stats) -> dict[str, Any]:
    """Figures over all keys; where not all were counted, they are lower bounds."""
    return {
        "locks": stats.locks,
        "holders": stats.holders,
        "waiting": stats.waiting,
        "near_expiry": stats.near_expiry,
        "oldest": stats.oldest,
        "oldest_for": duration(stats.oldest_held_for),
        "complete": stats.complete,
    }


def holder_of(holder: Holder) -> dict[str, Any]:
    """Who holds a key. Never the owner token, by which anybody could release."""
    return {
        "owner": holder.owner,
        "task": holder.task_name,
        "task_id": holder.task_id,
        "permits": holder.permits,
        "held_for": duration(holder.held_for),
        "left": duration(holder.expires_in),
        "fencing_token": str(holder.fencing_token),  # no thousand separators
    }


def waiter_of(waiter: Waiter) -> str:
    """One who stands in line; only parked tasks give a name."""
    return waiter.owner or "a waiter without a name"


def named(holders: Sequence[Holder], fencing_token: int) -> dict[str, Any] | None:
    """The holder with this fencing token, ``None`` when it holds no more."""
    return next((holder_of(each) for each in holders if each.fencing_token == fencing_token), None)


def _counts(info: LockInfo) -> dict[str, Any]:
    return {"key": info.key, "permits": info.permits, "limit": info.limit, "waiting": info.waiting}


def _release_link(key: str, holder: Holder) -> str:
    return urlencode({"key": key, "fencing_token": holder.fencing_token})
