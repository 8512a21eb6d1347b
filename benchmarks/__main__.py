"""All benchmarks in one go: `make bench`.

Each side is measured by turns with the others on one machine, so that ratios mean something; a figure alone means
little on another machine.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click
from rich.console import Console

from benchmarks import files, overhead, pairs, plot, renewal, scale, small, storm, wake
from benchmarks.rows import Row, markdown, table
from tests.support.servers import RedisServer, default_binary

DOCS = Path(__file__).parents[1] / "docs"
#: Between these two lines of the page stands what was measured last.
BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->\n"
Group = Callable[[RedisServer], list[Row]]

FULL: dict[str, Group] = {
    "Acquire and release": lambda server: pairs.rows(server, rounds=7, seconds=0.3),
    "SQLite": lambda server: files.rows(seconds=5),
    "Tasks on free keys": lambda server: overhead.rows(server, tasks=400, pairs=6),
    "A storm of tasks on one key": lambda server: storm.rows(server, tasks=1000),
    "Waiting": lambda server: wake.rows(server, rounds=200),
    "Renewal": lambda server: renewal.rows(server, interval=4, cycles=3),
    "Many locks": lambda server: scale.rows(server, many=1_000_000),
    "Small things": lambda server: small.rows(rounds=9),
}
QUICK: dict[str, Group] = {
    "Acquire and release": lambda server: pairs.rows(server, rounds=2, seconds=0.1),
    "SQLite": lambda server: files.rows(seconds=1),
    "Waiting": lambda server: wake.rows(server, rounds=40),
    "Many locks": lambda server: scale.rows(server, many=20_000),
    "Small things": lambda server: small.rows(rounds=3),
}


@click.command()
@click.option("--quick", is_flag=True, help="A part of it in under a minute; nothing is written.")
@click.option("--only", default="", help="Only the groups whose names begin so.")
def main(quick: bool, only: str) -> None:
    """Measures celery-locks beside other locks and the limits of this machine."""
    console, measured = Console(width=140), dict[str, list[Row]]()
    console.print(machine())
    started = time.monotonic()
    for name, group in (QUICK if quick else FULL).items():
        if name.startswith(only):
            with RedisServer() as server:
                measured[name] = group(server)
            console.print(table(name, measured[name]))
    console.print(f"{time.monotonic() - started:.0f} s")
    if not quick and not only:
        write(measured)


def machine() -> str:
    """What was measured on."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("celery", "redis", "celery-locks"))
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors{load}; "
        f"Python {platform.python_version()}; {default_binary()}; {libraries}"
    )


def write(measured: dict[str, list[Row]]) -> None:
    """Into the documentation: the figures as JSON, the tables as Markdown, the plots as SVG."""
    data = {"machine": machine(), "groups": {name: [asdict(row) for row in rows] for name, rows in measured.items()}}
    (DOCS / "assets").mkdir(exist_ok=True)
    (DOCS / "assets" / "benchmarks.json").write_text(json.dumps(data, indent=1) + "\n")
    plot.pairs(measured["Acquire and release"], DOCS / "assets" / "pairs.svg")
    page = DOCS / "reference" / "benchmarks.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "".join(f"\n### {name}\n\n{markdown(rows)}" for name, rows in measured.items())
    page.write_text(f"{before}{BEGIN}\n{machine()}\n{tables}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
