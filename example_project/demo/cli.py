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
    help="What the shop runs on: a Valkey server that the demo starts, or files only. auto: Valkey if it is installed.",
)
@click.option("--tasks", type=click.IntRange(20, 5000), default=200, show_default=True, help="How many tasks to send.")
@click.option("--workers", type=click.IntRange(1, 16), default=2, show_default=True, help="How many workers to start.")
@click.option("--concurrency", type=click.IntRange(1, 32), default=4, show_default=True, help="Processes per worker.")
@click.option("--kill/--no-kill", default=True, help="Kill a worker while it runs tasks.  [default: kill]")
@click.option("--locks/--no-locks", default=True, help="Run without locks to see the promises break.  [default: locks]")
@click.option("--plain", is_flag=True, help="Print lines instead of the live table.")
@click.option("--seed", type=int, default=7, show_default=True, help="Selects which tasks are sent.")
def main(
    embedded: str, tasks: int, workers: int, concurrency: int, kill: bool, locks: bool, plain: bool, seed: int
) -> None:
    """Run a shop with Celery workers, kill one while it holds locks, and check that every promise was kept.

    The exit status is 0 if every promise was kept, and 1 if one was broken.
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
