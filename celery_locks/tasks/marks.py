"""The marks that `single_instance` leaves on functions, and the check that each mark has locked a task.

Celery makes tasks late. Until then a decorated function carries its options as a mark. A mark that locks no task is an
error if a task is made of its function, and a warning otherwise.
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

from celery import Task, bootsteps
from celery.local import Proxy

from celery_locks import _logging
from celery_locks.errors import LockConfigError
from celery_locks.tasks._celery_patches import active_apps

logger = _logging.logger(__name__)

#: The attribute with the mark, on a function and on the class of the task that it has locked.
MARK = "__celery_locks__"
#: The search for the marks of one task's body ends after this number of objects.
MAX_OBJECTS_SEARCHED = 1000


@dataclass(eq=False)
class Mark:
    """The options of one `single_instance`.

    Attributes:
        options: The options.
        place: The module, the function and the line of the decorator.
        used: Whether it has locked a task, in any app.
    """

    options: Mapping[str, Any]
    place: str
    used: bool = False


_marks: WeakSet[Mark] = WeakSet()


def new_mark(options: Mapping[str, Any], target: Any = None) -> Mark:
    """Return a new mark. Workers check at their start that the marks of functions have locked a task."""
    function = inspect.unwrap(target) if target is not None else None
    line = getattr(getattr(function, "__code__", None), "co_firstlineno", "?")
    name = getattr(target, "__qualname__", type(target).__qualname__)
    mark = Mark(options, f"{getattr(target, '__module__', '?')}:{name}:{line}")
    if target is not None:
        _marks.add(mark)
    return mark


def mark_of(function: Any) -> Mark | None:
    """Return the mark of a function: its own, or one that functools.wraps() has copied."""
    try:
        function = getattr(function, "__func__", function)
        mark = getattr(function, MARK, None)
    except Exception:  # a proxy of another library that has no object now
        return None
    return mark if isinstance(mark, Mark) else None


def check_not_marked(body: Any, cls: str) -> None:
    """Check that the ``run()`` of a class is not decorated itself, as its mark would lock no task.

    Raises:
        LockConfigError: It is decorated.
    """
    mark = mark_of(body)
    if mark is not None:
        raise LockConfigError(
            f"single_instance has no effect on the run() of {cls} ({mark.place}): decorate the class, or make it a "
            "LockedTask with attributes lock_…"
        )


def check_app(app: Any) -> None:
    """Check that every task of an app is locked whose body is marked.

    Raises:
        LockConfigError: A task is not locked.
    """
    tasks = list(app.tasks.values())
    locking = {mark for task in tasks for each in type(task).__mro__ if isinstance(mark := vars(each).get(MARK), Mark)}
    for task in tasks:
        for mark in marks_in_body(task):
            if mark not in locking:
                raise LockConfigError(
                    f"the task {task.name} is not locked by the single_instance of {mark.place}: a decorator between "
                    "them hides it. Put single_instance above the other decorators, or write them with "
                    "functools.wraps(). For run() of a class, decorate the class"
                )
    unused = sorted(mark.place for mark in _marks if not mark.used)
    if unused and all(other.finalized for other in active_apps()):
        logger.warning("single_instance has no effect on %s: no task is made of it", ", ".join(unused))


def marks_in_body(task: Task) -> Iterator[Mark]:
    """Yield the marks of all functions that the body of a task may call, through decorators of any kind."""
    bodies = [inspect.getattr_static(type(task), name, None) for name in ("run", "__call__")]
    todo, seen = [each for each in bodies if each is not None], set[int]()
    while todo and len(seen) < MAX_OBJECTS_SEARCHED:
        each = todo.pop()
        kind = type(each)  # isinstance() would evaluate a proxy
        is_callable = callable(each) or issubclass(kind, (staticmethod, classmethod))
        if id(each) in seen or not is_callable or issubclass(kind, (type, Task, Proxy)):
            continue
        seen.add(id(each))
        mark = mark_of(each)
        if mark is not None:
            yield mark
        todo += _callees(each)


def _callees(function: Any) -> Iterator[Any]:
    """Yield the objects that a callable may call: those it wraps, its attributes, and its closure's variables."""
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
    """Refuses the start of a worker if a task of its app is decorated and not locked."""

    name = "celery-locks-marks"

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        check_app(worker.app)
