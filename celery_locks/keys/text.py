"""The text of a key, within the limits of every store."""

from __future__ import annotations

import re

from celery_locks.errors import LockKeyError

#: In UTF-8. A longer key would not fit into a store's index, and would not be readable.
MAX_BYTES = 200

_HASH_BYTES = 16
_READABLE_BYTES = MAX_BYTES - 2 * _HASH_BYTES - 1
#: The end of a hashed key.
LOOKS_HASHED = re.compile(rf"~[0-9a-f]{{{2 * _HASH_BYTES}}}\Z")


def check_key(key: str) -> str:
    """Return a key that every store can hold: the key itself, or the start and a hash of a long key.

    A key that this function has returned is returned unchanged.

    Raises:
        LockKeyError: The key is not a text, is empty, or has a lone surrogate.
    """
    if type(key) is str and key.isascii() and 0 < len(key) <= MAX_BYTES:
        return key
    if not isinstance(key, str):
        raise LockKeyError(f"A key must be a str, not {_class_name(key)}.")
    if not key:
        raise LockKeyError("A key must not be empty.", key="")
    try:
        encoded = str.encode(key)
    except UnicodeEncodeError as error:
        raise LockKeyError(f"A key must not have a lone surrogate (at position {error.start}).") from None
    return str.__str__(key) if len(encoded) <= MAX_BYTES else hashed(encoded)


def hashed(encoded: bytes) -> str:
    """Return the start of a long key, and a hash of it."""
    import hashlib  # for long keys only

    start = encoded[:_READABLE_BYTES].decode("utf-8", "ignore")
    return f"{start}~{hashlib.blake2b(encoded, digest_size=_HASH_BYTES).hexdigest()}"


def _class_name(value: object) -> str:
    from celery_locks.keys.canonical import class_name  # for an error only

    return class_name(type(value))
