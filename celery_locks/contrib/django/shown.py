"""What the pages show: the library's figures in words, and texts that others chose as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.utils.html import format_html
from django.utils.safestring import SafeString

from celery_locks.contrib.django.lease_reference import LeaseReference
from celery_locks.contrib.django.text import cut, folded, html, one_line
from celery_locks.durations import duration
from celery_locks.listing import LockInfo, Page, Stats
from celery_locks.stores.base import Holder
from celery_locks.stores.listing import Waiter

#: How soon a lease is about to end, in seconds.
NEAR = 10.0
_CALL = "The lease of the call: until_and_while_executing takes it at the call, and releases it when the run begins."


def page_of(page: Page, prefix: str, after: str | None) -> dict[str, Any]:
    """A page of the list."""
    following = None if page.next is None else urlencode({"prefix": prefix, "after": page.next})
    return {
        "rows": [row_of(item) for item in page.items],
        "next": following,
        "first": urlencode({"prefix": prefix}) if after else None,
    }


def search_of(prefix: str) -> dict[str, Any]:
    """What was searched for: a field of a form can't keep every text."""
    return {
        "prefix": cut(prefix) if prefix else "",
        "typed": prefix if prefix.isprintable() else "",
        "exact": query_of(prefix),
    }


def row_of(item: LockInfo) -> dict[str, Any]:
    """A key in the list."""
    first = item.holders[0] if item.holders else None
    return {
        **_counts(item),
        "link": query_of(item.key, part_of(item)),
        "holder": holder_of(first) if first else None,
        "by": cut(first.task_name or first.owner) if first else "",
        "more": max(len(item.holders) - 1, 0),
    }


def lock_of(info: LockInfo, may_release: bool) -> dict[str, Any]:
    """A key by itself; only a user who may release gets references to its leases."""
    part, line = part_of(info), [waiter_of(each) for each in info.line]
    return {
        **_counts(info),
        "holders": [
            {**holder_of(each), **(release_of(info.key, part, each) if may_release else {})} for each in info.holders
        ],
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
        "oldest": None if stats.oldest is None else key_html(stats.oldest, getattr(stats, "oldest_part", "")),
        "oldest_for": duration(stats.oldest_held_for),
        "complete": stats.complete,
    }


def holder_of(holder: Holder) -> dict[str, Any]:
    """Who holds a key. Never the owner token, by which anybody could release."""
    return {
        "owner": folded(holder.owner),
        "state": state_of(holder),
        "permits": holder.permits,
        "held_for": duration(holder.held_for),
        "left": duration(holder.expires_in),
        "fencing_token": str(holder.fencing_token),  # no thousand separators
    }


def state_of(holder: Holder) -> SafeString | str:
    """Why a task that has the key does not run, empty when it does."""
    state, queue = getattr(holder, "state", ""), getattr(holder, "queue", "")
    if state == "dispatched":
        return format_html("dispatched to queue {}, not started", cut(queue)) if queue else "dispatched, not started"
    return "called, not started" if state == "called" else ""


def release_of(key: str, part: str, holder: Holder) -> dict[str, str]:
    """The reference by which a lease is released, and the query of the page that asks."""
    signed = LeaseReference(key, part, holder.fencing_token).signed()
    return {"lease": signed, "release": urlencode({"lease": signed})}


def waiter_of(waiter: Waiter) -> SafeString | str:
    """One who stands in line; only parked tasks give a name."""
    return folded(waiter.owner) if waiter.owner else "a waiter without a name"


def holders_now(holders: Sequence[Holder]) -> SafeString:
    """What has become of a key, as a sentence."""
    if not holders:
        return format_html("The key is free now.")
    more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    return format_html("The key is now held by {}{}.", cut(holders[0].owner), more)


def key_html(key: str, part: str = "") -> SafeString:
    """A key, and which of its locks."""
    if part == "call":
        return format_html('{} <abbr title="{}">(call)</abbr>', html(key), _CALL)
    return html(key)


def key_text(key: str, part: str = "") -> str:
    """The same as one line of plain text."""
    return one_line(key) + (f" ({part})" if part else "")


def query_of(key: str, part: str = "") -> str:
    """The query of a key's page. Percent signs keep every character."""
    return urlencode({"key": key, "part": part} if part else {"key": key})


def part_of(info: LockInfo) -> str:
    """Which lock of its key this is."""
    return getattr(info, "part", "")


def _counts(info: LockInfo) -> dict[str, Any]:
    return {
        "key": key_html(info.key, part_of(info)),
        "permits": info.permits,
        "limit": info.limit,
        "waiting": info.waiting,
    }
