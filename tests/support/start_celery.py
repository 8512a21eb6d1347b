"""``python -m celery``, without what no worker of the tests needs and every ``celery`` command would import.

That is more than two thirds of the time that a worker takes to start here: Flower's command, the prompt of
``celery shell``'s like, OpenTelemetry's SDK, which redis-py loads where it is installed, its clients for asyncio, what
colours Python, and entry points of Celery's and kombu's that no package here has.
"""

import atexit
import os
import sys
import threading
import types
from importlib import metadata
from types import NoneType


def main() -> None:
    """Runs the command line of Celery on this process's arguments."""
    sys.path[0] = os.getcwd()  # as `python -m` has it
    found = metadata.entry_points
    metadata.entry_points = lambda **by: () if by.get("group", "").startswith(("celery", "kombu")) else found(**by)  # type: ignore[assignment]
    prompt = types.ModuleType("click_repl")
    prompt.register_repl = lambda *_, **__: None  # type: ignore[attr-defined]
    sys.modules["click_repl"] = prompt
    for unneeded in ("opentelemetry.sdk", "pygments", "yaml"):
        sys.modules[unneeded] = None  # type: ignore[assignment]  # importing it is an ImportError
    no_clients = types.ModuleType("redis.asyncio")  # a package whose other modules redis-py imports
    no_clients.__path__ = [os.path.join(path, "redis", "asyncio") for path in sys.path]
    sys.modules["redis.asyncio"] = no_clients
    if "prefork" in sys.argv:
        use_ctypes_for_the_death_signal()
    from celery.__main__ import main

    try:
        main()
    except SystemExit as ended:
        if not isinstance(ended.code, (int, NoneType)):
            raise
        end_now(ended.code or 0)


def end_now(code: int) -> None:
    """End this process as Python does, but leave its memory to the system: Python would take it apart for long."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def use_ctypes_for_the_death_signal() -> None:
    """Have billiard not find cffi, as on most machines: it would parse C in each child, to tell with whom it dies."""
    sys.modules["cffi"] = None  # type: ignore[assignment]
    import billiard.util

    assert billiard.util.ctypes
    del sys.modules["cffi"]


if __name__ == "__main__":
    main()
