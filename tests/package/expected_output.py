"""What a page shows of a program's output, held against what it printed."""

from __future__ import annotations

import re

_BLANKS = r"[ \t]+"
#: What may be another one of its kind, the first that fits: on the page → in the output.
_KINDS = (
    (r"\.\.\.|…", ".*"),
    (r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    (r"\d{4}-\d\d-\d\d", r"\d{4}-\d\d-\d\d"),
    (r"\d\d?:\d\d(?::\d\d)?(?:[.,]\d+)?", r"\d\d?:\d\d(?::\d\d)?(?:[.,]\d+)?"),
    (r"\d+\.\d+", r"\d+\.\d+"),
    (r"\d{4,}", r"\d+"),
    (r"[─━]{2,}|-{4,}", "[─━-]+"),  # the rules of a table are as long as its columns are wide
    (r"[ \t]{2,}", _BLANKS),
)
_ANY_KIND = re.compile("|".join(f"({shown})" for shown, _ in _KINDS))


def line_pattern(line: str) -> str:
    """The regular expression for a line that the page shows."""
    pattern, end = "", 0
    for match in _ANY_KIND.finditer(line):
        pattern += re.escape(line[end : match.start()]) + _KINDS[match.lastindex - 1][1]  # type: ignore[operator]
        end = match.end()
    return pattern + re.escape(line[end:])


def is_all_of(shown: list[str], printed: str) -> bool:
    """Whether a command that has ended printed what is shown, and nothing else."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() in ("...", "…") else rf"{line_pattern(line.rstrip())}[ \t]*\n" for line in shown
    )
    return re.fullmatch(rf"(?:[ \t]*\n)*{pattern}(?:[ \t]*\n)*", printed + "\n") is not None


def up_to(shown: list[str], printed: str) -> str | None:
    """The beginning of what was printed that has all the shown lines in their order, among others.

    ``None`` when they are not all there yet.
    """
    place = 0
    for line in filter(None, map(str.strip, shown)):
        found = re.compile(rf"^[ \t]*{line_pattern(line)}[ \t]*\r?\n", re.MULTILINE).search(printed, place)
        if found is None:
            return None
        place = found.end()
    return printed[:place]
