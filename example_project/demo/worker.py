"""A worker of the demo: ``python -m example_project.demo.worker worker1@shop --concurrency 4``.

The same worker as that of ``celery -A example_project.shop.app worker``, made in Python. The command line loads all
commands of all packages first, which takes longer than all else together where there are many.
"""

from __future__ import annotations

import sys

import click

from example_project.demo.hurry import hurry
from example_project.shop.app import app


@click.command()
@click.argument("name")
@click.option("--concurrency", type=int, default=4)
def main(name: str, concurrency: int) -> None:
    """Runs until it is told to end."""
    hurry(app)
    worker = app.Worker(
        hostname=name,
        pool="prefork",
        concurrency=concurrency,
        loglevel="INFO",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    sys.exit(worker.exitcode)


if __name__ == "__main__":
    main()
