"""The entry in Flower's navigation, on all of its pages."""

from __future__ import annotations

import re
from typing import Any

from tornado.escape import to_unicode, utf8, xhtml_escape
from tornado.web import TemplateModule

from celery_locks import _logging

logger = _logging.logger(__name__)

_ITEM = r"<li[^>]*>\s*<a[^>]*\bhref=\"{href}\"[^>]*>[^<]*</a>\s*</li>"
_CURRENT = re.compile(r"\s*\baria-current=\"[^\"]*\"")
_CLASSES = re.compile(r"\bclass=\"([^\"]*)\"")
_TEXT = re.compile(r"(>)[^<>]*(</a>)")


def install(settings: dict[str, Any]) -> None:
    """Has the navigation of Flowers that are made with these settings show the locks."""
    modules = settings.setdefault("ui_modules", {})
    base = modules.get("Template", TemplateModule)  # somebody else's, where there is one

    class Template(base):  # type: ignore[misc,valid-type]
        """Flower's templates within templates."""

        def render(self, path: str, **named: Any) -> Any:
            html = super().render(path, **named)
            if path != "navbar.html":
                return html
            hrefs = self.handler.reverse_url("broker"), self.handler.reverse_url("locks")
            return utf8(with_entry(to_unicode(html), *hrefs, named.get("active_tab") == "locks"))

    modules["Template"] = Template


def with_entry(html: str, beside: str, href: str, active: bool) -> str:
    """The navigation with an entry for the locks, made like another one and behind it.

    Args:
        html: Flower's navigation.
        beside: Where the other entry leads to.
        href: Where this one leads to.
        active: Whether the page is one of locks.
    """
    found = re.search(_ITEM.format(href=re.escape(xhtml_escape(beside))), html)
    if found is None:
        logger.warning("Flower's navigation is not as expected: it has no entry for the locks, which are at %s", href)
        return html
    item = _CLASSES.sub(_without_active, _CURRENT.sub("", found[0]))
    item = item.replace(f'href="{xhtml_escape(beside)}"', f'href="{xhtml_escape(href)}"')
    item = _TEXT.sub(r"\g<1>Locks\g<2>", item)
    if active:
        item = _marked(item)
    return html[: found.end()] + "\n" + item + html[found.end() :]


def _without_active(classes: re.Match[str]) -> str:
    return 'class="' + " ".join(name for name in classes[1].split() if name != "active") + '"'


def _marked(item: str) -> str:
    """The entry as that of the page that is open."""
    item = re.sub(r"<a\b", '<a aria-current="page"', item, count=1)
    if re.search(r"<a[^>]*\bclass=\"", item):
        return re.sub(r"(<a[^>]*\bclass=\"[^\"]*)\"", r'\1 active"', item, count=1)
    return re.sub(r"<li\b", '<li class="active"', item, count=1)
