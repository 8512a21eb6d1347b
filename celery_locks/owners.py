"""The names that holders of a task's leases have, and whose they are."""

from __future__ import annotations

import re

#: The task's name, its id, and where it is.
_OWNER = re.compile(r"([^\[\]]*)\[([^\[\]]*)\] (?:on|called by) ")
#: Escaped, so that no name or id can look like another's.
_ESCAPES = {"%": "%25", "[": "%5B", "]": "%5D"}
_TABLE = str.maketrans(_ESCAPES)


def running(name: str, task_id: str, worker: str) -> str:
    """The holder's name of a run."""
    return f"{_escaped(name)}[{_escaped(task_id)}] on {worker}"


def called(name: str, task_id: str, process: str) -> str:
    """The holder's name of a task that was called and doesn't run yet."""
    return f"{_escaped(name)}[{_escaped(task_id)}] called by {process}"


def task_of(owner: str) -> tuple[str, str] | None:
    """Name and id of the task whose lease has this holder's name, ``None`` when it is no task's."""
    found = _OWNER.match(owner)
    return None if found is None else (_unescaped(found[1]), _unescaped(found[2]))


def task_id_of(owner: str) -> str | None:
    """The id of the task whose lease has this holder's name, ``None`` when it is no task's."""
    task = task_of(owner)
    return None if task is None else task[1]


def _escaped(text: str) -> str:
    return text.translate(_TABLE) if "[" in text or "]" in text or "%" in text else text


def _unescaped(text: str) -> str:
    for plain, escaped in reversed(_ESCAPES.items()):
        text = text.replace(escaped, plain)
    return text
