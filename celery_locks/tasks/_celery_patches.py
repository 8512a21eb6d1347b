"""The one place that replaces functions of Celery and kombu.

Each replacement is a row of `PATCHES`: the function, the parameters on which the replacement relies, the releases for
which that was checked, and why Celery's public interface is not enough. `PRIVATE_NAMES` lists the private names that
this package reads, most of them here. ``tests/tasks/test_celery_patches.py`` compares both tables with the installed
release.

This module knows nothing about locks: other modules give it functions to call.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from types import FunctionType
from typing import Any, NamedTuple

from celery import Celery, Task, _state
from celery.app import base
from celery.local import PromiseProxy, maybe_evaluate
from celery.utils.functional import maybe_list
from celery.utils.log import get_logger


class Patch(NamedTuple):
    """A function of Celery or kombu that this library replaces.

    Attributes:
        target: Module and name, as ``"celery.app.base:add_autoretry_behaviour"``.
        parameters: The parameters of the original on which the replacement relies, in their order.
        versions: The releases of Celery for which this was checked.
        why: What the replacement is for.
        install: Replaces the original. Its argument is the function that the replacement calls.
    """

    target: str
    parameters: tuple[str, ...]
    versions: str
    why: str
    install: Callable[..., object]


def install_for_new_tasks(before_autoretry: Callable[[Task], None], after_autoretry: Callable[[Task], None]) -> None:
    """Call a function with each new task before autoretry wraps its ``run()``, and one after.

    If the name of a task is taken, Celery makes none and calls neither function. Its warning then names the right
    caller, because no frame of this library lies in between.
    """
    add_autoretry = base.add_autoretry_behaviour

    @wraps(add_autoretry)
    def add_autoretry_behaviour(task: Task, **options: Any) -> None:
        before_autoretry(task)
        had_autoretry = has_autoretry(task)
        add_autoretry(task, **options)
        if not had_autoretry:
            after_autoretry(task)

    base.add_autoretry_behaviour = add_autoretry_behaviour


def install_for_finalize(on_finalize: Callable[[Celery], object]) -> None:
    """Call a function with each app that is finalized, then make all its tasks, also after one that raised an error.

    The first error is raised at the end.
    """

    def tasks_of(app: Celery) -> Iterator[Callable[[], object]]:
        for callback in set(_state._on_app_finalizers):
            yield partial(callback, app)
        while app._pending:
            yield partial(maybe_evaluate, app._pending.popleft())

    @wraps(base._announce_app_finalized)
    def announce_app_finalized(app: Celery) -> None:
        on_finalize(app)
        call_all(tasks_of(app))

    base._announce_app_finalized = announce_app_finalized


def install_for_revokes(on_revoke: Callable[[Celery, Iterable[str]], object]) -> None:
    """Call a function after each control command that revokes tasks. Installs once in a process."""
    from celery.worker.control import Panel  # imports much that only workers need

    def replacement(command: Callable[..., Any], position: int) -> Callable[..., Any]:
        @wraps(command)
        def revoke(state: Any, *args: Any, **kwargs: Any) -> Any:
            answer = command(state, *args, **kwargs)
            task_ids = kwargs.get("task_id") or args[position : position + 1]
            on_revoke(state.app, maybe_list(task_ids) or ())
            return answer

        return revoke

    for name, position in (("revoke", 0), ("terminate", 1)):
        if Panel.data[name] not in _revoke_replacements:
            Panel.data[name] = replacement(Panel.data[name], position)
            _revoke_replacements.add(Panel.data[name])


_revoke_replacements: set[Any] = set()


def install_log_filter(mark: str) -> None:
    """Leave out Celery's log lines about exceptions whose ``repr()`` begins with a mark."""

    def is_logged(record: logging.LogRecord) -> bool:
        data = getattr(record, "data", None)
        return not (isinstance(data, Mapping) and str(data.get("exc", "")).startswith(mark))

    get_logger("celery.app.trace").addFilter(is_logged)


