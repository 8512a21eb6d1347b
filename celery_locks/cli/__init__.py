"""``celery -A proj locks``: who holds which keys, who waits for them, and how to release them.

Every ``celery`` command imports this module, also in workers. So it imports only click, which Celery has loaded
already. Each command is imported when it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click
from click_didyoumean import DYMGroup

#: If this variable is set, errors are printed with their traceback.
TRACEBACK = "CELERY_LOCKS_TRACEBACK"
#: The commands, in the order of the help. Each has a module of its own.
_COMMANDS = ("list", "show", "watch", "stats", "release", "wait", "sweep", "doctor", "sql")


class Commands(DYMGroup):
    """Imports a command when it is used, and prints each error as one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"celery_locks.cli.{name}_command").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        if os.environ.get(TRACEBACK):
            return super().invoke(ctx)
        return with_short_errors(super().invoke, ctx)


def with_short_errors(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function, and raise any error as one line without passwords and without a traceback.

    Raises:
        click.ClickException: The function raised an error.
    """
    from celery_locks._addresses import mask_text
    from celery_locks._logging import one_line
    from celery_locks.errors import LockError

    try:
        return function(*args)
    except click.UsageError as error:  # it quotes the command line
        raise click.UsageError(one_line(mask_text(error.format_message())), error.ctx) from None
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise
    except LockError as error:
        text = str(error)
    except Exception as error:
        text = f"{type(error).__name__}: {error} (set {TRACEBACK}=1 to print the traceback)"
    raise click.ClickException(one_line(mask_text(" ".join(text.split()))))


@click.group(cls=Commands, short_help="Show, watch and release locks.")
def locks() -> None:
    """Show who holds which keys and who waits for them, and release keys by hand.

    The commands use the lock store of the app: its setting locks_url, or the variable CELERY_LOCKS_URL. Without these
    they use its result backend or broker, if that is Redis.

    \b
    Example:
      celery -A proj locks list
    """
