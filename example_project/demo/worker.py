"""A worker of the demo: ``python -m example_project.demo.worker worker1@shop --concurrency 4``.

It is the same worker as that of ``celery -A example_project.shop.app worker``. It is made in Python, because the
command line first imports the commands of all packages, which may take long.
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
    """Run the worker until it is terminated."""
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
