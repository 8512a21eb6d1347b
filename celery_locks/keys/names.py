"""The full names of locks in a store: each stands for a key, or for a part of one that is locked apart from it."""

from __future__ import annotations

import re

from celery_locks.errors import LockKeyError

#: The part that ``until_and_while_executing`` holds from the call until the run starts.
CALL = "call"
_PART = rf"{CALL}|run:[0-9a-f]{{32}}"
#: How the name of a part ends. No name of a key does, since each ends with a brace.
_NAME_OF_PART = rf"(?s:(.*))\}}:({_PART})"
#: The end of a cursor for a part. A key whose own text ends like this gets one more "}=" appended.
_CURSOR = rf"(?s:.*)\}}:(?:{_PART})((?:\}}=)*)"


def run_part(message: str) -> str:
    """Return the part that keeps a second copy of a message from running alongside the first.

    Args:
        message: What all copies of the message share, such as the task's id.
    """
    import hashlib  # for some scopes only

    return "run:" + hashlib.sha256(message.encode()).hexdigest()[:32]


def check_part(part: str) -> str:
    """Return a part of a key as it is; an empty text for the key itself.

    Raises:
        LockKeyError: There is no such part.
    """
    if part and not (isinstance(part, str) and re.fullmatch(_PART, part)):
        raise LockKeyError(f"part={part!r} is no part of a key: give 'call', 'run:…' as a list shows it, or ''")
    return part


def name_of(prefix: str, key: str, part: str = "") -> str:
    """Return the full name of a key, or of a part of it.

    The braces keep all records of a lock in one slot of a Redis Cluster.
    """
    # A key that begins with "}" would leave the braces empty, and an empty pair of braces counts for nothing. With
    # "=" before it, and before one that begins so itself, no two keys have one name. What a store adds for its
    # other records (":line") can't make the name of another key, since every name ends with a brace.
    name = f"{prefix}:{{{key}}}" if key[0] not in "}=" else f"{prefix}:{{=}}{key}}}"
    return f"{name}:{part}" if part else name


def described(key: str, part: str) -> str:
    """Return a key with its part, on one line, for a log or an error."""
    return repr(key) + (f" (part {part})" if part else "")


def part_of(name: str) -> str:
    """Return the part of a key that a full name stands for; an empty text for the key itself."""
    return "" if name.endswith("}") else name.rpartition("}:")[2]


def key_and_part(name: str) -> tuple[str, str]:
    """Return the key that a full name stands for, and which part of it; the inverse of `name_of`."""
    prefix = name.partition("{")[0]  # a prefix has no braces
    found = None if name.endswith("}") else re.fullmatch(_NAME_OF_PART, name)
    whole, part = (f"{found[1]}}}", found[2]) if found else (name, "")
    return whole[len(prefix) + 1 : -1].removeprefix("=}"), part


def cursor_of(key: str, part: str) -> str:
    """Return the text by which a list goes on after a key, or a part of it: the key, unless that would be ambiguous."""
    if part:
        return f"{key}}}:{part}"
    return f"{key}}}=" if re.fullmatch(_CURSOR, key) else key


def name_after(prefix: str, cursor: str) -> str:
    """Return the full name that a cursor stands for; the inverse of `cursor_of`."""
    found = re.fullmatch(_CURSOR, cursor)
    if found is None:
        return name_of(prefix, cursor)
    if found[1]:
        return name_of(prefix, cursor.removesuffix("}="))
    key, _, part = cursor.rpartition("}:")
    return name_of(prefix, key, part)
