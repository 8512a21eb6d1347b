"""`single_instance`, the decorator, below ``@app.task`` or above it."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, TypeVar, overload

from celery import Celery, Task, _state
from celery.app import base
from celery.local import PromiseProxy, Proxy, maybe_evaluate

from celery_locks.errors import LockConfigError
from celery_locks.tasks.marks import MARK, Mark, MarksStep, check_not_marked, mark_of, new_mark
from celery_locks.tasks.options import DECORATED, TASK_PREFIX, checked_options
from celery_locks.tasks.policies.choice import check_call_side
from celery_locks.tasks.signatures import call_signature, is_async, is_celerys_pydantic_wrapper
from celery_locks.tasks.task import LockedTask, check_lockable, lock_around_autoretry, prepare

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from celery_locks.tasks.option_types import LockKeywords

F = TypeVar("F", bound=Callable[..., Any])

#: Names that a base class of the user's own can't have: this library reads them on every locked task.
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
        target: The key, as a template; or the function, task or task class, which the decorator without parentheses
            gives.
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
            _when_finalized(target, new_mark(options))
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
    """Make a task that exists a locked one.

    A task that can't be locked refuses every call and run from then on: the process may catch the error and go on.
    """
    mark.used = True
    if vars(type(task)).get(MARK) is mark:
        return
    try:
        task.__class__ = _locked_class(type(task), mark)
        vars(task).pop("_locks_spec", None)
        if task.__bound__:
            task.bind(task.app)
        lock_around_autoretry(task)
    except Exception as error:
        task.apply_async = task.run = partial(_refuse, error)
        raise


def _refuse(reason: Exception, *args: Any, **kwargs: Any) -> None:
    raise LockConfigError(str(reason)) from reason


def _locked_class(cls: type[Task], mark: Mark) -> type[Task]:
    """Return the class of a locked task. What the user's class has comes before what `LockedTask` has.

    Raises:
        LockConfigError: The class is decorated already, or can't be locked.
    """
    mark.used = True
    check_not_decorated(vars(cls).get(MARK), mark, cls.__qualname__)
    attributes = {TASK_PREFIX + name: _as_attribute(value) for name, value in mark.options.items()}
    attributes |= {"__module__": cls.__module__, "__doc__": cls.__doc__, "abstract": cls.__dict__.get("abstract", True)}
    attributes |= {MARK: mark, DECORATED: cls}
    if issubclass(cls, LockedTask):
        return _new_class(cls, (cls,), attributes)
    taken = [name for name in _RESERVED if hasattr(cls, name)]
    if taken:
        raise LockConfigError(f"{cls.__qualname__} has an attribute {taken[0]}, which locked tasks use: rename it")
    return _new_class(cls, (cls, LockedTask), attributes)


def _new_class(cls: type[Task], bases: tuple[type, ...], attributes: dict[str, Any]) -> type[Task]:
    made: type[Task] = types.new_class(cls.__name__, bases, exec_body=lambda names: names.update(attributes))
    made.__qualname__ = cls.__qualname__
    prepare(made)  # the user's class may have an __init_subclass__() of its own
    check_lockable(made)
    return made


def _as_attribute(value: Any) -> Any:
    return staticmethod(value) if inspect.isfunction(value) else value


def check_not_decorated(present: Any, mark: Mark, name: str) -> None:
    """Check that a function or task has no other mark.

    Raises:
        LockConfigError: It has one.
    """
    if isinstance(present, Mark) and present is not mark:
        raise LockConfigError(
            f"{name} has two single_instance decorators, and a task has one lock: put all options into one of them"
        )


def _mark(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    if is_async(function):
        raise LockConfigError(
            f"{name} is an async function: Celery doesn't run those, so it can't be locked. "
            "Make it a plain function, that may call asyncio.run()"
        )
    mark = new_mark(options, function)
    check_not_decorated(mark_of(function), mark, name)
    # Here and now, so that the error points at the decorator; ``self`` may be an argument or not.
    call_signature(function).key_maker(options.get("key"), name)
    try:
        setattr(function, MARK, mark)
    except AttributeError:
        raise LockConfigError(
            f"single_instance can't mark {name}, which takes no attributes: write a function that calls it"
        ) from None


def _lock_in_other_apps(target: Any, mark: Mark) -> None:
    """Lock the task that other apps make of the same function, when they have made it.

    ``@app.task`` shares its function with all apps that are finalized later.
    """

    def lock(app: Celery) -> None:
        function, name, home = _origin(target)
        if function is None or app is home:
            return
        task = app._tasks.get(name or app.gen_task_name(function.__name__, function.__module__))
        if task is not None and _function_of(task) is function and mark_of_task(task) is None:
            lock_task(task, mark)

    _state.connect_on_app_finalize(lambda app: app._pending.append(PromiseProxy(lambda: lock(app))))


def _origin(target: Any) -> tuple[Any, str | None, Celery | None]:
    """Return the function that a task, or a proxy for one, is made of; its name if it was given; and its app."""
    if type(target) is PromiseProxy and not target.__evaluated__():
        make = object.__getattribute__(target, "_Proxy__local")
        (function,) = object.__getattribute__(target, "_Proxy__args")
        return function, object.__getattribute__(target, "_Proxy__kwargs").get("name"), make.__self__
    task = target._get_current_object() if type(target) is PromiseProxy else target
    function = _function_of(task)
    if function is None:
        return None, None, None
    implied = task.app.gen_task_name(function.__name__, function.__module__)
    return function, None if task.name == implied else task.name, task.app


def _function_of(task: Task) -> Any:
    """Return the function that ``@app.task`` was given; ``None`` for a task of a class."""
    function = inspect.getattr_static(type(task), "_decorated_fun", None) or inspect.getattr_static(
        type(task), "__wrapped__", None
    )
    function = getattr(function, "__func__", function)
    return function.__wrapped__ if is_celerys_pydantic_wrapper(function) else function


def mark_of_task(task: Task) -> Mark | None:
    """Return the mark that has locked a task."""
    return next((mark for each in type(task).__mro__ if (mark := vars(each).get(MARK)) is not None), None)


def _when_finalized(proxy: Any, mark: Mark) -> None:
    """Lock the task of a ``@shared_task`` in each app, when the app has made its shared tasks.

    An error must end the worker's start, so this is no receiver of Celery's signal ``on_after_finalize``: the signal
    logs what its receivers raise.
    """

    def lock(app: Celery) -> None:
        # The proxy stands for the task of the current app.
        before = _state._tls.current_app
        _state._set_current_app(app)
        try:
            lock_task(proxy._get_current_object(), mark)
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
        mark = mark_of(inspect.getattr_static(type(task), "__wrapped__", None))
        if mark is not None:
            lock_task(task, mark)
        elif "_decorated" not in vars(type(task)) and not isinstance(task, LockedTask):
            check_not_marked(inspect.getattr_static(type(task), "run"), type(task).__qualname__)
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

    def announce(app: Celery) -> None:
        app.steps["worker"].add(MarksStep)
        _do_all(steps(app))

    base._announce_app_finalized = announce


_lock_marked_functions()
_finalize_all_tasks()
