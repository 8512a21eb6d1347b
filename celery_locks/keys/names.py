"""The full names of locks in a store. Each stands for a key, or for a part of a key that is locked separately."""

from __future__ import annotations

import re

from celery_locks.errors import LockKeyError

#: The part that a task with the scope ``until_and_while_executing`` holds from the call until the run starts.
CALL = "call"
_PART = rf"{CALL}|run:[0-9a-f]{{32}}"
#: The name of a part. It can't be that of a key, which ends with a brace.
_NAME_OF_PART = rf"(?s:(.*))\}}:({_PART})"
#: The end of a cursor for a part. A key whose own text ends like this gets one more "}=" appended.
_CURSOR = rf"(?s:.*)\}}:(?:{_PART})((?:\}}=)*)"


def run_part(message: str) -> str:
    """Return the part that keeps a second copy of a message from running alongside the first.

    Args:
        message: A text that all copies of the message share, such as the task's id.
    """
    import hashlib  # for some scopes only

    return "run:" + hashlib.sha256(message.encode()).hexdigest()[:32]


def check_part(part: str) -> str:
    """Return the name of a part unchanged; an empty text stands for the key itself.

    Raises:
        LockKeyError: A key has no part of this name.
    """
    if part and not (isinstance(part, str) and re.fullmatch(_PART, part)):
        raise LockKeyError(f"part={part!r} is not a part of a key: give 'call', 'run:…' as in a list of keys, or ''")
    return part


def name_of(prefix: str, key: str, part: str = "") -> str:
    """Return the full name of a key, or of a part of it.

    The braces keep all records of a lock in one slot of a Redis Cluster.
    """
    # With a key that begins with "}", the braces would be empty, and Redis would ignore them. So "=}" precedes that
    # key, and also a key that begins with "=" itself, so that no two keys have one name. A suffix for a store's other
    # records (":line") can't make the name of another key, which ends with a brace.
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
    """Return the cursor of a list after a key, or a part of it: the key itself, unless that would be ambiguous."""
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
