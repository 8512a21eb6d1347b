"""Our header in a task's message. No other module reads or writes it.

``id``
    The task's id. A header that was copied from another task's message counts for nothing.
``publication``
    A random number of the message, new each time that a task is published: by a call, by the user's own retry, by
    ``replace()``. Copies that the broker delivers again have the same one, and so has a message that was deferred.
``ticket``, ``broker``, ``count``, ``copy``
    The message was dispatched from the line: the id of its ticket, the broker that the ticket belongs to, and which of
    the ticket's dispatches published it, counted from 1. Or it is a safety copy, and counts as 0.
``key``, ``lock``, ``token``
    The key under which the task was called or parked, the lock's name in the store, and the owner token of the lease
    that its call took. The run settles these, even where the key would be another one now.
``store``
    The name of the store that these are in, where it is not the default one.
``lasting``
    The call's lease stays until it expires.
``started``
    The call's lease is settled already: this is a later message of the same task.
``refused``, ``holders``
    The key was held at the call: the policy by which the run ends without its body, and the holders.
``options``
    The lock options of this one call.
``deferrals``, ``waited``
    How often the message was deferred, and for how many seconds in all.
``since``
    When the task was first parked, in seconds since 1970.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from celery.signals import before_task_publish

from celery_locks._validation import DEFAULT_STORE

#: The name of our header.
HEADER = "celery_locks"
#: What a later message of the same task keeps: the rest is about one message, or one wait.
_KEPT = ("options", "started")

#: Names of locked tasks: their messages get a number.
_locked: set[str] = set()


def fields_in(headers: Any, task_id: str | None) -> Mapping[str, Any]:
    """Return the fields of our header in a task's message; empty when it has none."""
    ours = headers.get(HEADER) if headers and isinstance(headers, Mapping) else None
    return ours if isinstance(ours, Mapping) and task_id is not None and ours.get("id") == task_id else {}


def fields_of(request: Any) -> Mapping[str, Any]:
    """Return the fields of our header in the message of a request; empty when it has none."""
    return fields_in(request.headers, request.id)


def with_fields(headers: Any, **fields: Any) -> dict[str, Any]:
    """Return headers with these fields added to ours. Fields of another task's message are dropped."""
    known = fields_in(headers, fields.get("id"))
    return {**(headers if isinstance(headers, Mapping) else {}), HEADER: {**known, **fields}}


def for_later(headers: Any, task_id: str | None, **fields: Any) -> dict[str, Any] | None:
    """Return the headers of a request whose run has started, for the later messages of the task.

    What was settled or waited for is left out.
    """
    known = fields_in(headers, task_id)
    kept = {name: known[name] for name in _KEPT if name in known} | fields
    others = {name: value for name, value in headers.items() if name != HEADER} if isinstance(headers, Mapping) else {}
    return {**others, HEADER: {"id": task_id, **kept}} if kept else others or None


def ours_alone(request: Any) -> dict[str, Any]:
    """Return our header of a request, if it has one, as headers."""
    return {HEADER: request.headers[HEADER]} if fields_of(request) else {}


def store_in(ours: Mapping[str, Any]) -> str:
    """Return the name of the store in which the key of a message is settled."""
    return str(ours.get("store", DEFAULT_STORE))


def store_field(store: str) -> dict[str, str]:
    """Return the field that names a store; none for the default one, so that most messages are as short as before."""
    return {} if store == DEFAULT_STORE else {"store": store}


def new_publication() -> str:
    """Return the number of a message that is published now."""
    return os.urandom(8).hex()


def number_messages_of(task_name: str) -> None:
    """Give each message of a task a number, also where it is sent by its name in this process."""
    _locked.add(task_name)


def _number(sender: Any = None, headers: Any = None, **_: Any) -> None:
    if sender in _locked and isinstance(headers, dict):
        headers.update(with_fields(headers, id=headers.get("id"), publication=new_publication()))


before_task_publish.connect(_number, weak=False, dispatch_uid="celery-locks-publication")
