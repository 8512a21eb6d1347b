"""The values that are kept with keys, as JSON."""

from __future__ import annotations

import json
from typing import Any

from celery_locks.errors import LockConfigError
from celery_locks.stores.base import Store

#: How many seconds a value is kept by default.
KEEP_SECONDS = 30 * 24 * 3600.0


def read(store: Store, name: str) -> Any:
    """Return the value that is kept with a lock, ``None`` for none."""
    text = store.value(name)
    return None if text is None else json.loads(text)


def to_text(value: Any, key: str) -> str:
    """Return a value as JSON.

    Raises:
        LockConfigError: JSON can't express the value.
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise LockConfigError(f"the value kept with {key!r} must be JSON: {error}", key) from error
