"""Owner tokens: a number of the process that acquires, then what only the holder knows."""

from __future__ import annotations

import os
import re

#: How many hexadecimal digits of a token are the number of its process.
PROCESS_DIGITS = 12
#: A run that asks adds a mark; see `celery_locks._nesting`.
_TOKEN = re.compile(r"[0-9a-f]{32}(?:[0-9a-f]{16})?")

_process = os.urandom(PROCESS_DIGITS // 2).hex()


def process_number() -> str:
    """Return the number of this process: random, and another one after a fork."""
    return _process


def new_token() -> str:
    """Return a new owner token."""
    return _process + os.urandom(10).hex()  # as `secrets` does, which takes 4 ms to import


def process_of(token: str) -> str | None:
    """Return the number of the process that made a token, ``None`` for text that is no such token."""
    return token[:PROCESS_DIGITS] if _TOKEN.fullmatch(token) else None


def _in_forked_child() -> None:
    global _process
    _process = os.urandom(PROCESS_DIGITS // 2).hex()


os.register_at_fork(after_in_child=_in_forked_child)
