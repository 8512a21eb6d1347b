"""What stands between the fences of a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_OPENING = r"^```(?P<language>[\w+-]*)(?P<attributes>[^\n`]*)\n"
_FENCE = re.compile(_OPENING + r"(?P<text>.*?)^```[ ]*$", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r'title="([^"]*)"')
#: The end of the paragraph above a block, where a title could not be seen: GitHub and package indexes show none.
_FILE_ABOVE = re.compile(r"`(?P<name>[\w./-]+\.\w+)`(?P<continued>, continued)?:$")
_TERMINAL_ABOVE = re.compile(r"\b(?P<which>second|third|fourth) terminal\b[^.]*:$")
_TERMINALS = {"second": "Terminal 2", "third": "Terminal 3", "fourth": "Terminal 4"}
#: Stands in the page's source alone, directly above a block.
_NOT_RUN = re.compile(r"<!-- not run: (?P<why>[^>]+) -->$")


@dataclass(frozen=True)
class Fence:
    """A block of code.

    Attributes:
        language: What stands behind the backticks, say ``python``.
        title: The file that it is, or the terminal that it is typed in: from ``title="…"``, which mkdocs-material shows
            above the block, or from the end of the paragraph above it: a file's "`tasks.py`:", or "a second terminal:".
            Empty without one.
        text: What is between the fences, with its last newline.
        line: The number of the line with the opening backticks, from 1.
        continued: Whether it goes below what the file holds already: "`tasks.py`, continued:".
        not_run: Why it is an illustration, from ``<!-- not run: why -->`` above it; empty if it is none.
    """

    language: str
    title: str
    text: str
    line: int
    continued: bool = False
    not_run: str = ""


def fences(page: str) -> Iterator[Fence]:
    """The blocks of a page in their order. Blocks that are indented, as in a list, are none."""
    end = 0
    for match in _FENCE.finditer(page):
        above = _paragraph(page[end : match.start()])
        end = match.end()
        title, file = _TITLE.search(match["attributes"]), _FILE_ABOVE.search(above)
        not_run = _NOT_RUN.search(above)
        yield Fence(
            match["language"],
            title[1] if title else _title_above(match["language"], above),
            match["text"],
            page.count("\n", 0, match.start()) + 1,
            bool(file and file["continued"]),
            not_run["why"] if not_run else "",
        )


def _paragraph(text: str) -> str:
    """The last paragraph of a text, on one line."""
    return " ".join(re.split(r"\n[ \t]*\n", text.strip())[-1].split())


def _title_above(language: str, above: str) -> str:
    if language == "console":
        terminal = _TERMINAL_ABOVE.search(above)
        return _TERMINALS[terminal["which"]] if terminal else ""
    file = _FILE_ABOVE.search(above)
    return file["name"] if file else ""
