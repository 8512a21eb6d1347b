r"""Escapes for keys and names on a terminal: ``a\nb`` for a line break, ``a\\b`` for a backslash."""

from __future__ import annotations

import re

from celery_locks._logging import one_line

#: An escape that `printable` writes, or, in the group, the character after any other backslash.
_ESCAPE = re.compile(r"\\(?:[\\nrt]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|(.?))", re.DOTALL)


def printable(text: str) -> str:
    """Return a key or a name without characters that control a terminal. Different texts have different results."""
    return one_line(text.replace("\\", "\\\\"))


def unescaped(text: str) -> str:
    r"""Return the text of which `printable` returns this one.

    Raises:
        ValueError: A backslash begins no escape that `printable` writes.
    """

    def letter(found: re.Match[str]) -> str:
        if found[1] is not None:
            raise ValueError(
                f"{found[0]} is not an escape: write \\\\ for a backslash, or \\n, \\r, \\t, \\x1b, \\u202e"
            )
        return found[0].encode().decode("unicode_escape")

    return _ESCAPE.sub(letter, text)
