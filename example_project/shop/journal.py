"""A journal of runs: every run records its beginning and its end. The demo checks the locks' promises with it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery_locks import current_lease
from example_project.shop import database


@dataclass(frozen=True)
class Run:
    """One run of a task. Times are seconds on the clock that all processes of a machine share.

    Attributes:
        job: The id of the message, which is the same for each run of it.
        ended: ``None`` if the process was killed.
        outcome: ``done``, or the name of the error.
    """

    job: str
    task: str
    key: str
    fencing_token: int | None
    worker: str
    pid: int
    began: float
    ended: float | None
    outcome: str | None


COLUMNS = "job, task, key, fencing_token, worker, pid, began, ended, outcome"


@contextmanager
def recorded(task: Any) -> Iterator[None]:
    """Record the beginning and the end of a run. Both happen while its lease is held."""
    request, lease = task.request, current_lease()
    key = task.lock_key_for(*request.args, **request.kwargs)
    token = lease.fencing_token if lease else None
    worker = request.hostname.partition("@")[0]
    began = time.monotonic()
    with database.connect() as db:
        values = (request.id, task.name.rpartition(".")[2], key, token, worker, os.getpid(), began)
        run = db.execute(f"INSERT INTO run ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)", values).lastrowid
    outcome = "done"
    try:
        yield
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        with database.connect() as db:
            db.execute("UPDATE run SET ended = ?, outcome = ? WHERE id = ?", (time.monotonic(), outcome, run))


def runs() -> list[Run]:
    """Return all runs, the earliest first."""
    with database.connect() as db:
        return [Run(*row) for row in db.execute(f"SELECT {COLUMNS} FROM run ORDER BY began, id")]


def latest(count: int) -> list[Run]:
    """Return the latest runs, the newest first."""
    with database.connect() as db:
        return [Run(*row) for row in db.execute(f"SELECT {COLUMNS} FROM run ORDER BY id DESC LIMIT ?", (count,))]


def done() -> set[str]:
    """Return the jobs that have a complete run."""
    with database.connect() as db:
        return {job for (job,) in db.execute("SELECT DISTINCT job FROM run WHERE outcome = 'done'")}
