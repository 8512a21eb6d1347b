"""The data of the pages and the API. Moments are milliseconds since 1970, by Flower's clock.

They are moments and not durations, so that the data of an unchanged lock stays equal, and is not sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery_locks import LockInfo, Page, Stats
from celery_locks.stores.types import Holder
from celery_locks.views import holder_fields, lock_fields, owner_fields, stats_fields

#: How many holders a row of the list names.
MOST_NAMED = 3


def page_payload(page: Page, stats: Stats, now: float) -> dict[str, Any]:
    """Return a page of the list, and figures over all keys."""
    figures = stats_fields(stats)
    held_for = figures.pop("oldest_held_for")
    figures["oldest_since"] = None if stats.oldest is None else milliseconds(now - held_for)
    rows = [
        {
            **lock_fields(info),
            "holders": holders_payload(info.holders[:MOST_NAMED], now),
            "unnamed": len(info.holders[MOST_NAMED:]),
            "all_counted": info.names_all,
        }
        for info in page.items
    ]
    return {"locks": rows, "next": page.next, "stats": figures}


def key_payload(info: LockInfo, parts: Sequence[LockInfo], now: float) -> dict[str, Any]:
    """Return a key, its line, and the parts that are locked apart from it."""
    return {
        **lock_fields(info),
        "holders": holders_payload(info.holders, now),
        "line": [{**owner_fields(each.owner), "task_id": each.task_id or None} for each in info.line],
        "parts": [each.part for each in parts],
    }


def holders_payload(holders: Sequence[Holder], now: float) -> list[dict[str, Any]]:
    """Return the holders of a key."""
    return [
        {
            **holder_fields(holder),
            "since": milliseconds(now - holder.held_for),
            "until": milliseconds(now + holder.expires_in),
        }
        for holder in holders
    ]


def milliseconds(seconds: float) -> int:
    """Return a moment in milliseconds, rounded to a tenth of a second, so that two reads of a lease are equal."""
    return round(seconds * 10) * 100
