"""Completes keys for a shell: one process answers all TABs, since starting Python takes far longer than completing.

``python completion_server.py FOLDER`` makes the program ``FOLDER/bin/celery``. The program sends its environment to
the server through a named pipe, and prints the answer. The keys are in ``FOLDER/keys.json``.
"""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from contextlib import redirect_stdout
from pathlib import Path

import click

from celery_locks.cli import completion, parameters

_PROGRAM = """#!/bin/sh
env -0 > {folder}/question
exec cat {folder}/answer
"""


def complete(command: click.Command, environment: bytes) -> bytes:
    """Return what the command prints with these variables, as ``env -0`` writes them."""
    variables = (os.fsdecode(each).partition("=") for each in environment.split(b"\0") if each)
    os.environ.clear()
    os.environ.update({name: value for name, _, value in variables})
    printed = io.BytesIO()
    with io.TextIOWrapper(printed, "utf-8", sys.stdout.errors, write_through=True) as output, redirect_stdout(output):
        try:
            command.main([], prog_name="celery")
        except SystemExit:
            pass
        except BaseException:
            traceback.print_exc(file=output)
        return printed.getvalue()


def make_command(folder: Path) -> click.Command:
    """Return a ``celery`` whose command ``show`` takes a key, as ``celery locks show`` does."""
    completion.keys_of = lambda app, begun, store: [  # type: ignore[assignment,misc]
        key for key in json.loads((folder / "keys.json").read_text()) if key.startswith(begun)
    ]

    @click.group()
    def celery() -> None: ...

    @celery.command()
    @parameters.key_argument()
    @click.option("--json", is_flag=True)
    def show(key: str, json: bool) -> None: ...

    return celery


def main(folder: Path) -> None:
    """Answer questions until the process is killed."""
    command = make_command(folder)
    for pipe in ("question", "answer"):
        os.mkfifo(folder / pipe)
    program = folder / "bin" / "celery"
    program.parent.mkdir()
    program.write_text(_PROGRAM.format(folder=folder))
    program.chmod(0o755)
    (folder / "serves").touch()
    while True:
        answer = complete(command, (folder / "question").read_bytes())
        (folder / "answer").write_bytes(answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
