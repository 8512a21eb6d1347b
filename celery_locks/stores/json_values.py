"""Values that are kept with a key: JSON, read and written."""

from __future__ import annotations

import json
from typing import Any

from celery_locks.errors import LockConfigError
from celery_locks.stores.base import Store

#: For how many seconds a value is kept, where nothing else is said: 30 days.
KEPT = 30 * 24 * 3600.0


def read(store: Store, name: str) -> Any:
    """The value kept with a lock, ``None`` for none."""
    text = store.value(name)
    return None if text is None else json.loads(text)


def to_text(value: Any, key: str) -> str:
    """A value as JSON.

    Raises:
        LockConfigError: JSON has no such value.
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise LockConfigError(f"the value kept with {key!r} must be JSON: {error}", key) from error
