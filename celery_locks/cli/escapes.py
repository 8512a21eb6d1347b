r"""Keys and names as a terminal may show them, and back: ``a\nb`` for a line break, ``a\\b`` for a backslash."""

from __future__ import annotations

import re

from celery_locks._logging import one_line

#: What `printable` writes, and a backslash with anything else after it.
_ESCAPE = re.compile(r"\\(?:[\\nrt]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|(.?))", re.DOTALL)


def printable(text: str) -> str:
    """Return a key or a name without what a terminal takes for commands. No two texts give the same."""
    return one_line(text.replace("\\", "\\\\"))


def unescaped(text: str) -> str:
    r"""Return the text that `printable` shows so.

    Raises:
        ValueError: A backslash begins nothing that `printable` writes.
    """

    def letter(found: re.Match[str]) -> str:
        if found[1] is not None:
            raise ValueError(f"{found[0]} is no escape: write \\\\ for a backslash, or \\n, \\r, \\t, \\x1b, \\u202e")
        return found[0].encode().decode("unicode_escape")

    return _ESCAPE.sub(letter, text)
