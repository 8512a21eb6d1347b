"""Interrupts: an exception at each place of the package where a signal's handler may run, a forked child for each."""

from __future__ import annotations

import dis
import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import celery_locks

PACKAGE = os.path.dirname(celery_locks.__file__)
#: How many children there are at the same time: they mostly wait.
CHILDREN = 16
#: Seconds after which a child is given up.
PATIENCE = 30

Check = Callable[[BaseException | None], str]


class _Places:
    """A tracer that counts the places where CPython runs signal handlers, and raises an error at one of them.

    These are after a call, at the beginning of a function and at a jump back: not between any two lines, so a ``with``
    statement is never left between its parts. The beginning of a method that a test calls is no place: the signal
    came before the call.
    """

    def __init__(self, strike_at: int = 0, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.count = 0
        self.where = ""
        #: The numbers of the places that differ in where they are, or in where the function was called.
        self.different: dict[tuple[object, ...], int] = {}
        self._strike_at = strike_at
        self._error = error
        self._before: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        if event == "call":
            self._before.pop(frame, None)
        if event != "opcode" or self.where:
            return self
        last, self._before[frame] = self._before.get(frame, ""), dis.opname[code.co_code[frame.f_lasti]]
        if last == "RESUME" and (frame.f_back is None or not frame.f_back.f_code.co_filename.startswith(PACKAGE)):
            return self
        if last.startswith("CALL") or last in ("RESUME", "JUMP_BACKWARD"):
            self.count += 1
            caller = frame.f_back
            called_at = () if caller is None else (caller.f_code, caller.f_lasti)
            self.different.setdefault((code, frame.f_lasti, *called_at), self.count)
            if self.count == self._strike_at:
                self.where = f"{code.co_filename[len(PACKAGE) + 1 :]}:{frame.f_lineno} {code.co_name}"
                raise self._error
        return self


def traced(work: Callable[[], object], places: _Places) -> BaseException | None:
    """Return the error that the work ended with."""
    before = sys.gettrace()
    sys.settrace(places)
    try:
        work()
    except BaseException as error:
        return error
    finally:
        sys.settrace(before)
    return None


def failures(
    work: Callable[[], object], check: Check, error: type[BaseException], every: int = 1
) -> tuple[list[str], int]:
    """Interrupt the work at each place, in a child of its own.

    Args:
        work: What is interrupted.
        check: Given the error that the work ended with, returns what is wrong afterwards, empty for nothing.
        error: What is raised.
        every: Only each of so many places.

    Returns:
        What was wrong, with its place, and how many places there are. One that the same caller comes to again counts
        once.
    """
    numbers = list(map(int, _read(*_in_child(lambda: _counted(work))).split()))
    works = [partial(_strike, work, check, error, number) for number in numbers[::every]]
    return [said for said in _parallel(works) if said != "right"], len(numbers)


def _counted(work: Callable[[], object]) -> str:
    places = _Places()
    traced(work, places)
    return " ".join(map(str, places.different.values()))


def _strike(work: Callable[[], object], check: Check, error: type[BaseException], number: int) -> str:
    places = _Places(number, error)
    ended = traced(work, places)
    if not places.where:  # a wait that ended sooner this time has fewer places
        return "right"
    wrong = check(ended)
    return f"{places.where}: {wrong}" if wrong else "right"


def _parallel(works: Iterable[Callable[[], str]]) -> Iterator[str]:
    running: dict[int, int] = {}
    works = iter(works)
    while True:
        while len(running) < CHILDREN and (work := next(works, None)) is not None:
            read, pid = _in_child(work)
            running[read] = pid
        if not running:
            return
        for read in select.select(list(running), [], [])[0]:
            yield _read(read, running.pop(read))


def _in_child(work: Callable[[], str]) -> tuple[int, int]:
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return read, pid
    try:
        gc.disable()  # it would copy each page of the parent's
        os.close(read)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)
        try:
            said = work()
        except BaseException:
            said = traceback.format_exc()
        os.write(write, said.encode())
    finally:
        os._exit(0)


def _read(read: int, pid: int) -> str:
    parts = []
    while part := os.read(read, 65536):
        parts.append(part)
    os.close(read)
    os.waitpid(pid, 0)
    return b"".join(parts).decode() or "the child died"


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Whether a condition holds before so many seconds are over."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
