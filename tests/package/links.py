"""Links that lead nowhere: of the built site, of the pages alongside it, and of addresses of this project.

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
_MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]\n]+\]:[ ]*(\S+)$", re.MULTILINE)
#: Where this project is published. The README is shown on package indexes, so it links to nothing else.
DOCUMENTATION = "https://celery-locks.readthedocs.io/en/stable/"
REPOSITORY = "https://github.com/celery-locks/celery-locks"
#: A file of the repository, to be read and to be shown.
_FILES = (f"{REPOSITORY}/blob/main/", "https://raw.githubusercontent.com/celery-locks/celery-locks/main/")
_OURS = re.compile(rf"(?:{'|'.join(map(re.escape, (DOCUMENTATION, *_FILES)))})[^\s)\"'<>`]*")
_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
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
        for link in markdown_links(path):
            target = urlsplit(link)
            if not target.scheme and target.path and not (root / unquote(target.path)).exists():
                yield f"{path.name}: {link} leads nowhere"


def markdown_links(path: Path) -> list[str]:
    """The targets of all links and images of a Markdown file."""
    found = _MARKDOWN_LINK.findall(_CODE.sub("", path.read_text(encoding="utf-8")))
    return [inline or defined for inline, defined in found]


def relative(page: Path) -> list[str]:
    """The links of a page that lead nowhere when it is read elsewhere, as the README is on a package index."""
    return [link for link in markdown_links(page) if not urlsplit(link).scheme and not link.startswith("#")]


def broken_addresses(root: Path) -> Iterator[str]:
    """The addresses of this project's documentation and files, in its texts, that stand for no file of it."""
    folders = (root / name for name in ("docs", "celery_locks", "example_project"))
    inside = (path for folder in folders for path in folder.rglob("*") if path.suffix in (".md", ".py", ".html"))
    for path in sorted([*root.glob("*.md"), *root.glob("*.toml"), *root.glob("*.yml"), *inside]):
        for link in dict.fromkeys(_OURS.findall(path.read_text(encoding="utf-8"))):
            if why := _wrong(root, link):
                yield f"{path.relative_to(root).as_posix()}: {link} {why}"


def _wrong(root: Path, link: str) -> str:
    """What is wrong with an address of this project; empty if nothing is."""
    address, _, fragment = link.partition("#")
    place = _source(root, address)
    if not place.exists():
        return "leads nowhere"
    if fragment and place.suffix == ".md" and unquote(fragment) not in anchors(place.read_text(encoding="utf-8")):
        return "has no such place on its page"
    return ""


def _source(root: Path, address: str) -> Path:
    """The file that an address stands for. A page of the site is served as a folder."""
    for files in _FILES:
        if address.startswith(files):
            return root / unquote(address.removeprefix(files))
    page = unquote(address.removeprefix(DOCUMENTATION))
    if page and not page.endswith("/"):
        return root / "docs" / page if "." in page else root / "docs" / page / "needs a slash at its end"
    alone = root / "docs" / f"{page.rstrip('/') or 'index'}.md"
    return alone if alone.exists() else root / "docs" / page / "index.md"


def anchors(page: str) -> set[str]:
    """The places of a Markdown page that can be linked to: its headings, as the site and GitHub name them."""
    texts = (
        re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading) for heading in _HEADING.findall(_BLOCK.sub("", page))
    )
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()) for text in texts}


def external(site: Path) -> list[str]:
    """All links to other sites."""
    pages = (Html(path.read_text(encoding="utf-8")) for path in site.rglob("*.html"))
    return sorted({link for page in pages for link in page.links if urlsplit(link).netloc})


def main(site: Path, *options: str) -> int:
    """Prints what is broken; returns the exit status."""
    found = [*broken(site), *broken_beside(ROOT), *broken_addresses(ROOT)]
    others = external(site)
    for line in [*found, *(others if "--external" in options else ())]:
        print(line)
    print(f"Links: {len(found)} broken, {len(others)} to other sites, which are not tried.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
