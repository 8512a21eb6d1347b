"""The contexts of the admin's templates: figures in words, and keys and owners as safe HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from celery_locks import LockInfo, Page, Stats
from celery_locks._durations import duration
from celery_locks._validation import DEFAULT_STORE
from celery_locks.contrib.django.escaping import MOST_CELL_CHARACTERS, cut, escape_text, folded, html
from celery_locks.contrib.django.lease_reference import LeaseReference
from celery_locks.keys.names import CALL
from celery_locks.stores.types import Holder
from celery_locks.views import lock_fields, more_holders, stats_fields

#: How many characters of a part are shown. Parts such as ``run:…`` are long.
_MOST_PART_CHARACTERS = 12
_CALL_PART_HINT = "Held from the call until the run starts, apart from the key itself (until_and_while_executing)"
_RUN_PART_HINT = "Held by a run against a second copy of its message, apart from the key itself"
_LASTING_HINT = "The lease lasts until it expires, whether its task has run or not (until_expired)."


def page_context(page: Page, prefix: str, after: str | None, store: str) -> dict[str, Any]:
    """Return a page of the list."""
    search = {"prefix": prefix, **_store_field(store)}
    return {
        "rows": [_row(item) for item in page.items],
        "next": None if page.next is None else urlencode({**search, "after": page.next}),
        "first": urlencode(search) if after else None,
    }


def search_context(prefix: str, store: str, stores: Sequence[str]) -> dict[str, Any]:
    """Return the search for a prefix, and the choice of stores. A form field can't contain every prefix."""
    choices = [
        {
            "name": html(name),
            "link": urlencode({"prefix": prefix, **_store_field(name)}),
            "is_current": name == store,
        }
        for name in stores
    ]
    return {
        "prefix": cut(prefix) if prefix else "",
        "typed": prefix if prefix.isprintable() else "",
        "exact": key_query(prefix, store=store),
        "stores": choices if len(stores) > 1 else [],
        "store_name": "" if store == DEFAULT_STORE else store,
    }


def _row(item: LockInfo) -> dict[str, Any]:
    first = item.holders[0] if item.holders else None
    return {
        **_figures(item),
        "link": key_query(item.key, item.part, item.store),
        "holder": holder_context(first) if first else None,
        "by": cut(first.task_name or first.owner) if first else "",
        "more": more_holders(item),
    }


def lock_context(info: LockInfo, parts: Sequence[LockInfo], may_release: bool) -> dict[str, Any]:
    """Return a key and its parts. References to its leases are included if the user may release them."""
    # A caller that waits in its process gives the store no name.
    line = [folded(each.owner) if each.owner else "a waiter without a name" for each in info.line]
    holders = [holder_context(each) for each in info.holders]
    if may_release:
        for context, holder in zip(holders, info.holders, strict=True):
            lease = LeaseReference(info.key, info.part, holder.fencing_token, info.store)
            context["release"] = urlencode({"lease": lease.signed()})
    return {
        **_figures(info),
        "holders": holders,
        "line": line,
        "unnamed": info.waiting - len(line),
        "parts": [
            {"key": key_html(each.key, each.part), "link": key_query(each.key, each.part, each.store)} for each in parts
        ],
    }


def stats_context(stats: Stats) -> dict[str, Any]:
    """Return the figures over all keys. They are lower bounds if they are not complete."""
    return {
        **stats_fields(stats),
        "oldest": None if stats.oldest is None else key_html(stats.oldest, stats.oldest_part),
        "oldest_for": duration(stats.oldest_held_for),
    }


def holder_context(holder: Holder) -> dict[str, Any]:
    """Return a holder without its owner token, since anyone who has the token can release the lease."""
    return {
        "owner": folded(holder.owner, MOST_CELL_CHARACTERS),
        "state": _state(holder),
        "permits": holder.permits,
        "held_for": duration(holder.held_for),
        "left": duration(holder.expires_in),
        "fencing_token": str(holder.fencing_token),  # no thousand separators
    }


def _state(holder: Holder) -> SafeString | str:
    """Return why the holder's task does not run; an empty text if it runs."""
    if holder.state == "dispatched":
        where = format_html(" to queue {}", cut(holder.queue)) if holder.queue else ""
        return format_html("dispatched{}, not started", where)
    if holder.state == "lasting":
        return format_html('<abbr title="{}">kept until it expires</abbr>', _LASTING_HINT)
    return "called, not started" if holder.state == "called" else ""


def question_context(info: LockInfo, lease: LeaseReference) -> dict[str, Any]:
    """Return the holder of a lease, ``None`` if the lease has ended, and the current state of the key."""
    found = next((each for each in info.holders if each.fencing_token == lease.fencing_token), None)
    holder = None if found is None else {**holder_context(found), "lease": lease.signed()}
    return {"holder": holder, "now": state_html(info), "store": _figures(info)["store"]}


def state_html(info: LockInfo) -> SafeString:
    """Return the current state of a key as a sentence."""
    holders = info.holders
    if not holders:
        return mark_safe("The key is free now.")
    return format_html("The key is now held by {}{}.", cut(holders[0].owner), more_holders(info))


def key_html(key: str, part: str = "") -> SafeString:
    """Return a key with its part, as HTML."""
    if not part:
        return html(key)
    hint = _CALL_PART_HINT if part == CALL else _RUN_PART_HINT
    return format_html('{} <abbr title="{}">({})</abbr>', html(key), hint, part[:_MOST_PART_CHARACTERS])


def key_text(key: str, part: str = "") -> str:
    """Return a key with its part, as one line of plain text."""
    return escape_text(key) + (f" (part {part})" if part else "")


def key_query(key: str, part: str = "", store: str = DEFAULT_STORE) -> str:
    """Return the query of a key's page. Percent-encoding keeps every character."""
    return urlencode({"key": key, **({"part": part} if part else {}), **_store_field(store)})


def _store_field(store: str) -> dict[str, str]:
    return {} if store == DEFAULT_STORE else {"store": store}


def _figures(info: LockInfo) -> dict[str, Any]:
    return {
        **lock_fields(info),
        "key": key_html(info.key, info.part),
        "store": "" if info.store == DEFAULT_STORE else html(info.store),
    }
