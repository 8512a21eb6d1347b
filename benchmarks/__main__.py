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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

import click
from rich.console import Console

from benchmarks import plot
from benchmarks.groups import FULL, QUICK, run
from benchmarks.rows import Row, markdown, table
from tests.support.servers import default_binary

DOCS = Path(__file__).parents[1] / "docs"
#: Those whose versions the figures depend on, as far as they are installed.
LIBRARIES = (
    "celery",
    "redis",
    "celery-locks",
    "celery-heimdall",
    "celery-once",
    "celery-singleton",
    "pottery",
    "python-redis-lock",
    "sherlock",
)
#: Between these two lines of the page stands what was measured last.
BEGIN, END = "<!-- measured -->\n", "<!-- /measured -->\n"


@click.command()
@click.option("--quick", is_flag=True, help="A part of it in under a minute; nothing is written.")
@click.option("--only", default="", help="Only the groups whose names begin so.")
def main(quick: bool, only: str) -> None:
    """Measures celery-locks beside other locks and the limits of this machine."""
    console, measured = Console(width=140), dict[str, list[Row]]()
    console.print(machine())
    started = time.monotonic()
    for name in QUICK if quick else FULL:
        if name.startswith(only):
            with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                measured[name] = fresh.submit(run, name, quick).result()
            console.print(table(name, measured[name]))
    console.print(f"{time.monotonic() - started:.0f} s")
    if not quick and not only:
        write(measured)


def installed(library: str) -> bool:
    try:
        return bool(version(library))
    except PackageNotFoundError:
        return False


def machine() -> str:
    """What was measured on."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES if installed(name))
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
