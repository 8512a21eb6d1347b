"""Escaping and folding of keys, owners, addresses and errors for the admin's pages.

These texts may have any character and any length. On a page they stay on their line and within the window, every
character is visible, and no two texts look alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from unicodedata import combining, is_normalized

from django.utils.html import escape as escape_html
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

#: How many characters a page shows before it folds the rest.
MOST_CHARACTERS = 300
#: How many characters a cell of a table shows, a message, or a breadcrumb.
MOST_CELL_CHARACTERS = 100
#: How many characters the tooltip of a cut text shows. Browsers cut longer ones themselves.
_MOST_TOOLTIP_CHARACTERS = 1_000
#: The longest word that a browser need not break, and the distance between the breaks in longer words.
_UNBROKEN_CHARACTERS, _BREAK_EVERY = 20, 10


def escape_text(text: str, most: int = MOST_CHARACTERS) -> str:
    r"""Return a text with escapes for unprintable characters, such as ``\n`` and ``\u202e``, and for backslashes.

    Args:
        text: Any text.
        most: How many characters of it. An ellipsis stands for the rest.
    """
    return "".join(piece for piece, _ in _pieces(text[:most])) + ("…" if len(text) > most else "")


def html(text: str) -> SafeString:
    """Return a text like `escape_text`, as HTML. Escapes are set as code, and it keeps a text direction of its own."""
    return format_html("<bdi>{}</bdi>", _marked(text))


def cut(text: str, most: int = MOST_CELL_CHARACTERS) -> SafeString:
    """Return the beginning of a text as HTML, with a tooltip that shows more."""
    if len(text) <= most:
        return html(text)
    return format_html('<bdi title="{}">{}…</bdi>', escape_text(text, _MOST_TOOLTIP_CHARACTERS), _marked(text[:most]))


def folded(text: str, most: int = MOST_CHARACTERS) -> SafeString:
    """Return a text as HTML. The page shows the beginning of a long text, and unfolds the rest."""
    if len(text) <= most:
        return html(text)
    return format_html(
        "<details><summary><bdi>{}…</bdi> ({} more characters)</summary><bdi>{}</bdi></details>",
        _marked(text[:most]),
        len(text) - most,
        _marked(text[most:]),
    )


def _marked(text: str) -> SafeString:
    """Return a text as HTML, with ``<wbr>`` where a browser may break a long word.

    Unlike a style sheet, this works in every theme of the admin, and if a policy forbids styles.
    """
    made: list[str] = []
    for is_space, group in groupby(_pieces(text), (" ", False).__eq__):
        run = list(group)
        long = not is_space and sum(len(piece) for piece, _ in run) > _UNBROKEN_CHARACTERS
        width = 0
        for piece, escape in run:
            if long and width >= _BREAK_EVERY and not combining(piece[0]):
                made.append("<wbr>")
                width = 0
            made.append(f"<code>{piece}</code>" if escape else escape_html(piece))
            width += len(piece)
    return mark_safe("".join(made))  # each piece is escaped HTML, or letters, digits and backslashes


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each character as the page shows it, and whether that is an escape."""
    is_normal = is_normalized("NFC", text)
    for at, letter in enumerate(text):
        # HTML drops some spaces, and two spellings of one letter may look the same.
        is_dropped = letter == " " and (at in (0, len(text) - 1) or text[at - 1] == " ")
        is_ambiguous = not is_normal and (combining(letter) or not is_normalized("NFC", letter))
        if is_dropped:
            yield r"\x20", True
        elif is_ambiguous or letter == "\\" or not letter.isprintable():
            yield ascii(letter)[1:-1], True
        else:
            yield letter, False
