"""The names of owners: tasks, with the place where they run or wait, and the kinds of owners that users declare."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, cast

from celery_locks.errors import LockConfigError

#: How a task is related to its place. It runs on a worker, acquired the lease in its body on a worker, was called by a
#: process, or is parked for a queue. The last one: a lease lasts until its ttl ends, and a process acquired it.
Where = Literal["on", "in its body on", "called by", "via queue", "until expiry from"]
_UNKNOWN = "(unknown)"

#: The task's name, its id, its relation and its place.
_OWNER = re.compile(
    r"([^\[\]]*)\[([^\[\]]*)\] (on|in its body on|called by|via queue|until expiry from) (.*)", re.DOTALL
)
#: These are escaped, so that no two tasks have one owner's name.
_ESCAPES = {"%": "%25", "[": "%5B", "]": "%5D"}
_TABLE = str.maketrans(_ESCAPES)
#: For the id of a declared owner, which ends at the next slash.
_ID_TABLE = str.maketrans({**_ESCAPES, "/": "%2F"})
_KIND = re.compile(r"[A-Za-z0-9_.-]+")


class Owner:
    """A kind of owner, such as a user: declared once, so that all its owners are named alike.

    Called with ids, it returns an owner's name, for ``owner=`` of `Locks` and of each lock.

    Args:
        kind: The kind, such as ``"user"``: letters, digits, ``_``, ``.`` and ``-``.
        within: The kind that each of its owners belongs to, if there is one. `Locks.release_owned_by` releases the
            leases of an owner and of all owners within it.

    Raises:
        LockConfigError: A kind has other characters.

    Examples:
        >>> user = Owner("user", within="org")
        >>> user("org_1", "user_42")
        'org:org_1/user:user_42'
        >>> Owner("org")("org_1")
        'org:org_1'
    """

    def __init__(self, kind: str, *, within: str | Owner | None = None) -> None:
        if not isinstance(kind, str) or not _KIND.fullmatch(kind):
            raise LockConfigError(f"{kind!r} can't be a kind of owner: give letters, digits, '_', '.' and '-'")
        outer = Owner(within) if isinstance(within, str) else within
        self._kinds: tuple[str, ...] = (*(outer._kinds if outer is not None else ()), kind)

    def __repr__(self) -> str:
        return f"<Owner {'/'.join(self._kinds)}>"

    def __call__(self, *ids: str | int) -> str:
        """Return the name of an owner.

        Args:
            ids: The id of each kind, the outermost first.

        Raises:
            LockConfigError: There are too many or too few, or one is empty, or neither a text nor a whole number.
        """
        if len(ids) != len(self._kinds):
            raise LockConfigError(
                f"an owner of the kind {self._kinds[-1]} has {len(self._kinds)} ids, for {' and '.join(self._kinds)}: "
                f"{len(ids)} were given"
            )
        for id in ids:
            if isinstance(id, bool) or not isinstance(id, (str, int)) or id == "":
                raise LockConfigError(f"{id!r} can't be the id of an owner: give a text or a whole number")
        named = zip(self._kinds, ids, strict=True)
        return "/".join(f"{kind}:{str(id).translate(_ID_TABLE)}" for kind, id in named)


def belongs_to(name: str, owner: str) -> bool:
    """Return whether a name is that of an owner, or of an owner within it."""
    return name == owner or name.startswith(f"{owner}/")


class TaskOwner(NamedTuple):
    """A task that holds a lease or stands in line, read from its owner's name.

    Attributes:
        name: The task's name.
        id: The task's id.
        where: How the task is related to its place.
        place: The worker, the process or the queue.
    """

    name: str
    id: str
    where: Where
    place: str

    @property
    def worker(self) -> str | None:
        """The worker on which the task runs, ``None`` if it does not run."""
        return self.place if self.where in ("on", "in its body on") else None

    @property
    def queue(self) -> str | None:
        """The queue of a parked task's message, ``None`` if the task is not parked or the queue is not known."""
        return self.place if self.where == "via queue" and self.place != _UNKNOWN else None


def running(name: str, task_id: str, worker: str) -> str:
    """Return the owner's name of a run."""
    return f"{_escaped(name)}[{_escaped(task_id)}] on {worker}"


def in_body(run: str) -> str:
    """Return the owner's name of a lock that the body of a run acquires.

    Args:
        run: The owner's name of the run, or of another lock of its body.
    """
    task = read(run)
    return run if task is None else f"{_escaped(task.name)}[{_escaped(task.id)}] in its body on {task.place}"


def called(name: str, task_id: str, process: str) -> str:
    """Return the owner's name of a task that was called and does not run yet."""
    return f"{_escaped(name)}[{_escaped(task_id)}] called by {process}"


def lasting(name: str, task_id: str, process: str) -> str:
    """Return the owner's name of a lease that lasts until its ttl ends, even if its task has run."""
    return f"{_escaped(name)}[{_escaped(task_id)}] until expiry from {process}"


def parked(name: str, task_id: str, queue: str | None) -> str:
    """Return the owner's name of a parked task, also while its message waits in a queue after its dispatch.

    Args:
        name: The task's name.
        task_id: The task's id.
        queue: The queue of its message, ``None`` if it is not known.
    """
    return f"{_escaped(name)}[{_escaped(task_id)}] via queue {_UNKNOWN if queue is None else queue}"


def read(owner: str) -> TaskOwner | None:
    """Return the task that an owner's name stands for, ``None`` for the name of any other owner."""
    found = _OWNER.fullmatch(owner)
    if found is None:
        return None
    name, task_id, where, place = found.groups()
    return TaskOwner(_unescaped(name), _unescaped(task_id), cast(Where, where), place)


def task_of(owner: str) -> tuple[str, str] | None:
    """Return name and id of a task that owns its own lease, ``None`` for locks of a body and for other owners."""
    task = read(owner)
    return None if task is None or task.where == "in its body on" else (task.name, task.id)


def task_id_of(owner: str) -> str | None:
    """Return the id of a task that owns its own lease; see `task_of`."""
    task = task_of(owner)
    return None if task is None else task[1]


def _escaped(text: str) -> str:
    return text.translate(_TABLE) if "[" in text or "]" in text or "%" in text else text


def _unescaped(text: str) -> str:
    for plain, escaped in reversed(_ESCAPES.items()):
        text = text.replace(escaped, plain)
    return text
