"""Interrupts: an exception at each place of the package where a signal's handler may run, in forked children."""

from __future__ import annotations

import dis
import gc
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from types import CodeType, FrameType
from typing import Any

import celery_locks

PACKAGE = os.path.dirname(celery_locks.__file__)
#: How many children there are at the same time: they mostly wait.
CHILDREN = 16
#: How many places a child interrupts one after the other: starting a child costs more than an interrupt.
PLACES_OF_A_CHILD = 16
#: Seconds after which a child is given up that is at one place.
PATIENCE = 30
#: What a child answers of a place that it did not come to, or not any more.
MISSED = "missed"

Work = Callable[[], object]
Check = Callable[[BaseException | None], str]
#: Makes what is interrupted, and what is then given the error that it ended with, and returns what is wrong
#: afterwards, empty for nothing.
Make = Callable[[], tuple[Work, Check]]
#: Where it is, and where the function was called: each a file, a line of a function's beginning, and an offset.
Place = tuple[str, int, int, str, int, int]


class _Places:
    """A tracer that notes the places where CPython runs signal handlers, and raises an error at one of them.

    These are after a call, at the beginning of a function and at a jump back: not between any two lines, so a ``with``
    statement is never left between its parts. The beginning of a method that a test calls is no place: the signal
    came before the call.
    """

    def __init__(self, interrupt_at: Place | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.where = ""
        self.seen: dict[Place, None] = {}
        self._interrupt_at = interrupt_at
        self._error = error
        self._before: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or not self._may_be_in(code):
            return None
        if self._interrupt_at is not None and (code.co_filename, code.co_firstlineno) != self._interrupt_at[:2]:
            return None  # to trace other functions would cost far more than the work itself
        frame.f_trace_opcodes = True
        if event == "call":
            self._before.pop(frame, None)
        if event != "opcode":
            return self
        last, self._before[frame] = self._before.get(frame, ""), dis.opname[_bytes_of(code)[frame.f_lasti]]
        if last == "RESUME" and (frame.f_back is None or not frame.f_back.f_code.co_filename.startswith(PACKAGE)):
            return self
        if last.startswith("CALL") or last in ("RESUME", "JUMP_BACKWARD"):
            place = (*_at(frame), *_at(frame.f_back))
            self.seen[place] = None
            if place == self._interrupt_at:
                self.where = f"{code.co_filename[len(PACKAGE) + 1 :]}:{frame.f_lineno} {code.co_name}"
                sys.settrace(None)  # the rest runs as it would
                raise self._error
        return self

    def _may_be_in(self, code: CodeType) -> bool:
        """Return whether the interrupt may happen in this function. Tracing all others would take most of the time."""
        return self._interrupt_at is None or (code.co_filename, code.co_firstlineno) == self._interrupt_at[:2]


@cache
def _bytes_of(code: CodeType) -> bytes:
    return code.co_code  # made anew each time


def _at(frame: FrameType | None) -> tuple[str, int, int]:
    return ("", 0, 0) if frame is None else (frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_lasti)


def traced(work: Work, places: _Places) -> BaseException | None:
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


def failures(make: Make, error: type[BaseException], every: int = 1) -> tuple[list[str], int]:
    """Interrupt some work at each place.

    A child interrupts the work at several places, one after the other. A place where something is wrong, or that only
    a new process comes to, is tried in a child of its own.

    Args:
        make: Makes the work, anew for each place.
        error: What is raised.
        every: Only each of so many places.

    Returns:
        What was wrong, with its place, and how many places there are. One that the same caller comes to again counts
        once.
    """
    seen = [_place(each) for each in json.loads(_read(*_in_child(lambda: _seen(make))))]
    chosen = seen[::every]
    groups = [chosen[at : at + PLACES_OF_A_CHILD] for at in range(0, len(chosen), PLACES_OF_A_CHILD)]
    right = {place for said in _parallel(_works(make, error, groups)) for place, wrong in _verdicts(said) if not wrong}
    alone = [[place] for place in chosen if place not in right]
    wrong = [wrong for said in _parallel(_works(make, error, alone)) for _, wrong in _verdicts(said)]
    return [each for each in wrong if each not in ("", MISSED)], len(seen)


def _place(each: list[Any]) -> Place:
    file, line, offset, caller, caller_line, caller_offset = each
    return file, line, offset, caller, caller_line, caller_offset


def _verdicts(said: str) -> list[tuple[Place | None, str]]:
    """Return what a child says is wrong at each of its places; of none in particular where it raised or died."""
    return [(_place(place), wrong) for place, wrong in json.loads(said)] if said.startswith("[") else [(None, said)]


def _works(make: Make, error: type[BaseException], groups: list[list[Place]]) -> list[Callable[[], str]]:
    return [partial(_interrupt_each, make, error, group) for group in groups]


def _seen(make: Make) -> str:
    places = _Places()
    traced(make()[0], places)
    return json.dumps(list(places.seen))


def _interrupt_each(make: Make, error: type[BaseException], group: list[Place]) -> str:
    said: list[tuple[Place, str]] = []
    for place in group:
        signal.alarm(PATIENCE)
        said.append((place, _interrupt(make, error, place)))
        if said[-1][1] not in ("", MISSED):
            break  # what comes after it might suffer from it
    return json.dumps(said)


def _interrupt(make: Make, error: type[BaseException], place: Place) -> str:
    work, check = make()
    places = _Places(place, error)
    ended = traced(work, places)
    wrong = check(ended)
    if not places.where:  # a wait that ended sooner this time, or a process that is not new
        return MISSED
    return f"{places.where}: {wrong}" if wrong else ""


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
