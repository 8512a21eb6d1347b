"""``python -m celery``, without what no worker of the tests needs and every ``celery`` command would import.

That is more than two thirds of the time that a worker takes to start here: Flower's command, the prompt of
``celery shell``'s like, OpenTelemetry's SDK, which redis-py loads where it is installed, and what colours Python.
"""

import contextlib
import os
import sys
import types
from importlib import metadata


def main() -> None:
    """Runs the command line of Celery on this process's arguments."""
    sys.path[0] = os.getcwd()  # as `python -m` has it
    found = metadata.entry_points
    metadata.entry_points = lambda **by: () if by.get("group") == "celery.commands" else found(**by)  # type: ignore[assignment]
    prompt = types.ModuleType("click_repl")
    prompt.register_repl = lambda *_, **__: None  # type: ignore[attr-defined]
    sys.modules["click_repl"] = prompt
    for unneeded in ("opentelemetry.sdk", "pygments", "yaml"):
        sys.modules[unneeded] = None  # type: ignore[assignment]  # importing it is an ImportError
    if "prefork" in sys.argv:
        read_what_children_read()
    from celery.__main__ import main

    main()


def read_what_children_read() -> None:
    """Has cffi parse once, before the fork. Billiard has it tell the system with whom a child dies, in each child."""
    with contextlib.suppress(ImportError):
        import cffi  # type: ignore[import-untyped]

        cffi.FFI().cdef("int prctl (int __option, ...);")


if __name__ == "__main__":
    main()
