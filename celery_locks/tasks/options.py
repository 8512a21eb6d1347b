"""The sources of a task's lock options: the task, then the app's settings, then the defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from types import MappingProxyType, MemberDescriptorType
from typing import Any
from weakref import WeakKeyDictionary

from celery_locks._validation import DEFAULT_STORE, did_you_mean
from celery_locks.backoff import Backoff
from celery_locks.errors import LockConfigError
from celery_locks.locks import Locks, app_store, store_names
from celery_locks.settings import OPTION_NAMES, LockOptions, checked
from celery_locks.tasks._celery_patches import is_made_of_function
from celery_locks.tasks.app_settings import options_of_app
from celery_locks.tasks.policies.basic import POLICIES, check_call_side, check_policies, run_policy, task_prefix

TASK_PREFIX = "lock_"
#: Attributes of `LockedTask` with this prefix that are no options.
_NO_OPTIONS = {"key_for", "options", "spec"}
#: The attribute in which a class that the decorator made keeps the decorated class.
DECORATED = "__celery_locks_decorated__"
#: Options that only a policy with a line reads.
_LINE_OPTIONS = {"max_waiters", "park_safety_copy"}
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_locks: WeakKeyDictionary[Any, dict[str, Locks]] = WeakKeyDictionary()


def locks_for(app: Any, store: str = DEFAULT_STORE) -> Locks:
    """Return the locks of an app in one of its stores. They are made once in a process.

    Raises:
        LockConfigError: The app's settings name no store of this name.
    """
    made = _locks.get(app)
    if made is None:
        made = _locks.setdefault(app, {})
    locks = made.get(store)
    return made.setdefault(store, Locks.from_app(app, store)) if locks is None else locks


def all_locks(app: Any) -> dict[str, Locks]:
    """Return the locks of an app in each of its stores, by the store's name.

    Raises:
        LockConfigError: The app's settings name no default store.
    """
    return {name: locks_for(app, name) for name in store_names(app.conf)}


def is_celerys_own(name: str) -> bool:
    """Return whether a task is one of Celery's, which are never locked (also with ``task_cls=LockedTask``)."""
    return name.startswith("celery.")


def options_of(task: type[Any], conf: Mapping[str, Any], instance: Mapping[str, Any] = _NOTHING) -> LockOptions:
    """Return all options of a task: of its class, its app's settings, and its own attributes.

    Raises:
        LockConfigError: A setting is wrong, or an option of the task has no effect.
    """
    own = options_of_class(task)
    own |= {name.removeprefix(TASK_PREFIX): _plain(value) for name, value in instance.items() if is_option(name)}
    options = checked_options({**options_of_app(conf), **own})
    if options.store != DEFAULT_STORE:
        app_store(conf, options.store)
    # A setting of the app with both sides is for tasks of all scopes.
    if "on_contention" not in own and not isinstance(options.on_contention, Mapping):
        check_call_side(options.on_contention, options.scope, task.name)
    check_effects(options, _set_with_policy(task, own, instance), task.name)
    return options


def checked_options(values: Mapping[str, Any]) -> LockOptions:
    """Return checked options, from their values by name.

    Raises:
        LockConfigError: A value is wrong, or there is no option of a name.
    """
    options = LockOptions().with_values(values)
    check_policies(options.on_contention)
    return options


def check_effects(options: LockOptions, given: Iterable[str], task: str | None = None) -> None:
    """Check that each option that a task or call sets has an effect together with the others.

    ``backoff`` and ``max_wait`` always have one. Under every policy they apply to a run whose store can't be reached.

    Args:
        options: All options.
        given: The names of the options that the task or the call sets itself.
        task: The task's name, for the error.

    Raises:
        LockConfigError: An option has no effect.
    """
    given = set(given)
    if "on_contention" in given or ("scope" in given and isinstance(options.on_contention, str)):
        check_call_side(options.on_contention, options.scope, task)
    policy = run_policy(options)
    if policy is POLICIES["park"] or policy not in POLICIES.values():
        return  # a policy of the user's own may read every option
    for name in sorted(_LINE_OPTIONS & given):
        if getattr(options, name) not in (None, False):
            raise LockConfigError(
                f"{task_prefix(task)}{name}={getattr(options, name)!r} has no effect with "
                f"on_contention={options.on_contention!r}, under which no task waits in line: set "
                f'on_contention="park", or leave {name} out'
            )


