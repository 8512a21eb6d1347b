"""`Lockable`: a kind of thing that is locked, declared once and used by its id."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

from celery_locks.errors import LockKeyError
from celery_locks.keys.maker import KeyMaker
from celery_locks.keys.template import Template
from celery_locks.lock import Lock


class Lockable:
    """A kind of thing that is locked, made by `Locks.lockable`: the form of its keys, and the terms of its leases.

    Called with an id, it returns the lock of that thing. The key is the same as that of a task with the same ``key=``.
    So tasks and scripts exclude each other, and no value can forge the key of another.

    Attributes:
        template: The form of the keys.

    Examples:
        >>> order = locks.lockable("order:<order_id>", ttl=60)
        >>> with order(7):
        ...     ship(7)
        >>> order.key(order_id=7)
        'order:7'
    """

    def __init__(self, template: str, make: Callable[[str], Lock]) -> None:
        if not isinstance(template, str):
            raise LockKeyError(f"{template!r} is not a template: give a text such as 'order:<order_id>'")
        self.template = template
        self._make = make
        names = dict.fromkeys(placeholder.name for placeholder in Template(template).placeholders)
        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        self._keys = KeyMaker(template, Signature(parameters))

    def __repr__(self) -> str:
        return f"<Lockable {self.template!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Lock:
        """Return the lock of one thing.

        Args:
            *args: The values of the template's names, in its order.
            **kwargs: The values of other names of the template.

        Raises:
            LockKeyError: A value has no stable text.
            TypeError: There are too many values, or too few.
        """
        return self._make(self.key(*args, **kwargs))

    def key(self, *args: Any, **kwargs: Any) -> str:
        """Return the key of one thing, for the values of a call. It raises the same errors."""
        return self._keys.key(args, kwargs)
