"""Where a task's lock options come from: the task, then the app's settings, then the defaults."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from os import PathLike
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery_locks.errors import LockConfigError
from celery_locks.locks import Locks
from celery_locks.settings import OPTION_NAMES, LockOptions
from celery_locks.tasks import telemetry
from celery_locks.tasks.lives import FOLDER
from celery_locks.tasks.policies import check_call_side, check_policies
from celery_locks.tasks.sending import CALL_TTL
from celery_locks.tasks.sweeper import SWEEP_INTERVAL
from celery_locks.terms import checked_ttl, did_you_mean

if TYPE_CHECKING:
    from celery_locks.tasks.task import LockedTask

TASK_PREFIX = "lock_"
APP_PREFIX = "locks_"
#: Attributes of `LockedTask` that are no options.
_NO_OPTIONS = {"key_for", "options", "terms", "in_scope", "run_policy"}
#: Options that mean something only for one task.
_TASK_ONLY = {"key", "limit", "permits"}
_APP_OPTIONS = tuple(name for name in OPTION_NAMES if name not in _TASK_ONLY)
#: Setting: whether the worker's parent parks messages, see `celery_locks.tasks.early`.
PARK_BEFORE_POOL = "locks_park_before_pool"
_APP_SETTINGS = (
    *(APP_PREFIX + name for name in _APP_OPTIONS),
    "locks_url",
    "locks_prefix",
    SWEEP_INTERVAL,
    CALL_TTL,
    FOLDER,
    PARK_BEFORE_POOL,
    *telemetry.SETTINGS,
)

_locks: WeakKeyDictionary[Any, Locks] = WeakKeyDictionary()


def locks_for(app: Any) -> Locks:
    """The locks of an app, made once a process.

    Raises:
        LockConfigError: The app's settings name no store.
    """
    locks = _locks.get(app)
    return _locks.setdefault(app, Locks.from_app(app)) if locks is None else locks


def is_celerys_own(name: str) -> bool:
    """Return whether a task is one of Celery's, which are never locked (also with ``task_cls=LockedTask``)."""
    return name.startswith("celery.")


def options_of(task: type[LockedTask], conf: Mapping[str, Any]) -> LockOptions:
    """Return all options of a task.

    Raises:
        LockConfigError: A setting is wrong, or an option has no effect in the task's scope.
    """
    own = options_of_class(task)
    options = checked_options({**_options_of_app(conf), **own})
    # Both sides as a setting of the app are for tasks of all scopes.
    if "on_contention" in own or not isinstance(options.on_contention, Mapping):
        check_call_side(options.on_contention, options.scope, task.name)
    return options


def checked_options(values: Mapping[str, Any]) -> LockOptions:
    """Return options from their values by name, all checked.

    Raises:
        LockConfigError: A value is wrong, or there is no such option.
    """
    options = LockOptions().with_values(values)
    check_policies(options.on_contention)
    return options


def options_of_class(cls: type) -> dict[str, Any]:
    """The options that a task class sets by its ``lock_…`` attributes.

    Raises:
        LockConfigError: An attribute with this prefix is no option's.
    """
    values: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            name = attribute.removeprefix(TASK_PREFIX)
            if name == attribute or name in _NO_OPTIONS:
                continue
            if name in OPTION_NAMES:
                values[name] = _plain(value)
            elif not _is_method(value):
                raise LockConfigError(
                    f"{cls.__name__}.{attribute} is no lock option"
                    f"{did_you_mean(attribute, [TASK_PREFIX + known for known in OPTION_NAMES])}"
                )
    return values


def check_settings(conf: Mapping[str, Any]) -> None:
    """Checks the app's ``locks_…`` settings.

    Raises:
        LockConfigError: One is wrong, or is no setting of ours.
    """
    for name in conf:
        if name.startswith(APP_PREFIX) and name not in _APP_SETTINGS:
            raise LockConfigError(f"there is no setting {name}{did_you_mean(name, _APP_SETTINGS)}")
    checked_options(_options_of_app(conf))
    for name in (SWEEP_INTERVAL, CALL_TTL):
        if name in conf:
            checked_ttl(conf[name], name)
    if not isinstance(conf.get(FOLDER), (str, PathLike, type(None))):
        raise LockConfigError(f"{FOLDER} is a folder's path, not {conf[FOLDER]!r}")
    telemetry.check(conf)
    if not isinstance(conf.get(PARK_BEFORE_POOL, False), bool):
        raise LockConfigError(f"{PARK_BEFORE_POOL} is True or False, not {conf[PARK_BEFORE_POOL]!r}")


def _options_of_app(conf: Mapping[str, Any]) -> dict[str, Any]:
    return {name: conf[APP_PREFIX + name] for name in _APP_OPTIONS if APP_PREFIX + name in conf}


def _plain(value: Any) -> Any:
    return value.__func__ if isinstance(value, staticmethod) else value


def _is_method(value: Any) -> bool:
    return inspect.isroutine(value) or isinstance(value, (property, MemberDescriptorType, staticmethod, classmethod))
