"""The command ``make shop``: a worker, beat and the web page, with a temporary server or temporary files."""

from __future__ import annotations

import socket
import sys

import click

from example_project.demo import interrupt
from example_project.demo.embedded import open_on, prepare
from example_project.demo.processes import DemoError, Stage

#: How long the processes may take to start.
START_SECONDS = 60.0
CELERY = ("-m", "celery", "-A", "example_project.shop.app")
WORKER = (*CELERY, "worker", "--concurrency", "4", "--loglevel", "INFO")
BEAT = (*CELERY, "beat")
WEB = ("-m", "flask", "--app", "example_project.shop.web", "run", "--port")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--embedded", type=click.Choice(["auto", "valkey", "sqlite"]), default="auto", show_default=True)
@click.option(
    "--port", type=int, default=8000, show_default=True, help="The port of the web page; 0 for any free port."
)
def main(embedded: str, port: int) -> None:
    """Run the shop: a web page from which to call its tasks, a worker that runs them, and beat."""
    interrupt.install()
    try:
        with Stage() as stage:
            _open(stage, embedded, port or _free_port())
    except interrupt.Interrupted as signal:
        click.echo(f"\nEnded by {signal}. All processes and files of the shop are gone.", err=True)
        sys.exit(signal.exit_status)
    except DemoError as error:
        raise click.ClickException(str(error)) from None


def _open(stage: Stage, embedded: str, port: int) -> None:
    backend = prepare(embedded, stage, click.echo)
    open_on(backend, stage)
    worker = stage.start_python("worker", *WORKER)
    stage.start_python("beat", *BEAT, "--schedule", str(stage.folder / "beat-schedule"))
    web = stage.start_python("web", *WEB, str(port))
    web.wait_for("Running on", START_SECONDS)
    worker.wait_for(" ready.", START_SECONDS)
    click.echo(f"The shop runs on {backend.name}: http://127.0.0.1:{port} (Ctrl-C ends it)")
    while True:
        stage.check()
        interrupt.pause(1.0)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
