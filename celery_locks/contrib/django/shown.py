"""What the pages show: the library's figures in words, and texts that others chose as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from celery_locks._durations import duration
from celery_locks._validation import DEFAULT_STORE
from celery_locks.contrib.django.escaping import SHOWN_IN_A_CELL, cut, escape_text, folded, html
from celery_locks.contrib.django.lease_reference import LeaseReference
from celery_locks.keys.names import CALL
from celery_locks.lock_info import LockInfo, Page, Stats
from celery_locks.stores.listing import Waiter
from celery_locks.stores.types import Holder

#: How many characters of a part are shown: those of ``run:…`` are long.
_PART_SHOWN = 12
_CALL_PART = "Held from the call until the run starts, apart from the key itself (until_and_while_executing)"
_RUN_PART = "Held by a run against a second copy of its message, apart from the key itself"
_LASTING = "The lease lasts until it expires, whether its task has run or not (until_expired)."


def page_of(page: Page, prefix: str, after: str | None, store: str) -> dict[str, Any]:
    """A page of the list."""
    search = {"prefix": prefix, **_store_field(store)}
    return {
        "rows": [row_of(item) for item in page.items],
        "next": None if page.next is None else urlencode({**search, "after": page.next}),
        "first": urlencode(search) if after else None,
    }


def search_of(prefix: str, store: str, stores: Sequence[str]) -> dict[str, Any]:
    """Return what was searched for, and where: a field of a form can't keep every text."""
    choices = [
        {
            "name": html(name),
            "link": urlencode({"prefix": prefix, **_store_field(name)}),
            "is_shown": name == store,
        }
        for name in stores
    ]
    return {
        "prefix": cut(prefix) if prefix else "",
        "typed": prefix if prefix.isprintable() else "",
        "exact": query_of(prefix, store=store),
        "stores": choices if len(stores) > 1 else [],
        "store_name": "" if store == DEFAULT_STORE else store,
    }


def row_of(item: LockInfo) -> dict[str, Any]:
    """A key in the list."""
    first = item.holders[0] if item.holders else None
    return {
        **_counts(item),
        "link": query_of(item.key, item.part, item.store),
        "holder": holder_of(first) if first else None,
        "by": cut(first.task_name or first.owner) if first else "",
        "more": max(len(item.holders) - 1, 0),
        "least": not item.names_all,
    }


def lock_of(info: LockInfo, parts: Sequence[LockInfo], may_release: bool) -> dict[str, Any]:
    """A key by itself, and the parts of it; only a user who may release gets references to its leases."""
    line = [waiter_of(each) for each in info.line]
    holders = [holder_of(each) for each in info.holders]
    if may_release:
        for shown, holder in zip(holders, info.holders, strict=True):
            lease = LeaseReference(info.key, info.part, holder.fencing_token, info.store)
            shown["release"] = urlencode({"lease": lease.signed()})
    return {
        **_counts(info),
        "holders": holders,
        "line": line,
        "unnamed": info.waiting - len(line),
        "parts": [
            {"key": key_html(each.key, each.part), "link": query_of(each.key, each.part, each.store)} for each in parts
        ],
    }


def stats_of(stats: Stats) -> dict[str, Any]:
    """Figures over all keys; where not all were counted, they are lower bounds."""
    return {
        "locks": stats.locks,
        "holders": stats.holders,
        "waiting": stats.waiting,
        "near_expiry": stats.near_expiry,
        "oldest": None if stats.oldest is None else key_html(stats.oldest, stats.oldest_part),
        "oldest_for": duration(stats.oldest_held_for),
        "complete": stats.complete,
    }


def holder_of(holder: Holder) -> dict[str, Any]:
    """Who holds a key. Never the owner token, by which anybody could release."""
    return {
        "owner": folded(holder.owner, SHOWN_IN_A_CELL),
        "state": state_of(holder),
        "permits": holder.permits,
        "held_for": duration(holder.held_for),
        "left": duration(holder.expires_in),
        "fencing_token": str(holder.fencing_token),  # no thousand separators
    }


def state_of(holder: Holder) -> SafeString | str:
    """Return why the holder's task does not run; empty when it runs."""
    if holder.state == "dispatched":
        where = format_html(" to queue {}", cut(holder.queue)) if holder.queue else ""
        return format_html("dispatched{}, not started", where)
    if holder.state == "lasting":
        return format_html('<abbr title="{}">kept until it expires</abbr>', _LASTING)
    return "called, not started" if holder.state == "called" else ""


def waiter_of(waiter: Waiter) -> SafeString | str:
    """One who stands in line; only parked tasks give a name."""
    return folded(waiter.owner) if waiter.owner else "a waiter without a name"


def question_of(info: LockInfo, lease: LeaseReference) -> dict[str, Any]:
    """Whose lease is to be released, ``None`` when it has ended; and what has become of the key."""
    mine = next((each for each in info.holders if each.fencing_token == lease.fencing_token), None)
    holder = None if mine is None else {**holder_of(mine), "lease": lease.signed()}
    return {"holder": holder, "now": holders_now(info.holders), "store": _counts(info)["store"]}


def holders_now(holders: Sequence[Holder]) -> SafeString:
    """What has become of a key, as a sentence."""
    if not holders:
        return mark_safe("The key is free now.")
    more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
    return format_html("The key is now held by {}{}.", cut(holders[0].owner), more)


def key_html(key: str, part: str = "") -> SafeString:
    """A key, and which part of it."""
    if not part:
        return html(key)
    hint = _CALL_PART if part == CALL else _RUN_PART
    return format_html('{} <abbr title="{}">({})</abbr>', html(key), hint, part[:_PART_SHOWN])


def key_text(key: str, part: str = "") -> str:
    """The same as one line of plain text."""
    return escape_text(key) + (f" (part {part})" if part else "")


def query_of(key: str, part: str = "", store: str = DEFAULT_STORE) -> str:
    """The query of a key's page. Percent signs keep every character."""
    return urlencode({"key": key, **({"part": part} if part else {}), **_store_field(store)})


def _store_field(store: str) -> dict[str, str]:
    return {} if store == DEFAULT_STORE else {"store": store}


def _counts(info: LockInfo) -> dict[str, Any]:
    return {
        "key": key_html(info.key, info.part),
        "store": "" if info.store == DEFAULT_STORE else html(info.store),
        "permits": info.permits,
        "limit": info.limit,
        "waiting": info.waiting,
    }
