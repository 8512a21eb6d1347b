"""Commands in Redis' protocol. redis-py takes longer to pack a command than the server to execute it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: A command in the protocol.
Command = bytes


def packed(command: Sequence[Any]) -> Command:
    """Return a command, given its name and arguments, which are texts or numbers."""
    return f"*{len(command)}\r\n{arguments(*command)}".encode()


def repeated(command: Command) -> Command:
    """Return a command with one more argument, ``repeat``: the script may have run before."""
    count, end, rest = command.partition(b"\r\n")
    return b"*%d%s%s$6%srepeat%s" % (int(count[1:]) + 1, end, rest, end, end)


def arguments(*values: Any) -> str:
    """Return packed arguments as text, to be encoded as UTF-8."""
    texts = [value if type(value) is str else str(value) for value in values]
    try:
        parts = "".join([f"{LENGTHS[len(text)]}{text}\r\n" for text in texts])
    except IndexError:
        parts = "".join([f"${len(text)}\r\n{text}\r\n" for text in texts])
    if not parts.isascii():  # lengths are in bytes
        parts = "".join([f"${len(text.encode())}\r\n{text}\r\n" for text in texts])
    return parts


def text_arguments(texts: Sequence[str]) -> str:
    """Return `arguments` of many texts, in less time if all have the same length."""
    lengths = set(map(len, texts))
    start = f"${max(lengths)}\r\n"
    same = f"{start}{f'{_END}{start}'.join(texts)}{_END}"
    return same if len(lengths) == 1 and same.isascii() else arguments(*texts)


_END = "\r\n"
#: The beginnings of the usual arguments: formatting a number takes longer than the rest.
LENGTHS = [f"${length}\r\n" for length in range(128)]


def text_argument(text: str) -> str:
    """Return `arguments` of one text, in a fifth of the time."""
    return f"{LENGTHS[len(text)]}{text}\r\n" if len(text) < 128 and text.isascii() else arguments(text)
