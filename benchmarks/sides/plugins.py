"""The plug-ins for Celery that users would take instead, each as it comes, on the address that the app has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

#: A task's function.
Body = Callable[..., None]


@dataclass(frozen=True)
class Plugin:
    """A way to have a plug-in lock a task by its arguments.

    Attributes:
        does: When it locks, and what a run does about it, for the tables.
        options: What ``app.task`` is given.
        telling: What else, so that a call whose key is taken raises.
        refusal: The error that such a call raises.
        slow: Whether a task takes a second, whatever it does.
    """

    does: str
    options: dict[str, Any]
    refusal: type[Exception]
    telling: dict[str, Any] = field(default_factory=dict)
    slow: bool = False

    def task(self, app: Celery, name: str, body: Body, *, telling: bool = False, ignore_result: bool = False) -> Any:
        """A task of the app whose calls are locked by their arguments."""
        options = {**self.options, **(self.telling if telling else {})}
        return app.task(body, name=name, ignore_result=ignore_result, **options)


def celery_once() -> Plugin:
    from celery_once import AlreadyQueued, QueueOnce

    return Plugin("locks at the call, the run releases", {"base": QueueOnce}, AlreadyQueued)


def celery_singleton() -> Plugin:
    from celery_singleton import DuplicateTaskError, Singleton

    return Plugin(
        "locks at the call, the run releases", {"base": Singleton}, DuplicateTaskError, {"raise_on_duplicate": True}
    )


def celery_heimdall() -> Plugin:
    """Its runs ask for their own lock again, which is taken, and wait a second for it."""
    from celery_heimdall import AlreadyQueuedError, HeimdallTask

    unique = {"unique": True}
    return Plugin(
        "locks at the call, the run waits 1 s for its own lock",
        {"base": HeimdallTask, "heimdall": unique},
        AlreadyQueuedError,
        {"heimdall": {**unique, "unique_raises": True}},
        slow=True,
    )


def celery_heimdall_not_blocking() -> Plugin:
    from celery_heimdall import AlreadyQueuedError, HeimdallTask

    unique = {"unique": True, "unique_lock_blocking": False}
    return Plugin(
        "locks at the call, the run looks at its lock",
        {"base": HeimdallTask, "heimdall": unique},
        AlreadyQueuedError,
        {"heimdall": {**unique, "unique_raises": True}},
    )


ALL: dict[str, Callable[[], Plugin]] = {
    "celery-once": celery_once,
    "celery-singleton": celery_singleton,
    "celery-heimdall": celery_heimdall,
    "celery-heimdall, unique_lock_blocking=False": celery_heimdall_not_blocking,
}


def installed() -> dict[str, Plugin]:
    """Those that are here, by their names: only `make bench` installs them."""
    found = {}
    for name, make in ALL.items():
        with suppress(ImportError):
            found[name] = make()
    return found


def settings(url: str) -> dict[str, Any]:
    """What they need to be told of the app's Redis; celery-singleton and celery-heimdall find it themselves."""
    return {"ONCE": {"backend": "celery_once.backends.Redis", "settings": {"url": url}}}
