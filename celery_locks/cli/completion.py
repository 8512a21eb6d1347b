"""What the shell is offered for a key."""

from __future__ import annotations

from typing import Any

import click
from celery.app.utils import find_app

from celery_locks import Locks

#: How many keys are offered at most.
MOST = 50


def keys(ctx: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """The keys that are held or waited for and begin so; none where the store can't be asked."""
    try:
        return [item.key for item in Locks.from_app(_app(ctx)).list(begun, count=MOST).items]
    except Exception:  # an error here would be printed over what the user types
        return []


def _app(ctx: click.Context) -> Any:
    """The app: completion runs none of the ``celery`` command's own code."""
    named = ctx.find_root().params.get("app")
    return find_app(named) if isinstance(named, str) else named
