"""Commands of ``celery inspect``: the leases that the processes of a worker hold, and its deferred messages.

Workers import it, and so does the ``celery`` command, which sends only those commands that it has loaded.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from celery.worker.control import inspect_command
from celery.worker.request import Request

from celery_locks.tasks.messages.header import fields_in
from celery_locks.tasks.worker import journal
from celery_locks.tasks.worker.journal import JournalEntry
from celery_locks.tasks.worker.liveness import ProcessFile


@inspect_command(name="locks", help="Leases that this worker's tasks hold now.")
def locks(state: Any, **kwargs: Any) -> Any:
    """Return the leases that this worker's tasks hold now.

    Returns:
        For each ``store`` (its name), ``key``, ``task``, ``id`` (of the task), ``pid``, and ``since`` (seconds since
        1970), the oldest first.
    """
    held = held_here()
    if held is None:
        return {"error": "this worker keeps no journal of its leases: its log at the start has the reason"}
    return sorted(held, key=lambda lease: float(lease["since"]))


@inspect_command(name="deferred_locks", help="Messages that wait here because their keys were held, by task.")
def deferred_locks(state: Any, **kwargs: Any) -> Any:
    """Return how many messages of each task wait in this worker because their keys were held."""
    entries = (waiting.entry for waiting in list(state.consumer.timer.schedule.queue))
    requests = (entry.args[0] for entry in entries if entry.args and isinstance(entry.args[0], Request))
    return dict(Counter(request.name for request in requests if _deferrals_of(request)))


def _deferrals_of(request: Request) -> int:
    return int(fields_in(request.message.headers, request.id).get("deferrals", 0))


def held_here() -> list[dict[str, Any]] | None:
    """Return the leases that the processes of this worker hold; ``None`` if it keeps no journal."""
    folder = journal.worker_folder()
    if folder is None:
        return None
    return [_fields_of(file, entry) for file in folder.process_files() for entry in _read(file) if entry.since]


def _read(file: ProcessFile) -> list[JournalEntry]:
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # the process has ended
        return []
    try:
        return journal.read(fd)
    finally:
        os.close(fd)


def _fields_of(file: ProcessFile, entry: JournalEntry) -> dict[str, Any]:
    """Return the public fields of a lease: never its token, by which others could release it."""
    return {
        "store": entry.store,
        "key": entry.key,
        "task": entry.task,
        "id": entry.task_id,
        "pid": file.process.pid,
        "since": round(entry.since, 3),
    }
