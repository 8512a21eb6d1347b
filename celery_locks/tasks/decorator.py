"""The decorator `single_instance`, which is written below ``@app.task`` or above it."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from celery import Celery, Task
from celery.local import PromiseProxy, Proxy

from celery_locks.errors import LockConfigError
from celery_locks.tasks._celery_patches import (
    active_apps,
    as_current_app,
    call_all,
    call_when_tasks_are_made,
    change_class,
    function_of,
    install_for_finalize,
    install_for_new_tasks,
    is_made_of_function,
    origin_of,
    task_in,
    wrap_autoretry,
)
from celery_locks.tasks.marks import MARK, Mark, MarksStep, check_not_marked, mark_of, new_mark
from celery_locks.tasks.options import DECORATED, TASK_PREFIX, checked_options
from celery_locks.tasks.policies.basic import check_call_side
from celery_locks.tasks.run import run_with_autoretry
from celery_locks.tasks.signatures import async_error, call_signature, is_async
from celery_locks.tasks.task import LockedTask, check_lockable, prepare

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from celery_locks.tasks.option_types import LockKeywords

F = TypeVar("F", bound=Callable[..., Any])

#: Names that the user's own base class can't have, because this library reads them on every locked task.
_RESERVED = ("lock_spec", "lock_options", "lock_key_for", LockedTask.locks_runs.__name__)


@overload
def single_instance(target: F, **options: Unpack[LockKeywords]) -> F: ...
@overload
def single_instance(target: str, **options: Unpack[LockKeywords]) -> Callable[[F], F]: ...
@overload
def single_instance(**options: Unpack[LockKeywords]) -> Callable[[F], F]: ...
def single_instance(target: Any = None, **options: Unpack[LockKeywords]) -> Any:
    """Make a task run once at a time for each key.

    Write it below ``@app.task`` or ``@shared_task`` (directly above the function) or above it, or above a task class.

    Args:
        target: The key as a template; without parentheses, the function, task or task class.
        **options: See `LockOptions`; their types are those of `LockKeywords`.

    Raises:
        LockConfigError: An option is wrong or has no effect, the function is async, or it is decorated already.
        LockKeyError: The template names no argument of the task.

    Examples:
        >>> @app.task(bind=True)
        ... @single_instance(key="user:<user_id>")
        ... def sync_user(self, user_id, full=False): ...
    """
    if isinstance(target, str):
        if "key" in options:
            raise LockConfigError(f"single_instance has two keys, {target!r} and {options['key']!r}: give one")
        options, target = {**options, "key": target}, None
    given = checked_options(options)
    if "scope" in options:
        check_call_side(given.on_contention if "on_contention" in options else None, given.scope)

    def decorate(target: Any) -> Any:
        kind = type(target)  # isinstance() would evaluate a proxy, and the app with it
        if kind is PromiseProxy:
            mark = new_mark(options)
            target.__then__(lambda: lock_task(target._get_current_object(), mark))
            _lock_in_other_apps(target, mark)
        elif kind is Proxy:
            _lock_in_all_apps(target, new_mark(options))
        elif inspect.isclass(target) and issubclass(target, Task):
            return _locked_class(target, new_mark(options))
        elif isinstance(target, Task):
            mark = new_mark(options)
            lock_task(target, mark)
            _lock_in_other_apps(target, mark)
        elif callable(target):
            _mark(target, options)
        else:
            raise LockConfigError(f"single_instance decorates functions and tasks, not {target!r}")
        return target

    return decorate if target is None else decorate(target)


def lock_task(task: Task, mark: Mark) -> None:
    """Make an existing task a locked one.

    If it can't be locked, the task refuses all calls and runs from then on, as the process may catch the error.
    """
    mark.used = True
    if vars(type(task)).get(MARK) is mark:
        return
    try:
        vars(task).pop("_locks_spec", None)
        change_class(task, _locked_class(type(task), mark))
        wrap_autoretry(task, run_with_autoretry)
    except Exception as error:
        task.apply_async = task.run = partial(_refuse, error)
        raise


def _refuse(reason: Exception, *args: Any, **kwargs: Any) -> None:
    raise LockConfigError(str(reason)) from reason


def _locked_class(cls: type[Task], mark: Mark) -> type[Task]:
    """Return a locked subclass of a task's class. Attributes of the user's class come before those of `LockedTask`.

    Raises:
        LockConfigError: The class is decorated already, or can't be locked.
    """
    mark.used = True
    _check_not_decorated(vars(cls).get(MARK), mark, cls.__qualname__)
    attributes = {
        TASK_PREFIX + name: staticmethod(value) if inspect.isfunction(value) else value
        for name, value in mark.options.items()
    }
    attributes |= {"__module__": cls.__module__, "__doc__": cls.__doc__, "abstract": cls.__dict__.get("abstract", True)}
    attributes |= {MARK: mark, DECORATED: cls}
    bases: tuple[type, ...] = (cls,)
    if not issubclass(cls, LockedTask):
        bases = (cls, LockedTask)
        taken = [name for name in _RESERVED if hasattr(cls, name)]
        if taken:
            raise LockConfigError(f"{cls.__qualname__} has an attribute {taken[0]}, which locked tasks use: rename it")
    made: type[Task] = types.new_class(cls.__name__, bases, exec_body=lambda names: names.update(attributes))
    made.__qualname__ = cls.__qualname__
    prepare(made)  # the user's class may have an __init_subclass__() of its own
    check_lockable(made)
    return made


def _check_not_decorated(present: Any, mark: Mark, name: str) -> None:
    """Check that a function or task has no other mark.

    Raises:
        LockConfigError: It has another one.
    """
    if isinstance(present, Mark) and present is not mark:
        raise LockConfigError(
            f"{name} has two single_instance decorators, and a task has one lock: put all options into one of them"
        )


def _mark(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if is_async(function):
        raise async_error(name)
    mark = new_mark(options, function)
    _check_not_decorated(mark_of(function), mark, name)
    # Checked now, so that the error points at the decorator. Whether ``self`` is an argument is not known yet.
    call_signature(function).key_maker(options.get("key"), name)
    try:
        setattr(function, MARK, mark)
    except AttributeError:
        raise LockConfigError(
            f"single_instance can't decorate {name}, which takes no attributes: write a function that calls it"
        ) from None


def _lock_in_other_apps(target: Any, mark: Mark) -> None:
    """Lock the task that other apps make of the same function, when they have made it.

    ``@app.task`` shares its function with all apps that are finalized later.
    """

    def lock(app: Celery) -> None:
        function, name, own_app = origin_of(target)
        if function is None or app is own_app:
            return
        task = task_in(app, function, name)
        if task is not None and not any(MARK in vars(cls) for cls in type(task).__mro__):
            lock_task(task, mark)

    call_when_tasks_are_made(lock)


def _lock_in_all_apps(proxy: Any, mark: Mark) -> None:
    """Lock the task of a ``@shared_task`` in each app, when the app has made its shared tasks."""

    def lock(app: Celery) -> None:
        with as_current_app(app):  # the proxy stands for the task of the current app
            lock_task(proxy._get_current_object(), mark)

    call_when_tasks_are_made(lock)
    # A list, because evaluating the proxy may make another app.
    call_all(partial(lock, app) for app in [app for app in active_apps() if app.finalized])


def _before_autoretry(task: Task) -> None:
    """Lock a task that Celery has made of a marked function."""
    mark = mark_of(function_of(task))
    if mark is not None:
        lock_task(task, mark)
    elif not is_made_of_function(type(task)) and not isinstance(task, LockedTask):
        check_not_marked(inspect.getattr_static(type(task), "run"), type(task).__qualname__)


def _after_autoretry(task: Task) -> None:
    if isinstance(task, LockedTask):
        wrap_autoretry(task, run_with_autoretry)


install_for_new_tasks(_before_autoretry, _after_autoretry)
install_for_finalize(lambda app: app.steps["worker"].add(MarksStep))