def call_with_client(channel: Any, client: Any, function: Callable[[], object]) -> None:
    """Call a function while a channel of kombu's Redis transport uses another client.

    It is an attribute of this one channel, which no other thread uses meanwhile. It is no context manager: a signal
    handler could raise in the code of one, before the block or after it, and leave the attribute in place.
    """
    channel.conn_or_acquire = lambda given=None: nullcontext(client)
    try:
        function()
    finally:
        del channel.conn_or_acquire


PATCHES = (
    Patch(
        "celery.app.base:add_autoretry_behaviour",
        ("task", "options"),
        "5.5-5.7",
        "Celery makes tasks late, in any app, of the bare function and with a class of their own. This is the only "
        "function that gets each new task before autoretry wraps its run().",
        install_for_new_tasks,
    ),
    Patch(
        "celery.app.base:_announce_app_finalized",
        ("app",),
        "5.5-5.7",
        "An app is finalized once, and the first error ends that. A process that catches the error would have tasks "
        "that were made and never locked.",
        install_for_finalize,
    ),
    Patch(
        "celery.worker.control:Panel.data.revoke",
        ("state", "task_id", "terminate", "signal", "kwargs"),
        "5.5-5.7",
        "A task that is revoked while its message waits at the broker, or in a store's line, sends no signal.",
        install_for_revokes,
    ),
    Patch(
        "celery.worker.control:Panel.data.terminate",
        ("state", "signal", "task_id", "kwargs"),
        "5.5-5.7",
        "As for revoke.",
        install_for_revokes,
    ),
    Patch(
        "celery.app.trace:TraceInfo._log_error",
        ("self", "task", "req", "einfo"),
        "5.5-5.7",
        'Celery logs "ignored" for each run that was deferred or parked. This library logs what happened.',
        install_log_filter,
    ),
    Patch(
        "kombu.transport.redis:Channel.conn_or_acquire",
        ("self", "client"),
        "5.5-5.7",
        "kombu pushes a message behind all others in the queue. A task whose turn has come has waited before, and "
        "other tasks wait for it.",
        call_with_client,
    ),
)

#: Private names of Celery that this package reads.
PRIVATE_NAMES = (
    "celery._state:_get_active_apps",
    "celery._state:_on_app_finalizers",
    "celery._state:_set_current_app",
    "celery._state:_task_stack.stack",
    "celery._state:_tls.current_app",
    "celery._state:connect_on_app_finalize",
    "celery.app.base:pydantic_wrapper",
    "celery.app.task:Task.__bound__",
    "celery.app.task:Task._get_exec_options",
    "celery.local:PromiseProxy.__evaluated__",
    "celery.local:PromiseProxy.__then__",
    "celery.local:Proxy._Proxy__args",
    "celery.local:Proxy._Proxy__kwargs",
    "celery.local:Proxy._Proxy__local",
    "celery.worker.strategy:default",
)


# Apps -----------------------------------------------------------------------------------------------------------------


def call_when_tasks_are_made(callback: Callable[[Celery], object]) -> None:
    """Call a function with each app that is finalized later, when the app has made its tasks.

    An error ends the worker's start, as it should. Celery's signal ``on_after_finalize`` would log it instead.
    """
    # Some of these functions make shared tasks, in any order. Celery evaluates pending promises after all of them.
    _state.connect_on_app_finalize(lambda app: app._pending.append(PromiseProxy(lambda: callback(app))))


def active_apps() -> list[Celery]:
    """Return all apps of this process."""
    return list(_state._get_active_apps())


@contextmanager
def as_current_app(app: Celery) -> Iterator[None]:
    """Make an app the current one of this thread within the block."""
    before = _state._tls.current_app
    _state._set_current_app(app)
    try:
        yield
    finally:
        _state._set_current_app(before)


def call_all(functions: Iterable[Callable[[], object]]) -> None:
    """Call each function, also after one that raised an error. The first error is raised at the end."""
    errors = []
    for function in functions:
        try:
            function()
        except Exception as error:  # noqa: PERF203
            errors.append(error)
    if errors:
        raise errors[0]


