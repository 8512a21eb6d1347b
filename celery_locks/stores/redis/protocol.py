"""Commands in Redis' protocol. redis-py takes longer to pack one than the server to answer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: A command as the server gets it.
Command = bytes


def packed(command: Sequence[Any]) -> Command:
    """A command out of its name and arguments, which are texts and numbers."""
    return f"*{len(command)}\r\n{arguments(*command)}".encode()


def arguments(*values: Any) -> str:
    """A part of a command, to be encoded as UTF-8."""
    texts = [value if type(value) is str else str(value) for value in values]
    try:
        parts = "".join([f"{_LENGTHS[len(text)]}{text}\r\n" for text in texts])
    except IndexError:
        parts = "".join([f"${len(text)}\r\n{text}\r\n" for text in texts])
    if not parts.isascii():  # lengths are in bytes
        parts = "".join([f"${len(text.encode())}\r\n{text}\r\n" for text in texts])
    return parts


#: How the usual arguments begin: to write a number takes longer than all the rest.
_LENGTHS = [f"${length}\r\n" for length in range(128)]


def text_argument(text: str) -> str:
    """`arguments` of one text, in a fifth of the time."""
    return f"{_LENGTHS[len(text)]}{text}\r\n" if len(text) < 128 and text.isascii() else arguments(text)
