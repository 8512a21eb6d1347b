"""The entry point ``celery.commands``, by which every ``celery`` command imports this module.

Flower has no interface for plug-ins. But the command that starts it imports the commands of all packages first. So this
module defines a command, hidden from the help, and installs the pages if Flower is about to start. Other commands pay
only for the import.
"""

from __future__ import annotations

import sys

import click


@click.command("locks-panel", hidden=True)
def command() -> None:
    """Print where the page of locks is."""
    click.echo("The page of locks is in Flower: start it with `celery -A proj flower`, and choose Locks.")


def install_if_possible() -> None:
    """Add the locks to Flower, if Flower is installed. An error here must not stop a command."""
    from celery_locks._logging import logger

    log = logger(__name__)
    try:
        from celery_locks.flower import install

        install()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("flower", "tornado"):
            log.warning("Flower has no page of locks: %s", error)
    except Exception:  # an unknown version of Flower
        log.warning("Flower has no page of locks", exc_info=True)


if "flower" in sys.argv:
    install_if_possible()
