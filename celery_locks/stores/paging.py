"""One page out of the pages of many parts."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nsmallest

from celery_locks.stores.listing import State

#: How many locks of each part are asked for at first: names are dealt out evenly, so few of a page are of one part.
FIRST_LOOK = 8

#: The locks of a part, and the name after which there are more.
Page = tuple[tuple[State, ...], str | None]


def to_ask_again(pages: Mapping[str, Page], count: int) -> list[str]:
    """The parts that may have more for a page of ``count``."""
    first = nsmallest(count, (state.name for states, _ in pages.values() for state in states))
    last = first[-1] if len(first) == count else None
    return [part for part, (_, after) in pages.items() if after is not None and (last is None or after < last)]


def merged(pages: Mapping[str, Page], count: int) -> Page:
    """The first locks of all parts, and the name after which to go on.

    A part that has more is known up to the name after which it has; what other parts have beyond is for the next page.
    """
    known = min((after for _, after in pages.values() if after is not None), default=None)
    states = [state for found, _ in pages.values() for state in found if known is None or state.name <= known]
    page = tuple(nsmallest(count, states, key=lambda state: state.name))
    return page, page[-1].name if len(page) < len(states) else known
