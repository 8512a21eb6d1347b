"""What stands between the fences of a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_OPENING = r"^```(?P<language>[\w+-]*)(?P<attributes>[^\n`]*)\n"
_FENCE = re.compile(_OPENING + r"(?P<text>.*?)^```[ ]*$", re.DOTALL | re.MULTILINE)
_TITLE = re.compile(r'title="([^"]*)"')


@dataclass(frozen=True)
class Fence:
    """A block of code.

    Attributes:
        language: What stands behind the backticks, say ``python``.
        title: That of ``title="…"``, which mkdocs-material shows above the block; empty without one.
        text: What is between the fences, with its last newline.
        line: The number of the line with the opening backticks, from 1.
    """

    language: str
    title: str
    text: str
    line: int


def fences(page: str) -> Iterator[Fence]:
    """The blocks of a page in their order. Blocks that are indented, as in a list, are none."""
    for match in _FENCE.finditer(page):
        title = _TITLE.search(match["attributes"])
        yield Fence(match["language"], title[1] if title else "", match["text"], page.count("\n", 0, match.start()) + 1)


def code(page: str, language: str) -> list[str]:
    """The blocks of a language that have no title: those with one are files."""
    return [fence.text for fence in fences(page) if fence.language == language and not fence.title]
