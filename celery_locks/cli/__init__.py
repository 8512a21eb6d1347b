"""``celery -A proj locks``: who holds what, who waits, and how to free it.

Every ``celery`` command imports this module, workers too: it loads nothing but click, which Celery has loaded already,
until a command of ours is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click
from click_didyoumean import DYMGroup

#: Set to anything, it has errors shown with their traceback.
TRACEBACK = "CELERY_LOCKS_TRACEBACK"
#: Each command, and the module that has it.
_COMMANDS = {
    "list": "list_keys",
    "show": "list_keys",
    "watch": "watch",
    "stats": "stats",
    "release": "release",
    "wait": "release",
    "sweep": "stats",
    "doctor": "doctor",
    "sql": "sql",
}


class Commands(DYMGroup):
    """Loads a command when it is asked for, and says its errors in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"celery_locks.cli.{_COMMANDS[name]}"), f"{name}_command")
        return command

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get(TRACEBACK):
            return super().invoke(ctx)
        return in_one_line(super().invoke, ctx)


def in_one_line(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function; what it raises becomes an error of one line, without secrets and without a traceback.

    Raises:
        click.ClickException: It raised.
    """
    from celery_locks._addresses import mask_text
    from celery_locks._logging import one_line
    from celery_locks.errors import LockError

    try:
        return function(*args)
    except click.UsageError as error:  # it quotes what was typed
        raise click.UsageError(one_line(mask_text(error.format_message())), error.ctx) from None
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except LockError as error:
        said = str(error)
    except Exception as error:
        said = f"{type(error).__name__}: {error} (set {TRACEBACK}=1 to see where)"
    raise click.ClickException(one_line(mask_text(" ".join(said.split()))))


@click.group(cls=Commands, short_help="Who holds what, who waits, and how to free it.")
def locks() -> None:
    """Who holds what, who waits, and how to free it.

    The store is that of the app: its setting locks_url, else the variable CELERY_LOCKS_URL, else its result backend or
    broker, if they are Redis.

    \b
    Example:
      celery -A proj locks list
    """
