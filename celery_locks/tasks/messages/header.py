"""Our header in a task's message. No other module reads or writes it.

``id``
    The task's id. A header that was copied from another task's message is ignored.
``publication``
    A random number of the message, new each time that a task is published: by a call, by the user's own retry, by
    ``replace()``. Copies that the broker delivers again have the same number, and so has a deferred message.
``ticket``, ``broker``, ``count``, ``copy``
    The message was dispatched from the line: the id of its ticket, the broker that the ticket belongs to, and which of
    the ticket's dispatches published it, counted from 1. A safety copy has the count 0.
``key``, ``lock``, ``token``
    The key under which the task was called or parked, the lock's name in the store, and the owner token of the lease
    of its call. The run uses them even if a deploy has changed the key since.
``store``
    The name of their store, unless it is the default one.
``lasting``
    The call's lease stays until it expires.
``started``
    The call's lease is settled already: this is a later message of the same task.
``refused``, ``holders``
    The key was held at the call. The policy by which the run ends without its body, and the holders.
``options``
    The lock options of this one call.
``rejected``
    The run of a direct dispatch rejected the message, so the worker that gets it rejects it.
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
#: The fields that a later message of the same task keeps. The others are about one message, or one wait.
_FIELDS_FOR_LATER = ("options", "started")

#: The names of tasks whose messages are numbered.
_numbered: set[str] = set()


def fields_in(headers: Any, task_id: str | None) -> Mapping[str, Any]:
    """Return the fields of our header in a task's message; empty if it has none."""
    header = headers.get(HEADER) if headers and isinstance(headers, Mapping) else None
    return header if isinstance(header, Mapping) and task_id is not None and header.get("id") == task_id else {}


def fields_of(request: Any) -> Mapping[str, Any]:
    """Return the fields of our header in the message of a request; empty if it has none."""
    return fields_in(request.headers, request.id)


def with_fields(headers: Any, **fields: Any) -> dict[str, Any]:
    """Return headers with these fields added to our header. Fields of another task's message are dropped."""
    known = fields_in(headers, fields.get("id"))
    return {**(headers if isinstance(headers, Mapping) else {}), HEADER: {**known, **fields}}


def headers_for_later(headers: Any, task_id: str | None, **fields: Any) -> dict[str, Any] | None:
    """Return the headers of a request whose run has started, for later messages of the task.

    Fields about a lease of the call, or about waiting, are left out.
    """
    known = fields_in(headers, task_id)
    kept = {name: known[name] for name in _FIELDS_FOR_LATER if name in known} | fields
    others = {name: value for name, value in headers.items() if name != HEADER} if isinstance(headers, Mapping) else {}
    return {**others, HEADER: {"id": task_id, **kept}} if kept else others or None


def our_header_of(request: Any) -> dict[str, Any]:
    """Return headers with our header of a request alone, and no headers if it has none."""
    return {HEADER: request.headers[HEADER]} if fields_of(request) else {}


def store_in(header: Mapping[str, Any]) -> str:
    """Return the name of the store that the key and token of a message belong to."""
    return str(header.get("store", DEFAULT_STORE))


def store_field(store: str) -> dict[str, str]:
    """Return the field that names a store. The default store has none, so that most messages are short."""
    return {} if store == DEFAULT_STORE else {"store": store}


def new_publication() -> str:
    """Return the number of a message that is published now."""
    return os.urandom(8).hex()


def number_messages_of(task_name: str) -> None:
    """Add a number to each message of a task that this process sends, also by the task's name."""
    _numbered.add(task_name)


def _number(sender: Any = None, headers: Any = None, **_: Any) -> None:
    if sender in _numbered and isinstance(headers, dict):
        headers.update(with_fields(headers, id=headers.get("id"), publication=new_publication()))


before_task_publish.connect(_number, weak=False, dispatch_uid="celery-locks-publication")
