"""The state that belongs to one process. A forked child starts without its parent's."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
H = TypeVar("H", bound=Callable[[], object])

#: The number of forks between this process and the one that imported this module. Each use of a connection compares
#: it, because reading it costs a fraction of `os.getpid`.
forks = 0


def after_fork_in_child(handler: H) -> H:
    """Call a function in each forked child, before any code of the child's own.

    Handlers run in the order of their registration. Python prints the exception of one, an interrupt too, and runs the
    others. May be used as a decorator.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=handler)
    return handler


class PerProcess(Generic[T]):
    """A value that each process makes for itself, at its first use.

    Args:
        make: Makes the value. When two threads need it first at the same time, one of the two values is kept.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[str, T] = {}
        after_fork_in_child(self._values.clear)

    def __call__(self) -> T:
        """Return the value of this process."""
        try:
            return self._values["value"]
        except KeyError:
            return self._values.setdefault("value", self._make())


@PerProcess
def host_and_pid() -> str:
    """Return the name of this process: its host and process id, as ``"web-1:4711"``."""
    return f"{socket.gethostname()}:{os.getpid()}"


@after_fork_in_child
def _count_fork() -> None:
    global forks
    forks += 1
