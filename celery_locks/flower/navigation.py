"""The entry of the locks in Flower's navigation."""

from __future__ import annotations

import re

from tornado.escape import xhtml_escape

from celery_locks._logging import logger

log = logger(__name__)

_ITEM = r"<li[^>]*>\s*<a[^>]*\bhref=\"{href}\"[^>]*>[^<]*</a>\s*</li>"
_CURRENT = re.compile(r"\s*\baria-current=\"[^\"]*\"")
_CLASSES = re.compile(r"\bclass=\"([^\"]*)\"")
_TEXT = re.compile(r"(>)[^<>]*(</a>)")


def with_entry(html: str, model_href: str, href: str, active: bool) -> str:
    """Return the navigation with an entry for the locks, which copies another entry and follows it.

    Args:
        html: Flower's navigation.
        model_href: The address of the entry that is copied.
        href: The address of the new entry.
        active: Whether the open page is a page of locks.
    """
    found = re.search(_ITEM.format(href=re.escape(xhtml_escape(model_href))), html)
    if found is None:
        log.warning("Flower's navigation has an unknown form, so it has no entry for the locks, which are at %s", href)
        return html
    item = _CLASSES.sub(_without_active, _CURRENT.sub("", found[0]))
    item = item.replace(f'href="{xhtml_escape(model_href)}"', f'href="{xhtml_escape(href)}"')
    item = _TEXT.sub(r"\g<1>Locks\g<2>", item)
    if active:
        item = _as_active(item)
    return html[: found.end()] + "\n" + item + html[found.end() :]


def _without_active(classes: re.Match[str]) -> str:
    return 'class="' + " ".join(name for name in classes[1].split() if name != "active") + '"'


def _as_active(item: str) -> str:
    """Return the entry marked as the entry of the open page."""
    item = re.sub(r"<a\b", '<a aria-current="page"', item, count=1)
    if re.search(r"<a[^>]*\bclass=\"", item):
        return re.sub(r"(<a[^>]*\bclass=\"[^\"]*)\"", r'\1 active"', item, count=1)
    return re.sub(r"<li\b", '<li class="active"', item, count=1)
