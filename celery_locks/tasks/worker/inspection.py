"""``celery inspect locks``: the leases that the processes of a worker hold now.

Imported by workers, and by the ``celery`` command, which knows only those commands that it has loaded.
"""

from __future__ import annotations

import os
from typing import Any

from celery.worker.control import inspect_command

from celery_locks.tasks.worker import journal
from celery_locks.tasks.worker.journal import Written
from celery_locks.tasks.worker.liveness import Member


@inspect_command(name="locks", help="Leases that this worker's tasks hold now.")
def locks(state: Any, **kwargs: Any) -> Any:
    """Leases that this worker's tasks hold now.

    Returns:
        For each ``store`` (its name), ``key``, ``task``, ``id`` (of the task), ``pid``, and ``since`` (seconds since
        1970), the oldest first.
    """
    held = held_here()
    if held is None:
        return {"error": "this worker does not write down what its processes hold: see its log at the start"}
    return sorted(held, key=lambda lease: float(lease["since"]))


def held_here() -> list[dict[str, Any]] | None:
    """What the processes of this worker hold; ``None`` where that is not written down."""
    life = journal.life()
    if life is None:
        return None
    return [_shown(member, written) for member in life.members() for written in _read(member) if written.since]


def _read(member: Member) -> list[Written]:
    try:
        fd = os.open(member.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it has ended
        return []
    try:
        return journal.read(fd)
    finally:
        os.close(fd)


def _shown(member: Member, written: Written) -> dict[str, Any]:
    """What is told of a lease: never its token, by which anybody could release it."""
    return {
        "store": written.store,
        "key": written.key,
        "task": written.task,
        "id": written.task_id,
        "pid": member.process.pid,
        "since": round(written.since, 3),
    }
