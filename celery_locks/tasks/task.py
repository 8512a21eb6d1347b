"""`LockedTask`, the base class of tasks that take a lease."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cached_property, wraps
from importlib import import_module
from types import CoroutineType
from typing import Any

from celery import Task
from celery.exceptions import Retry
from celery.utils import uuid
from kombu.exceptions import EncodeError

from celery_locks.backoff import Backoff
from celery_locks.errors import LockConfigError, LockError, LockKeyError, LossReason
from celery_locks.lease import Lease
from celery_locks.locks import app_store
from celery_locks.settings import OPTION_NAMES, LockOptions, OnLost, ScopeName
from celery_locks.tasks import call
from celery_locks.tasks._celery_patches import is_made_of_function
from celery_locks.tasks.events import TaskEventsStep
from celery_locks.tasks.marks import check_not_marked
from celery_locks.tasks.messages.header import fields_in, number_messages_of, our_header_of, with_fields
from celery_locks.tasks.option_types import Duration, Key, OnContention
from celery_locks.tasks.options import (
    TASK_PREFIX,
    call_options,
    check_attribute,
    checked_options,
    is_celerys_own,
    is_option,
    options_of,
    options_of_class,
)
from celery_locks.tasks.retry import PostponedRetry
from celery_locks.tasks.run import run_locked, run_of
from celery_locks.tasks.scopes import scope_named
from celery_locks.tasks.signatures import CallSignature, async_error, call_signature, is_async
from celery_locks.tasks.spec import TaskLock
from celery_locks.tasks.worker.bootsteps import LocksStep
from celery_locks.tasks.worker.direct_dispatch import DirectDispatchStep

if "celery.worker.control" in sys.modules:  # the ``celery`` command sends only those commands that it has loaded
    import_module("celery_locks.tasks.worker.inspection")


class UnkeyableArguments(LockKeyError, EncodeError):
    """A call whose arguments make no key. Its message is not sent.

    Also kombu's error for arguments that can't be encoded. When a worker sends the next task of a chain, Celery handles
    that error: the previous task fails. Any other error would leave the chain without an end.
    """


class LockedTask(Task):
    """A task that runs once at a time for each key.

    Options are attributes with the prefix ``lock_``; see `LockOptions`. The app's settings with the prefix ``locks_``
    are the defaults.

    Examples:
        >>> @app.task(base=LockedTask, lock_key="shop:<shop_id>", lock_ttl=60)
        ... def resync(shop_id, page=1): ...
    """

    # No values here, because a value would replace the app's settings.
    lock_key: Key
    lock_ttl: Duration
    lock_renew: bool | Duration
    lock_max_hold: Duration | None
    lock_limit: int
    lock_permits: int
    lock_scope: ScopeName
    lock_on_contention: OnContention | Callable[..., Any]  # mypy takes a function here for a method
    lock_max_wait: Duration | None
    lock_max_waiters: int | None
    lock_park_safety_copy: bool | Duration
    lock_backoff: Backoff
    lock_on_lost: OnLost
    lock_store: str
    lock_enabled: bool

    abstract = True
    Strategy = "celery_locks.tasks.worker.strategy:strategy"
    #: How callers call the task; ``None`` for a class without a ``run()``.
    _locks_signature: CallSignature | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        prepare(cls)

    @classmethod
    def bind(cls, app: Any) -> Any:
        """Connect the task to its app. Celery calls this.

        Raises:
            LockConfigError: The task can't be locked, or an option has no effect.
        """
        app.steps["worker"].add(LocksStep)
        app.steps["consumer"].update((TaskEventsStep, DirectDispatchStep))
        bound = super().bind(app)
        prepare(cls)  # again, because the setting task_annotations may have set attributes or wrapped run()
        if not is_celerys_own(cls.name):
            number_messages_of(cls.name)
            check_lockable(cls)
            if options_of_class(cls):  # checked here, since the scope and the policy may be settings of the app
                check_calls(cls, options_of(cls, app.conf))
        return bound

    @property
    def lock_spec(self) -> TaskLock:
        """Everything about the lock of this task. Made at the first use, and again after an option was set.

        Raises:
            LockConfigError: A setting is wrong.
            LockKeyError: The key names no argument of the task.
        """
        cls = type(self)
        present = [getattr(self, name, None) for name in _ATTRIBUTES]
        cached: tuple[list[Any], TaskLock] | None = vars(self).get("_locks_spec")
        if cached is not None and all(map(_is_same, cached[0], present)):
            return cached[1]
        check_lockable(cls)
        options = options_of(cls, self.app.conf, vars(self))
        check_calls(cls, options)
        spec = TaskLock(self.name, options, self._locks_signature).checked()
        self.__dict__["_locks_spec"] = present, spec
        return spec

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith(TASK_PREFIX):
            super().__setattr__(name, value)
            return
        check_attribute(self, name, value)
        before = dict(vars(self))
        self.__dict__.pop("_locks_spec", None)
        super().__setattr__(name, value)
        if self.__bound__ and is_option(name) and not is_celerys_own(self.name):
            try:
                _ = self.lock_spec
            except LockError:
                self.__dict__.clear()
                self.__dict__.update(before)
                raise

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name.startswith(TASK_PREFIX):
            self.__dict__.pop("_locks_spec", None)

    @property
    def lock_options(self) -> LockOptions:
        """The options of this task: its own, then the app's, then the defaults.

        Raises:
            LockConfigError: A setting is wrong.
        """
        return self.lock_spec.options

    @property
    def lease(self) -> Lease | None:
        """The lease under which this task runs now, ``None`` when it runs under none."""
        run = run_of(self)
        return None if run is None else run.lease

    def lock_key_for(self, /, *args: Any, **kwargs: Any) -> str:
        """Return the key of a call with these arguments.

        Raises:
            LockKeyError: The arguments make no key.
            TypeError: The task does not take these arguments.
        """
        return self.lock_spec.key_for(args, kwargs)

    def locks_runs(self) -> bool:
        """Return whether runs of this task take a lease: not Celery's own tasks, and not with ``enabled=False``."""
        enabled = getattr(self, "lock_enabled", None)
        if enabled is None:
            # Changes are read at each run, so that tests can switch all locking off and on again. A lookup in all the
            # settings would take longer than the rest of a run, so the configured value is cached.
            enabled = self.app.conf.changes.get("locks_enabled")
            if enabled is None:
                enabled = self._locks_configured_enabled
        return enabled and not is_celerys_own(self.name)

    @cached_property
    def _locks_configured_enabled(self) -> bool:
        return bool(self.app.conf.get("locks_enabled", True))

    def on_lock_lost(self, lease: Lease, reason: LossReason) -> None:
        """Handle the loss of a run's lease. Does nothing unless a subclass overrides it.

        It is called once, by the thread that notices the loss.

        Args:
            lease: The lease.
            reason: Why the lease was lost.
        """

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Send the task, as Celery does. In a scope that begins at the call, acquire the lease first.

        Options with the prefix ``lock_``, such as ``lock_ttl=5``, replace the task's options for this call and its run.
        The message carries them, so they can't be functions or objects.

        Returns:
            The result of the task, or of the task that holds the key.

        Raises:
            LockConfigError: An option is wrong or has no effect; no message was sent.
            LockKeyError: The arguments make no key; no message was sent.
            LockContended: Others hold the key.
            StoreUnavailable: The store can't be reached; no message was sent.
        """
        options = {**dict(zip(call.POSITIONAL, rest, strict=False)), **options}
        overrides = call_options(options)
        if "store" in overrides:
            app_store(self.app.conf, overrides["store"])
        # A message that is sent again keeps the options of its call.
        message_options = {**fields_in(options.get("headers"), options.get("task_id")).get("options", {}), **overrides}
        publish = super().apply_async

        def send(options: dict[str, Any]) -> Any:
            return publish(args, kwargs, **(_with_call_options(options, message_options) if overrides else options))

        locked = message_options.get("enabled", self.locks_runs()) and not is_celerys_own(self.name)
        spec = self.lock_spec.with_options(message_options) if locked or overrides else None
        key = self._key_of_call(spec, args, kwargs) if spec is not None and locked else None
        if spec is not None and key is not None and spec.scope.call and call.is_new_call(self, options):
            return call.call(self, spec, key, send, options)
        return send(options)

    def apply(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Run the task in this process, as Celery does. Options with the prefix ``lock_`` replace the task's options.

        Raises:
            LockConfigError: An option is wrong or has no effect.
        """
        options = {**dict(zip(_POSITIONAL_OF_APPLY, rest, strict=False)), **options}
        overrides = call_options(options)
        if overrides:
            self.lock_spec.with_options(overrides)
            options = _with_call_options(options, overrides)
        return super().apply(args, kwargs, **options)

    def _key_of_call(self, spec: TaskLock, args: Any, kwargs: Any) -> str | None:
        try:
            return spec.key_for(args or (), kwargs or {})
        except TypeError:
            return None  # Celery checks the arguments too, unless the task has typing=False
        except LockKeyError as error:
            raise UnkeyableArguments(error.message, error.key) from error

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: Any = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Retry the task, as Celery does. The message is sent after the lease was released."""

        def retry(throw: bool) -> Retry:
            if "headers" in options:  # Celery sends these headers only
                options["headers"] = {**(options["headers"] or {}), **our_header_of(self.request)}
            return super(LockedTask, self).retry(
                args, kwargs, exc, throw, eta=eta, countdown=countdown, max_retries=max_retries, **options
            )

        run, limit = run_of(self), self.max_retries if max_retries is None else max_retries
        is_last = limit is not None and self.request.retries >= limit
        if run is None or is_last or self.request.is_eager or self.request.called_directly:
            return retry(throw)
        if not eta and countdown is None:
            countdown = self.default_retry_delay
        postponed = PostponedRetry(lambda: retry(throw=False), exc, call.pause_of(self.app, eta, countdown))
        run.postponed.append(postponed)
        if throw:
            raise postponed
        return postponed


#: The attributes that are options.
_ATTRIBUTES = tuple(TASK_PREFIX + name for name in OPTION_NAMES)
#: The positional parameters of `Task.apply`, after the arguments of the task.
_POSITIONAL_OF_APPLY = ("link", "link_error", "task_id", "retries", "throw", "logfile", "loglevel", "headers")


def prepare(cls: type[LockedTask]) -> None:
    """Lock the ``run()`` of a class and check its options. May be called again.

    Raises:
        LockConfigError: An option is wrong, or the body is async or decorated by itself.
        LockKeyError: The key names no argument of the task.
    """
    options = checked_options(options_of_class(cls))
    if not hasattr(cls.run, "locked_body") and cls.run is not Task.run:
        body = inspect.getattr_static(cls, "run")
        owner = next(base for base in cls.__mro__ if "run" in vars(base))
        if not is_made_of_function(owner):  # the function that Celery makes a class of may be marked
            check_not_marked(body, cls.__qualname__)
        cls.run = _locked(cls, body)
    body = getattr(cls.run, "locked_body", None)
    if body is not None:
        cls._locks_signature = call_signature(body, bound=_takes_task(body))
        cls._locks_signature.key_maker(options.key, getattr(cls, "name", None))


def _takes_task(body: Any) -> bool:
    """Return whether the first argument of a body is the task. The body is given as its class has it."""
    return hasattr(type(body), "__get__") and not isinstance(body, staticmethod)


def check_lockable(cls: type[Task]) -> None:
    """Check that each run of a class's tasks takes a lease.

    Raises:
        LockConfigError: Its class has a ``__call__()`` that Celery runs in place of ``run()``.
    """
    if getattr(cls, "lock_enabled", None) is False:
        return
    call: Any = inspect.getattr_static(cls, "__call__")
    if call is not Task.__call__ and not (cls.run is not Task.run and _mentions(call, {"run", "__call__", "super"})):
        raise LockConfigError(
            f"{cls.__qualname__}: Celery runs __call__() in place of run(), so no lease would be taken: name the body "
            "run(), or have __call__() call super().__call__()"
        )


def check_calls(cls: type[Task], options: LockOptions) -> None:
    """Check that calls of a class's tasks take a lease where their scope asks for one.

    Raises:
        LockConfigError: Its ``apply_async()`` does not call `LockedTask.apply_async`.
    """
    if not scope_named(options.scope).call:
        return
    for base in cls.__mro__[: cls.__mro__.index(LockedTask)]:
        override = vars(base).get("apply_async")
        if override is not None and not _mentions(override, {"super"}):
            raise LockConfigError(
                f"{base.__qualname__}.apply_async() does not call super().apply_async(), so calls of "
                f"{cls.__qualname__} would take no lease with scope={options.scope!r}"
            )


def _mentions(function: Any, names: set[str]) -> bool:
    """Return whether the code of a function uses one of the names; ``True`` if it has no code to read."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    todo = [code] if code is not None else []
    while todo:
        code = todo.pop()
        if names & {*code.co_names, *code.co_freevars}:
            return True
        todo += [each for each in code.co_consts if inspect.iscode(each)]
    return not hasattr(inspect.unwrap(function), "__code__")


