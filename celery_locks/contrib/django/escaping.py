"""Escaping and folding of keys, owners, addresses and errors for the admin's pages.

Such a text may have any character and any length. On a page it stays on its line and within the window, no character of
it is invisible, and no two texts look alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from unicodedata import combining, is_normalized

from django.utils.html import escape as escape_html
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

#: How many characters a page shows before it folds the rest.
SHOWN = 300
#: How many characters a cell of a table shows, a message, or a breadcrumb.
SHOWN_IN_A_CELL = 100
#: How many characters the hint of a text that is cut shows: browsers cut longer ones themselves.
_SHOWN_AS_HINT = 1_000
#: The longest run of characters that a browser need not break, and where it may break longer ones.
_UNBROKEN, _BREAK_EVERY = 20, 10


def escape_text(text: str, most: int = SHOWN) -> str:
    r"""Return a text in printable characters: others as ``\n``, ``\x00`` or ``\u202e``, and a backslash as ``\\``.

    Args:
        text: Any text.
        most: How many characters of it; an ellipsis stands for the rest.
    """
    return "".join(piece for piece, _ in _pieces(text[:most])) + ("…" if len(text) > most else "")


def html(text: str) -> SafeString:
    """Return a text like `escape_text`, for a page: escapes are set as code, and its direction is its own."""
    return format_html("<bdi>{}</bdi>", _marked(text))


def cut(text: str, most: int = SHOWN_IN_A_CELL) -> SafeString:
    """Return the start of a text for a page; its hint has more."""
    if len(text) <= most:
        return html(text)
    return format_html('<bdi title="{}">{}…</bdi>', escape_text(text, _SHOWN_AS_HINT), _marked(text[:most]))


def folded(text: str, most: int = SHOWN) -> SafeString:
    """Return the whole of a text for a page, which shows the start of a long one and unfolds the rest."""
    if len(text) <= most:
        return html(text)
    return format_html(
        "<details><summary><bdi>{}…</bdi> ({} more characters)</summary><bdi>{}</bdi></details>",
        _marked(text[:most]),
        len(text) - most,
        _marked(text[most:]),
    )


def _marked(text: str) -> SafeString:
    """Return a text as HTML, with ``<wbr>`` where a browser may break a long run of characters.

    Unlike a rule of a style sheet, that works in every theme of the admin, and where a policy forbids styles.
    """
    made: list[str] = []
    for is_space, group in groupby(_pieces(text), (" ", False).__eq__):
        run = list(group)
        long = not is_space and sum(len(piece) for piece, _ in run) > _UNBROKEN
        width = 0
        for piece, escape in run:
            if long and width >= _BREAK_EVERY and not combining(piece[0]):
                made.append("<wbr>")
                width = 0
            made.append(f"<code>{piece}</code>" if escape else escape_html(piece))
            width += len(piece)
    return mark_safe("".join(made))  # each piece is escaped HTML, or letters, digits and backslashes


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each character as it is shown, and whether that is an escape."""
    normal = is_normalized("NFC", text)
    for at, letter in enumerate(text):
        # Where HTML shows no space, and where two spellings of one letter look the same.
        lost = letter == " " and (at in (0, len(text) - 1) or text[at - 1] == " ")
        alike = not normal and (combining(letter) or not is_normalized("NFC", letter))
        if lost:
            yield r"\x20", True
        elif alike or letter == "\\" or not letter.isprintable():
            yield ascii(letter)[1:-1], True
        else:
            yield letter, False
