"""The command line of the demo."""

from __future__ import annotations

import sys

import click

from example_project.demo import interrupt
from example_project.demo.processes import DemoError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--embedded",
    type=click.Choice(["auto", "valkey", "sqlite"]),
    default="auto",
    show_default=True,
    help="What the shop runs on: a Valkey server of the demo's own, or files alone. auto: the first that can be had.",
)
@click.option("--tasks", type=click.IntRange(20, 5000), default=200, show_default=True, help="How many tasks are sent.")
@click.option("--workers", type=click.IntRange(1, 16), default=2, show_default=True, help="How many Celery workers.")
@click.option("--concurrency", type=click.IntRange(1, 32), default=4, show_default=True, help="Processes of each.")
@click.option("--kill/--no-kill", default=True, help="Kill a worker in mid-run.  [default: kill]")
@click.option("--locks/--no-locks", default=True, help="Without locks the promises break.  [default: locks]")
@click.option("--plain", is_flag=True, help="Lines of text instead of the live table, as without a terminal.")
@click.option("--seed", type=int, default=7, show_default=True, help="Which tasks are sent.")
def main(
    embedded: str, tasks: int, workers: int, concurrency: int, kill: bool, locks: bool, plain: bool, seed: int
) -> None:
    """Runs a shop with Celery workers, kills one while it holds locks, and checks that every promise was kept.

    Ends with 0 when all were kept, and with 1 when one was broken.
    """
    interrupt.install()
    try:
        from example_project.demo.performance import Settings, perform
    except ImportError as error:
        raise click.ClickException(f"{error}. The demo needs more than the library: pip install -e '.[demo]'") from None
    try:
        settings = Settings(embedded, tasks, workers, concurrency, kill and locks, locks, plain, seed)
        sys.exit(0 if perform(settings) else 1)
    except interrupt.Interrupted as signal:
        click.echo(f"Ended by {signal}. All processes and files of the demo are gone.", err=True)
        sys.exit(signal.exit_status)
    except DemoError as error:
        raise click.ClickException(str(error)) from None