# Tasks ----------------------------------------------------------------------------------------------------------------


def change_class(task: Task, cls: type[Task]) -> None:
    """Give an existing task another class. Celery makes tasks late, and with classes of their own."""
    task.__class__ = cls
    if task.__bound__:
        task.bind(task.app)


def origin_of(task: Any) -> tuple[Any, str | None, Celery | None]:
    """Return the function that a task, or a proxy for one, is made of; its name if it was given; and its app."""
    if type(task) is PromiseProxy and not task.__evaluated__():
        make_task = object.__getattribute__(task, "_Proxy__local")
        (function,) = object.__getattribute__(task, "_Proxy__args")
        return function, object.__getattribute__(task, "_Proxy__kwargs").get("name"), make_task.__self__
    task = task._get_current_object() if type(task) is PromiseProxy else task
    function = function_of(task)
    if function is None:
        return None, None, None
    implied_name = task.app.gen_task_name(function.__name__, function.__module__)
    return function, None if task.name == implied_name else task.name, task.app


def function_of(task: Task) -> Any:
    """Return the function that ``@app.task`` was given; ``None`` for a task of a class."""
    names = ("_decorated_fun", "__wrapped__")  # the first one is new in Celery 5.7
    found = (inspect.getattr_static(type(task), name, None) for name in names)
    function: Any = next(filter(None, found), None)
    function = getattr(function, "__func__", function)
    return function.__wrapped__ if is_pydantic_wrapper(function) else function


def is_made_of_function(cls: type[Task]) -> bool:
    """Return whether Celery made this class itself, of a function."""
    return "_decorated" in vars(cls)


def task_in(app: Celery, function: Any, name: str | None) -> Task | None:
    """Return the task that an app has made of a function, ``None`` if it has made none."""
    task = app._tasks.get(name or app.gen_task_name(function.__name__, function.__module__))
    return task if task is not None and function_of(task) is function else None


def has_autoretry(task: Task) -> bool:
    """Return whether autoretry is around the ``run()`` of a task."""
    return "_orig_run" in vars(task)


def wrap_autoretry(task: Task, call: Callable[..., Any]) -> None:
    """Put a function around autoretry, which Celery puts around the body as an attribute of the task.

    Args:
        task: The task. One without autoretry is left alone.
        call: Called with the task, the function that autoretry made, and the arguments as a tuple and a dictionary.
    """
    if not has_autoretry(task):
        return
    autoretry = task.run

    @wraps(autoretry)
    def run(*args: Any, **kwargs: Any) -> Any:
        return call(task, autoretry, args, kwargs)

    # Autoretry calls this attribute. It may still be the run() of the class that the task had before.
    task._orig_run = inspect.getattr_static(type(task), "run").__get__(task, type(task))
    task.run = run


def calling_task() -> str | None:
    """Return the name of the task that called the one that runs now, ``None`` if no task did."""
    stack = _state._task_stack.stack
    return stack[-2].name if len(stack) > 1 else None


def is_pydantic_wrapper(function: Any) -> bool:
    """Return whether Celery made this function for ``pydantic=True``."""
    is_celerys = isinstance(function, FunctionType) and function.__globals__.get("__name__") == base.__name__
    return is_celerys and "__wrapped__" in vars(function)


def pydantic_validation(function: Any) -> Callable[[Any, Any], Any] | None:
    """Return how Celery makes a model of a value for the body of a task, ``None`` without ``pydantic=True``.

    The strictness and the context are those of the task.
    """
    function = getattr(function, "__func__", function)
    if not is_pydantic_wrapper(function):
        return None
    names = dict(inspect.getclosurevars(function).nonlocals)
    inner = names.get("validate_argument")  # new in Celery 5.7
    if isinstance(inner, FunctionType):
        names |= inspect.getclosurevars(inner).nonlocals
    strict, context = names.get("strict"), dict(names.get("context") or {})
    context |= {"celery_app": names.get("app"), "celery_task_name": names.get("task_name")}
    return lambda model, value: model.model_validate(value, strict=strict, context=context)
