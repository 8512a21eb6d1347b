"""The arguments and options that several commands have, and the locks that they select."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from celery_locks import LockConfigError, Locks
from celery_locks._durations import seconds_of
from celery_locks._validation import DEFAULT_STORE
from celery_locks.cli.completion import ESCAPED, KeyArgument, complete_store
from celery_locks.cli.escapes import unescaped
from celery_locks.locks import store_names

F = TypeVar("F", bound=Callable[..., Any])


# --- Keys ---


def escaped_option(command: F) -> F:
    """Add the option ``--escaped``, which reads keys as the commands print them."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        ctx.meta[ESCAPED] = value

    return click.option(
        "--escaped",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=remember,
        help=r"Read keys as they are printed: \n, \x1b and \u202e for unprintable characters, \\ for a backslash.",
    )(command)


def read_escapes(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return a key, or the beginning of one, after the escapes in it were read if ``--escaped`` was given.

    Raises:
        click.BadParameter: An escape is wrong.
    """
    if value is None or not ctx.meta.get(ESCAPED):
        return value
    try:
        return unescaped(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from None


def key_argument(required: bool = True) -> Callable[[F], F]:
    """Add the argument KEY, and the option ``--escaped``."""
    argument = click.argument("key", cls=KeyArgument, callback=read_escapes, required=required)
    return lambda command: argument(escaped_option(command))


#: For commands on one key.
part_option = click.option("--part", default="", help="A part of the key, as `list` prints it, such as call.")


# --- Durations ---


class Seconds(click.FloatRange):
    """A duration: a number of seconds, or a text such as ``5m``. It is returned in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds.

        Raises:
            click.BadParameter: The value is not a duration, or is too short.
        """
        try:
            seconds = float(value)
        except ValueError:  # a text with units
            try:
                seconds = seconds_of(self.name, value)
            except LockConfigError:
                seconds = math.nan
        if not math.isfinite(seconds):
            self.fail(
                f"{value} is not a duration: give a number of seconds, or a text such as 30s, 5m or 1h30m", param, ctx
            )
        return float(super().convert(seconds, param, ctx))


# --- Stores ---


def store_option(default: str) -> Callable[[F], F]:
    """Add the option ``--store``.

    Args:
        default: The stores that the command uses without the option, for the help.
    """
    text = f"The name of a store in the setting locks_stores; by default {default}."
    return click.option("--store", metavar="NAME", shell_complete=complete_store, help=text)


def locks_of(ctx: click.Context, store: str | None = None) -> Locks:
    """Return the locks of the app of ``celery -A`` in one store, by default in the default store.

    Raises:
        LockConfigError: The settings name no store like this.
    """
    return Locks.from_app(ctx.obj.app, store or DEFAULT_STORE)


def stores_of(ctx: click.Context, store: str | None) -> dict[str, Locks]:
    """Return the locks of the app in one store, or in each of its stores, by the store's name.

    Raises:
        LockConfigError: The settings name no store like this.
    """
    names = store_names(ctx.obj.app.conf) if store is None else (store,)
    return {name: locks_of(ctx, name) for name in names}


def listing_stores_of(ctx: click.Context, store: str | None) -> dict[str, Locks]:
    """Return the stores of `stores_of` that keep a list of keys, and print the names of the others.

    Raises:
        LockConfigError: The settings name no store like this.
    """
    stores = stores_of(ctx, store)
    listing = {name: locks for name, locks in stores.items() if locks.store.lists}
    if not listing:
        return stores  # the command's first read raises the error
    for name in stores.keys() - listing.keys():
        click.echo(f"The store {name} is left out: it keeps no list of keys.", err=True)
    return listing
