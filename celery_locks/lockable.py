"""`Lockable`, a kind of thing that is locked: declared once, used by its id."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

from celery_locks.errors import LockKeyError
from celery_locks.keys.maker import KeyMaker
from celery_locks.keys.template import Template
from celery_locks.lock import Lock


class Lockable:
    """A kind of thing that is locked, made by `Locks.lockable`: how its keys are written, and how it is held.

    Called with an id it gives the lock of that thing. Its key is made as that of a task with the same ``key=``: no
    value can forge another's, and task and script exclude each other.

    Attributes:
        template: How keys are written.

    Examples:
        >>> order = locks.lockable("order:<order_id>", ttl=60)
        >>> with order(7):
        ...     ship(7)
        >>> order.key(order_id=7)
        'order:7'
    """

    def __init__(self, template: str, make: Callable[[str], Lock]) -> None:
        if not isinstance(template, str):
            raise LockKeyError(f"a lockable is declared by a template such as 'order:<order_id>', not by {template!r}")
        self.template = template
        self._make = make
        names = dict.fromkeys(placeholder.name for placeholder in Template(template).placeholders)
        parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        self._keys = KeyMaker(template, Signature(parameters))

    def __repr__(self) -> str:
        return f"<Lockable {self.template!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Lock:
        """The lock of one thing, by the values that the template names: in its order, or by name.

        Raises:
            LockKeyError: A value has no stable text.
            TypeError: There are too many values, or too few.
        """
        return self._make(self.key(*args, **kwargs))

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The key of one thing; raises as the call does."""
        return self._keys.key(args, kwargs)
