"""`single_instance`, the decorator, below ``@app.task`` or above it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, TypeVar, overload

from celery import Celery, Task, _state
from celery.app import base
from celery.local import PromiseProxy, Proxy, maybe_evaluate

from celery_locks.errors import LockConfigError
from celery_locks.keys import KeyMaker
from celery_locks.tasks.options import TASK_PREFIX, checked_options
from celery_locks.tasks.policies import check_call_side
from celery_locks.tasks.task import LockedTask, lock_around_autoretry

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from celery_locks.tasks.option_types import LockKeywords

F = TypeVar("F", bound=Callable[..., Any])

#: A function carries its options here until Celery makes a task of it.
MARK = "__celery_locks__"


@overload
def single_instance(target: F, **options: Unpack[LockKeywords]) -> F: ...
@overload
def single_instance(**options: Unpack[LockKeywords]) -> Callable[[F], F]: ...
def single_instance(target: Any = None, **options: Unpack[LockKeywords]) -> Any:
    """Make a task run once at a time for each key.

    Write it below ``@app.task`` or ``@shared_task`` (directly above the function) or above it, or above a task class.

    Args:
        target: The function, task or task class; the decorator without parentheses gives it.
        **options: See `LockOptions`; their types are those of `LockKeywords`.

    Raises:
        LockConfigError: An option is wrong or has no effect, or the function is async.
        LockKeyError: The template names no argument of the task.

    Examples:
        >>> @app.task(bind=True)
        ... @single_instance(key="user:<user_id>")
        ... def sync_user(self, user_id, full=False): ...
    """
    checked_options(options)
    if "scope" in options:
        check_call_side(options.get("on_contention"), options["scope"])

    def decorate(target: Any) -> Any:
        kind = type(target)  # isinstance() would evaluate a proxy, and the app with it
        if kind is PromiseProxy:
            target.__then__(lambda: lock_task(target._get_current_object(), options))
        elif kind is Proxy:
            _when_finalized(target, options)
        elif inspect.isclass(target) and issubclass(target, Task):
            return _locked_class(target, options)
        elif isinstance(target, Task):
            lock_task(target, options)
        elif callable(target):
            _mark(target, options)
        else:
            raise LockConfigError(f"single_instance decorates functions and tasks, not {target!r}")
        return target

    return decorate if target is None else decorate(target)


def lock_task(task: Task, options: Mapping[str, Any]) -> None:
    """Make a task that exists a locked one.

    A task that can't be locked refuses every call and run from then on: the process may catch the error and go on.
    """
    try:
        task.__class__ = _locked_class(type(task), options)
        for cached in ("lock_options", "lock_terms", "lock_run_policy", "lock_in_scope"):
            vars(task).pop(cached, None)
        if task.__bound__:
            task.bind(task.app)
        lock_around_autoretry(task)
    except Exception as error:
        task.apply_async = task.run = partial(_refuse, error)
        raise


def _refuse(reason: Exception, *args: Any, **kwargs: Any) -> None:
    raise LockConfigError(str(reason)) from reason


def _locked_class(cls: type[Task], options: Mapping[str, Any]) -> type[Task]:
    attributes = {TASK_PREFIX + name: _as_attribute(value) for name, value in options.items()}
    attributes |= {"__module__": cls.__module__, "__doc__": cls.__doc__, "abstract": cls.__dict__.get("abstract", True)}
    if issubclass(cls, LockedTask):
        return type(cls.__name__, (cls,), attributes)
    body = inspect.getattr_static(cls, "run")
    return type(cls.__name__, (LockedTask, cls), {**attributes, "run": body})


def _as_attribute(value: Any) -> Any:
    return staticmethod(value) if inspect.isfunction(value) else value


def _mark(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise LockConfigError(
            f"{function.__qualname__} is an async function: Celery doesn't run those, so it can't be locked. "
            "Make it a plain function, that may call asyncio.run()"
        )
    # Here and now, so that the error points at the decorator; ``self`` may be an argument or not.
    KeyMaker(options.get("key"), inspect.signature(function), function.__qualname__)
    setattr(function, MARK, options)


def _when_finalized(proxy: Any, options: Mapping[str, Any]) -> None:
    """Lock the task of a ``@shared_task`` in each app, when the app has made its shared tasks.

    An error must end the worker's start, so this is no receiver of Celery's signal ``on_after_finalize``: the signal
    logs what its receivers raise.
    """

    def lock(app: Celery) -> None:
        # The proxy stands for the task of the current app.
        before = _state._tls.current_app
        _state._set_current_app(app)
        try:
            lock_task(proxy._get_current_object(), options)
        finally:
            _state._set_current_app(before)

    # These callbacks make the shared tasks, in any order; what is pending then is evaluated after all of them.
    _state.connect_on_app_finalize(lambda app: app._pending.append(PromiseProxy(lambda: lock(app))))

    # Listed first: looking at the proxy may make another app.
    finalized = [app for app in _state._get_active_apps() if app.finalized]
    _do_all(partial(lock, app) for app in finalized)


def _do_all(steps: Iterable[Callable[[], object]]) -> None:
    """Take each step, also after an error. The first error is raised at the end."""
    errors = []
    for step in steps:
        try:
            step()
        except Exception as error:  # noqa: PERF203
            errors.append(error)
    if errors:
        raise errors[0]


def _lock_marked_functions() -> None:
    """Has Celery lock the tasks that it makes of marked functions.

    Celery offers no place for this: tasks are made late, by any app, of the bare function, and the class of each is
    made with them. Here each new task passes, before autoretry wraps its body; a function whose name is taken makes
    none and does not, and Celery's warning of it names the caller, as it would not with a frame of ours below.
    """
    add_autoretry = base.add_autoretry_behaviour

    @wraps(add_autoretry)
    def lock_and_add_autoretry(task: Task, **options: Any) -> None:
        lock_options = getattr(getattr(task, "__wrapped__", None), MARK, None)
        if lock_options is not None and MARK not in vars(task):
            setattr(task, MARK, lock_options)
            lock_task(task, lock_options)
        had_it = "_orig_run" in vars(task)
        add_autoretry(task, **options)
        if isinstance(task, LockedTask) and not had_it:
            lock_around_autoretry(task)

    base.add_autoretry_behaviour = lock_and_add_autoretry


def _finalize_all_tasks() -> None:
    """Have Celery make and lock all tasks of an app, also after one that raised an error.

    An app is finalized once. If the first error ended that, a process that catches it would have tasks that were made
    and never locked.
    """

    def steps(app: Celery) -> Iterable[Callable[[], object]]:
        for callback in set(_state._on_app_finalizers):
            yield partial(callback, app)
        while app._pending:
            yield partial(maybe_evaluate, app._pending.popleft())

    base._announce_app_finalized = lambda app: _do_all(steps(app))


_lock_marked_functions()
_finalize_all_tasks()