def _is_same(one: Any, other: Any) -> bool:
    return one is other or (inspect.ismethod(one) and one == other)  # each access to a method makes a new object


def _with_call_options(options: dict[str, Any], lock_options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a call with the lock options of this call in the header of its message."""
    task_id = options.get("task_id") or uuid()
    headers = with_fields(options.get("headers"), id=task_id, options=lock_options)
    return {**options, "task_id": task_id, "headers": headers}


def _locked(cls: type, body: Any) -> Callable[..., Any]:
    """Return the wrapper of the ``run()`` of a class.

    Args:
        cls: The class.
        body: Its ``run()``, as the class has it: a function, a ``staticmethod`` or another descriptor.
    """
    function = getattr(body, "__func__", body)
    if is_async(function):
        raise async_error(cls.__name__)

    def bind(task: LockedTask) -> Any:
        return body.__get__(task, type(task)) if hasattr(type(body), "__get__") else body

    @wraps(function)
    def run(self: LockedTask, /, *args: Any, **kwargs: Any) -> Any:
        return _checked_result(run_locked(self, bind(self), args, kwargs))

    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = call_signature(function, bound=_takes_task(body)).signature
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    run.__signature__ = signature.replace(parameters=[me, *parameters])  # type: ignore[attr-defined]
    run.locked_body = body  # type: ignore[attr-defined]
    return run


def _checked_result(result: Any) -> Any:
    """Return the result of a run.

    Raises:
        LockConfigError: The result is a coroutine, which Celery does not run.
    """
    if isinstance(result, CoroutineType):
        result.close()
        raise LockConfigError(
            f"{result.__qualname__}() is async and was not run: Celery doesn't run coroutines. Make the body a plain "
            "function, that may call asyncio.run()"
        )
    return result
