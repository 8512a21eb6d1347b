"""The marks that `single_instance` leaves on functions, and what becomes of them.

Celery makes tasks late. Until then a decorated function carries its options as a mark. A mark that no task shows is a
lock that no run takes: it is refused where it must be a mistake, and reported otherwise.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from celery import Task, _state, bootsteps
from celery.local import Proxy

from celery_locks import _logging
from celery_locks.errors import LockConfigError

logger = _logging.logger(__name__)

#: A function carries its mark here; so does the class of a task that has been locked by it.
MARK = "__celery_locks__"
#: How many objects are looked at behind the body of one task.
MOST_OBJECTS = 1000


@dataclass(eq=False)
class Mark:
    """The options of one `single_instance`.

    Attributes:
        options: The options.
        place: Where it stands: the module, the function and the line.
        used: Whether it has locked a task, in any app.
    """

    options: Mapping[str, Any]
    place: str
    used: bool = False


_marks: WeakSet[Mark] = WeakSet()


def new_mark(options: Mapping[str, Any], target: Any = None) -> Mark:
    """Return a mark; one for a function is known to workers that start."""
    function = inspect.unwrap(target) if target is not None else None
    line = getattr(getattr(function, "__code__", None), "co_firstlineno", "?")
    name = getattr(target, "__qualname__", type(target).__qualname__)
    mark = Mark(options, f"{getattr(target, '__module__', '?')}:{name}:{line}")
    if target is not None:
        _marks.add(mark)
    return mark


def mark_of(function: Any) -> Mark | None:
    """Return the mark that a function shows, its own or one that functools.wraps() has copied."""
    try:
        function = getattr(function, "__func__", function)
        mark = getattr(function, MARK, None)
    except Exception:  # a proxy of another library, which stands for nothing now
        return None
    return mark if isinstance(mark, Mark) else None


def check_not_marked(body: Any, cls: str) -> None:
    """Check that the ``run()`` of a class is not decorated by itself: no task would be made of its mark.

    Raises:
        LockConfigError: It is.
    """
    mark = mark_of(body)
    if mark is not None:
        raise LockConfigError(
            f"single_instance has no effect on the run() of {cls} ({mark.place}): decorate the class, or make it a "
            "LockedTask with attributes lock_…"
        )


def check_app(app: Any) -> None:
    """Check that every task of an app whose body is marked is locked.

    Raises:
        LockConfigError: One is not.
    """
    tasks = list(app.tasks.values())
    locking = {mark for task in tasks for each in type(task).__mro__ if isinstance(mark := vars(each).get(MARK), Mark)}
    for task in tasks:
        for mark in marks_behind(task):
            if mark not in locking:
                raise LockConfigError(
                    f"the task {task.name} is not locked by the single_instance of {mark.place}: what lies between "
                    "them hides it. Put single_instance above the other decorators, or write them with "
                    "functools.wraps(). For run() of a class, decorate the class"
                )
    unused = sorted(mark.place for mark in _marks if not mark.used)
    if unused and all(other.finalized for other in _state._get_active_apps()):
        logger.warning("single_instance has no effect on %s: no task is made of it", ", ".join(unused))


def marks_behind(task: Task) -> Iterator[Mark]:
    """Yield the marks of all functions that the body of a task leads to, by decorators of any kind."""
    bodies = [inspect.getattr_static(type(task), name, None) for name in ("run", "__call__")]
    todo, seen = [each for each in bodies if each is not None], set[int]()
    while todo and len(seen) < MOST_OBJECTS:
        each = todo.pop()
        kind = type(each)  # isinstance() would evaluate a proxy
        may_lead = callable(each) or issubclass(kind, (staticmethod, classmethod))
        if id(each) in seen or not may_lead or issubclass(kind, (type, Task, Proxy)):
            continue
        seen.add(id(each))
        mark = mark_of(each)
        if mark is not None:
            yield mark
        todo += _inside(each)


def _inside(function: Any) -> Iterator[Any]:
    """Yield what a callable may call: what it wraps, what it is made of, and what its closure has."""
    kind = type(function)
    if issubclass(kind, (staticmethod, classmethod, types.MethodType)):
        yield function.__func__
        owner = getattr(function, "__self__", None)
        if not issubclass(type(owner), (type, Task, Proxy)):
            yield from list(getattr(owner, "__dict__", {}).values())
    elif issubclass(kind, functools.partial):
        yield from (function.func, *function.args, *function.keywords.values())
    with suppress(AttributeError):
        yield from list(object.__getattribute__(function, "__dict__").values())
    for cell in getattr(function, "__closure__", None) or () if issubclass(kind, types.FunctionType) else ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet  # noqa: PERF203
            continue


class MarksStep(bootsteps.Step):
    """Has a worker not start while a task of its app is decorated and not locked."""

    name = "celery-locks-marks"

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        check_app(worker.app)
