"""What every ``celery`` command loads, by the entry point ``celery.commands``: it puts the locks into Flower.

Flower has no plug-in hook; but the command that starts it loads the commands of all packages first. So this is a
command, which nobody needs to call and no help shows. All other commands it costs nothing but its import.
"""

from __future__ import annotations

import sys

import click

from celery_locks import _logging

logger = _logging.logger(__name__)


@click.command("locks-panel", hidden=True)
def command() -> None:
    """Says where the page of locks is."""
    click.echo("The page of locks is in Flower: start it with `celery -A proj flower`, and choose Locks.")


def install_if_possible() -> None:
    """Puts the locks into Flower where there is a Flower. Whatever goes wrong here stops no other command."""
    try:
        from celery_locks.flower import install

        install()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("flower", "tornado"):
            logger.warning("Flower has no page of locks: %s", error)
    except Exception:  # a Flower that is unlike those we know
        logger.warning("Flower has no page of locks", exc_info=True)


if "flower" in sys.argv:
    install_if_possible()
