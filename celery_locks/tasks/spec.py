"""Everything about the lock of a task. It is made once and checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from celery_locks import _logging
from celery_locks._validation import Terms
from celery_locks.errors import LockConfigError, LockError, LossReason
from celery_locks.keys.maker import KeyMaker
from celery_locks.lease import Lease
from celery_locks.settings import LockOptions
from celery_locks.tasks.options import check_effects
from celery_locks.tasks.policies.base import ContentionPolicy
from celery_locks.tasks.policies.basic import call_policy, check_policies, run_policy
from celery_locks.tasks.scopes import Scope, scope_named
from celery_locks.tasks.signatures import CallSignature

logger = _logging.logger(__name__)


@dataclass(frozen=True)
class TaskLock:
    """The lock of one task, with all its options.

    Attributes:
        task_name: The task's name.
        options: The task's own options, then those of the app, then the defaults.
        call_signature: How callers call the task; ``None`` for a task without a ``run()``.
    """

    task_name: str
    options: LockOptions
    call_signature: CallSignature | None

    @cached_property
    def key_maker(self) -> KeyMaker | None:
        """The maker of the keys of calls; ``None`` for a task without a ``run()``.

        Raises:
            LockKeyError: The key names no argument of the task.
        """
        call = self.call_signature
        return None if call is None else call.key_maker(self.options.key, self.task_name)

    @cached_property
    def terms(self) -> Terms:
        """The terms of each lease."""
        options = self.options
        return Terms(options.ttl, options.renew, options.max_hold, options.limit, options.permits)

    @cached_property
    def scope(self) -> Scope:
        """When leases are held."""
        return scope_named(self.options.scope)

    @cached_property
    def run_policy(self) -> ContentionPolicy:
        """The policy for a run that finds its key held."""
        return run_policy(self.options)

    @cached_property
    def call_policy(self) -> str:
        """The policy for a call that finds its key held."""
        return call_policy(self.options)

    def with_options(self, values: Mapping[str, Any]) -> TaskLock:
        """Return the lock of the same task with other values for some options, all checked.

        Args:
            values: The options of one call by name, such as ``{"ttl": 5}``.

        Raises:
            LockConfigError: A value is wrong or has no effect, or there is no option of a name.
            LockKeyError: The key names no argument of the task.
        """
        if not values:
            return self
        options = self.options.with_values(values)
        check_policies(options.on_contention)
        check_effects(options, values, self.task_name)
        made = TaskLock(self.task_name, options, self.call_signature)
        if "key" not in values:
            vars(made)["key_maker"] = self.key_maker
        return made.checked()

    def with_options_of_message(self, values: Mapping[str, Any]) -> TaskLock:
        """Return `with_options` of the options in a message. Options that are wrong since a deploy are left out."""
        made, kept = self, dict[str, Any]()
        for name, value in values.items():
            try:
                made = self.with_options({**kept, name: value})
                kept[name] = value
            except LockError as error:  # noqa: PERF203 - few options, and only those of a message
                logger.warning("an option in a message of %s is ignored: %s", self.task_name, error)
        return made

    def checked(self) -> TaskLock:
        """Return this lock after a check of its key.

        Raises:
            LockKeyError: The key names no argument of the task.
        """
        _ = self.key_maker
        return self

    def key_for(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Return the key of a call.

        Raises:
            LockKeyError: The arguments make no key.
            TypeError: The task does not take these arguments.
        """
        if self.key_maker is None:
            raise LockConfigError(f"{self.task_name} has no run() that could be locked")
        return self.key_maker.key(args, kwargs, self.task_name)


class TaskWithLock(Protocol):
    """The interface of `LockedTask` for the modules that it imports itself."""

    name: str
    app: Any
    request: Any
    backend: Any
    acks_late: bool
    ignore_result: bool
    send_events: bool
    AsyncResult: Any
    _get_exec_options: Any

    @property
    def lock_spec(self) -> TaskLock:
        """Everything about the task's lock."""

    @property
    def lock_options(self) -> LockOptions:
        """The task's options."""

    def locks_runs(self) -> bool:
        """Return whether runs of the task take a lease."""

    def lock_key_for(self, /, *args: Any, **kwargs: Any) -> str:
        """Return the key of a call."""

    def on_lock_lost(self, lease: Lease, reason: LossReason) -> None:
        """Handle the loss of a run's lease."""
