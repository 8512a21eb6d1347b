"""Links that lead nowhere: of the built site, and of the pages that stand beside it.

``python -m tests.package.links SITE`` prints them, and fails if there are any; links to other sites it only counts, or
lists with ``--external``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

ROOT = Path(__file__).resolve().parents[2]
_MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)


class Html(HTMLParser):
    """What a page links to, and what in it can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.links.append(value)


def broken(site: Path) -> Iterator[str]:
    """The internal links and anchors of a built site that lead nowhere, each with its page."""
    pages = {path: Html(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links are those of the place where the site is served
        here = path.relative_to(site).as_posix()
        for link in dict.fromkeys(page.links):
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            place = site / unquote(urljoin(f"/{here}", target.path or Path(here).name)).lstrip("/")
            place = place / "index.html" if place.is_dir() else place
            if not place.is_file():
                yield f"{here}: {link} leads nowhere"
            elif place in pages and unquote(target.fragment) not in pages[place].anchors:
                yield f"{here}: {link} has no such place on its page"


def broken_beside(root: Path) -> Iterator[str]:
    """The links of README and its like to files that aren't there."""
    for path in sorted(root.glob("*.md")):
        for link in _MARKDOWN_LINK.findall(_CODE.sub("", path.read_text(encoding="utf-8"))):
            target = urlsplit(link)
            if not target.scheme and target.path and not (root / unquote(target.path)).exists():
                yield f"{path.name}: {link} leads nowhere"


def external(site: Path) -> list[str]:
    """All links to other sites."""
    pages = (Html(path.read_text(encoding="utf-8")) for path in site.rglob("*.html"))
    return sorted({link for page in pages for link in page.links if urlsplit(link).netloc})


def main(site: Path, *options: str) -> int:
    """Prints what is broken; returns the exit status."""
    found = [*broken(site), *broken_beside(ROOT)]
    others = external(site)
    for line in [*found, *(others if "--external" in options else ())]:
        print(line)
    print(f"Links: {len(found)} broken, {len(others)} to other sites, which are not tried.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