def options_of_class(cls: type) -> dict[str, Any]:
    """Return the options that a task class sets by its ``lock_…`` attributes.

    Raises:
        LockConfigError: An attribute with this prefix is no option. Only classes that were decorated, and are no
            `LockedTask`, may have other attributes with this prefix.
    """
    values: dict[str, Any] = {}
    foreign = _foreign_bases(cls)
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            name = attribute.removeprefix(TASK_PREFIX)
            if name == attribute or name in _NO_OPTIONS:
                continue
            if name in OPTION_NAMES:
                values[name] = _plain(value)
            elif not (base in foreign and _is_users_own(base, attribute)) and not _is_method(value):
                raise _no_option(f"{cls.__name__}.{attribute}", attribute)
    return values


def call_options(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the lock options of one call from the options of ``apply_async``, and return them by their names.

    Raises:
        LockConfigError: There is no option of a name, its value is wrong, or a message can't carry it.
    """
    values = {}
    for attribute in [name for name in options if name.startswith(TASK_PREFIX)]:
        name = attribute.removeprefix(TASK_PREFIX)
        if name not in OPTION_NAMES:
            raise _no_option(attribute, attribute)
        values[name] = _portable(attribute, checked(name, options.pop(attribute)))
    return values


def is_option(attribute: str) -> bool:
    """Return whether the attribute of a task is a lock option."""
    return attribute.removeprefix(TASK_PREFIX) in OPTION_NAMES and attribute.startswith(TASK_PREFIX)


def check_attribute(task: Any, attribute: str, value: Any) -> None:
    """Check the value of an attribute ``lock_…`` of a task.

    Raises:
        LockConfigError: It is wrong; or it is no option, and the task's class has no attribute of this name.
    """
    if is_option(attribute):
        checked_options({attribute.removeprefix(TASK_PREFIX): value})
    elif not hasattr(type(task), attribute) and not _foreign_bases(type(task)):
        raise _no_option(f"{task.name}.{attribute}", attribute)


def _no_option(path: str, attribute: str) -> LockConfigError:
    known = [TASK_PREFIX + name for name in OPTION_NAMES]
    return LockConfigError(f"{path} is no lock option{did_you_mean(attribute, known)}")


def _portable(attribute: str, value: Any) -> Any:
    """Return an option's value in a form that every serializer takes."""
    if isinstance(value, Backoff):
        return asdict(value)
    if isinstance(value, Mapping):
        return {side: _portable(attribute, policy) for side, policy in value.items()}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise LockConfigError(
        f"{attribute}={value!r} can't be set for one call, because its message carries names and numbers only: set it "
        "on the task, or give a text"
    )


def _foreign_bases(cls: type) -> set[type]:
    """Return the user's classes that the decorator has made locked tasks of. They may have attributes of their own."""
    return {each for base in cls.__mro__ if len(base.__bases__) > 1 for each in _decorated(base).__mro__}


def _decorated(cls: type) -> type:
    decorated: type = vars(cls).get(DECORATED, object)
    return decorated


def _is_users_own(base: type, attribute: str) -> bool:
    """Return whether a user's class has the attribute for its own use, and not as an option of ``@app.task``."""
    return not is_made_of_function(base) or any(hasattr(each, attribute) for each in base.__bases__)


def _set_with_policy(cls: type, own: Iterable[str], instance: Mapping[str, Any]) -> list[str]:
    """Return the task's options, except options of the line that a base sets if a nearer class sets the policy.

    A base may limit the line of all its tasks that park, and leave the policy to each task.
    """
    nearest = {name: _distance(cls, name, instance) for name in own}
    policy = nearest.get("on_contention", float("inf"))
    return [name for name, distance in nearest.items() if name not in _LINE_OPTIONS or distance <= policy]


def _distance(cls: type, name: str, instance: Mapping[str, Any]) -> int:
    """Return the distance from a task at which an option is set: 0 for the task and its decorators."""
    attribute, layers, decorated = TASK_PREFIX + name, 0, _decorated(cls)
    if attribute in instance:
        return 0
    while decorated is not object:
        layers, decorated = layers + 1, _decorated(decorated)
    found = next(number for number, base in enumerate(cls.__mro__) if attribute in vars(base))
    return max(0, found - layers)


def _plain(value: Any) -> Any:
    return value.__func__ if isinstance(value, staticmethod) else value


def _is_method(value: Any) -> bool:
    return inspect.isroutine(value) or isinstance(value, (property, MemberDescriptorType, staticmethod, classmethod))
