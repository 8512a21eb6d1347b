"""`LockedTask`, the base class of tasks that take a lease."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cached_property, partial, wraps
from importlib import import_module
from typing import Any

from celery import Task
from celery.exceptions import Retry
from kombu.exceptions import EncodeError

from celery_locks.backoff import Backoff
from celery_locks.errors import LockConfigError, LockKeyError, LossReason
from celery_locks.keys import KeyMaker
from celery_locks.lease import Lease
from celery_locks.settings import LockOptions, OnLost, ScopeName
from celery_locks.tasks import calls
from celery_locks.tasks.contention import ContentionPolicy
from celery_locks.tasks.events import TaskEventsStep
from celery_locks.tasks.header import ours_alone
from celery_locks.tasks.option_types import Duration, Key, OnContention
from celery_locks.tasks.options import checked_options, is_celerys_own, options_of, options_of_class
from celery_locks.tasks.policies import run_policy
from celery_locks.tasks.retry import PostponedRetry
from celery_locks.tasks.run import run_around, run_locked, run_of
from celery_locks.tasks.scopes import Scope, scope_named
from celery_locks.tasks.worker import LocksStep
from celery_locks.terms import Terms

if "celery.worker.control" in sys.modules:  # in the ``celery`` command, which asks workers what it knows itself
    import_module("celery_locks.tasks.inspection")


class UnkeyableArguments(LockKeyError, EncodeError):
    """A call whose arguments make no key, found before its message is sent.

    Also kombu's error for arguments that can't be sent: where Celery sends a chain's next task for a worker, it takes
    that one for the failure of the task before, instead of leaving the chain without an end.
    """


class LockedTask(Task):
    """A task that runs once at a time for each key.

    Options are attributes with the prefix ``lock_`` (see `LockOptions`); those left out come from the app's settings
    with the prefix ``locks_``.

    Examples:
        >>> @app.task(base=LockedTask, lock_key="shop:<shop_id>", lock_ttl=60)
        ... def resync(shop_id, page=1): ...
    """

    # These have no values here: what a class does not set comes from its bases, then from the settings.
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
    lock_enabled: bool

    abstract = True
    Strategy = "celery_locks.tasks.early:strategy"
    _key_maker: KeyMaker | None = None
    #: Whether the task itself says that it is locked or not.
    _enabled: bool | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        values = options_of_class(cls)
        options = checked_options(values)
        cls._enabled = values.get("enabled")
        if "run" in vars(cls):
            cls.run = _locked(cls, vars(cls)["run"])
        body = getattr(cls.run, "locked_body", None)
        if body is not None:
            name = getattr(cls, "name", None)
            cls._key_maker = KeyMaker(options.key, _signature(body), name)

    @classmethod
    def bind(cls, app: Any) -> Any:
        """Connect the task to its app (Celery calls it).

        Raises:
            LockConfigError: A policy has no effect in the task's scope.
        """
        app.steps["worker"].add(LocksStep)
        app.steps["consumer"].add(TaskEventsStep)
        bound = super().bind(app)
        # The scope may be a setting of the app.
        if "on_contention" in options_of_class(cls) and not is_celerys_own(cls.name):
            options_of(cls, app.conf)
        return bound

    @cached_property
    def lock_options(self) -> LockOptions:
        """The options of this task: its own, the app's, the defaults. Read once.

        Raises:
            LockConfigError: A setting is wrong.
        """
        return options_of(type(self), self.app.conf)

    @cached_property
    def lock_terms(self) -> Terms:
        """The terms of this task's leases."""
        options = self.lock_options
        return Terms(options.ttl, options.renew, options.max_hold, options.limit, options.permits)

    @cached_property
    def lock_run_policy(self) -> ContentionPolicy:
        """What happens to a run that finds its key held."""
        return run_policy(self.lock_options)

    @cached_property
    def lock_in_scope(self) -> Scope:
        """When this task's leases are held."""
        return scope_named(self.lock_options.scope)

    @property
    def lease(self) -> Lease | None:
        """The lease under which this task runs now, ``None`` when it doesn't."""
        run = run_of(self)
        return None if run is None else run.lease

    def lock_key_for(self, /, *args: Any, **kwargs: Any) -> str:
        """The key of a call with these arguments.

        Raises:
            LockKeyError: They make none.
            TypeError: The task does not take them.
        """
        if self._key_maker is None:
            raise LockConfigError(f"{self.name} has no run() that could be locked")
        return self._key_maker.key(args, kwargs, self.name)

    def locks_runs(self) -> bool:
        """Whether runs of this task take a lease: not Celery's own tasks, and not with ``enabled`` off."""
        enabled = self._enabled
        if enabled is None:
            # What is set now is read each time, so that tests can switch all locking off and on again. A lookup in all
            # of the settings would take longer than the rest of a run together.
            enabled = self.app.conf.changes.get("locks_enabled")
            if enabled is None:  # read, and kept, only where nothing is changed: a change may be taken back
                enabled = self._configured_enabled
        return enabled and not is_celerys_own(self.name)

    @cached_property
    def _configured_enabled(self) -> bool:
        return bool(self.app.conf.get("locks_enabled", True))

    def on_lock_lost(self, lease: Lease, reason: LossReason) -> None:
        """Called once when the lease of a run is lost, by the thread that notices. For subclasses to override.

        Args:
            lease: The lease.
            reason: Why it was lost.
        """

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Sends the task, as Celery does; in a scope that begins at the call it takes the lease first.

        Returns:
            The result of the task, or of the one that holds the key.

        Raises:
            LockKeyError: Its arguments make no key; no message was sent.
            LockContended: Others hold the key.
            StoreUnavailable: The lock store is away; no message was sent.
        """
        options = {**dict(zip(calls.POSITIONAL, rest, strict=False)), **options}
        key = self._key_of_call(args, kwargs)
        if key is not None and self.lock_in_scope.call and calls.is_new_call(self, options):
            send = partial(super().apply_async, args, kwargs)
            return calls.call(self, key, lambda options: send(**options), options)
        return super().apply_async(args, kwargs, **options)

    def _key_of_call(self, args: Any, kwargs: Any) -> str | None:
        if not self.locks_runs():
            return None
        try:
            return self.lock_key_for(*(args or ()), **(kwargs or {}))
        except TypeError:
            return None  # Celery's own check says it better, or the task does without.
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
        """Retries the task, as Celery does; the message is sent when the lease has been given back."""

        def retry(throw: bool) -> Retry:
            if "headers" in options:  # they are all that the message gets
                options["headers"] = {**(options["headers"] or {}), **ours_alone(self.request)}
            return super(LockedTask, self).retry(
                args, kwargs, exc, throw, eta=eta, countdown=countdown, max_retries=max_retries, **options
            )

        run, most = run_of(self), self.max_retries if max_retries is None else max_retries
        last = most is not None and self.request.retries >= most
        if run is None or last or self.request.is_eager or self.request.called_directly:
            return retry(throw)
        if not eta and countdown is None:
            countdown = self.default_retry_delay
        postponed = PostponedRetry(lambda: retry(throw=False), exc, calls.pause_of(self.app, eta, countdown))
        run.postponed.append(postponed)
        if throw:
            raise postponed
        return postponed


def _locked(cls: type, body: Any) -> Callable[..., Any]:
    """The ``run`` of a class, wrapped; ``body`` is as it stands in the class."""
    function = getattr(body, "__func__", body)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise LockConfigError(
            f"{cls.__name__} is an async function: Celery doesn't run those, so it can't be locked. "
            "Make it a plain function, that may call asyncio.run()"
        )

    @wraps(function)
    def run(self: LockedTask, /, *args: Any, **kwargs: Any) -> Any:
        return run_locked(self, body.__get__(self, type(self)), args, kwargs)

    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    signature = _signature(body)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != "self"]
    run.__signature__ = signature.replace(parameters=[me, *parameters])  # type: ignore[attr-defined]
    run.locked_body = body  # type: ignore[attr-defined]
    return run


def lock_around_autoretry(task: LockedTask) -> None:
    """Has the lease of a run last until autoretry, which Celery puts around the body, has sent the retry."""
    if "_orig_run" not in vars(task):
        return
    autoretry = task.run

    @wraps(autoretry)
    def run(*args: Any, **kwargs: Any) -> Any:
        return run_around(task, autoretry, args, kwargs)

    task._orig_run = type(task).run.__get__(task)
    task.run = run


def _signature(body: Any) -> inspect.Signature:
    """The signature of a body without ``self``."""
    if isinstance(body, staticmethod):
        return inspect.signature(body.__func__)
    signature = inspect.signature(body)
    return signature.replace(parameters=list(signature.parameters.values())[1:])
