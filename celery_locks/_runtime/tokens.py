"""Owner tokens: the number of the process that acquires, then random digits that only the holder knows."""

from __future__ import annotations

import os
import re

from celery_locks._runtime.process import PerProcess

#: How many hexadecimal digits of a token are the number of its process.
PROCESS_DIGITS = 12
#: A lock in the body of a run adds a mark; see `celery_locks._nesting`.
_TOKEN = re.compile(r"[0-9a-f]{32}(?:[0-9a-f]{16})?")


@PerProcess
def process_number() -> str:
    """Return the number of this process: random, and another one after a fork."""
    return os.urandom(PROCESS_DIGITS // 2).hex()


def new_token() -> str:
    """Return a new owner token."""
    return process_number() + os.urandom(10).hex()  # as `secrets` does, which takes 4 ms to import


def process_of(token: str) -> str | None:
    """Return the number of the process that made a token, ``None`` for a text that is not a token."""
    return token[:PROCESS_DIGITS] if _TOKEN.fullmatch(token) else None
