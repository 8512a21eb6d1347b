"""Removal of the folders that dead workers of other sites left.

A folder is of use to its site alone. Workers of the site know the store and the prefix, and release the leases of dead
processes. The folders of a site without workers would stay for ever, so every worker removes those of other sites.
All processes of the folder must be dead, as defined in `liveness`. A folder with claims is kept for a day: a worker of
the site may come back before the ttl of the claims, which is not recorded, has ended.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from celery_locks import _logging
from celery_locks._runtime.clock import wall_time
from celery_locks.tasks.worker import journal
from celery_locks.tasks.worker.liveness import ProcessFile, WorkerFolder

logger = _logging.logger(__name__)

#: How long the claims of dead processes are kept for a worker of their own site.
KEEP_SECONDS = 24 * 3600.0
#: A file in a worker's folder, made when a worker of another site first found all its processes dead.
FOUND_DEAD = "dead"


def remove_stale_folders(own: WorkerFolder) -> None:
    """Remove the folders that dead workers of other sites left, given the folder of this worker."""
    for folder in own.others_of_user():
        with suppress(OSError):  # another worker removes it too
            _remove_if_stale(folder)
    for site in own.path.parent.parent.iterdir():
        with suppress(OSError):  # it is not empty
            site.rmdir()


def _remove_if_stale(folder: WorkerFolder) -> None:
    files = folder.process_files()
    claims = 0
    for file in files:
        if (found := _claims_of_dead(file, folder.same_namespace)) is None:
            return
        claims += found
    if not folder.is_published:  # its process may be about to publish it
        if not _is_old(folder.path):
            return
    elif claims and not _was_kept_for_site(folder):
        return
    for file in files:
        file.path.unlink(missing_ok=True)
    folder.remove()
    logger.info("removed %s, left by a dead worker with another store or prefix", folder.path)


def _claims_of_dead(file: ProcessFile, same_namespace: bool) -> int | None:
    """Return how many claims the journal of a dead process has, ``None`` if the process may be alive."""
    fd = os.open(file.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return len(journal.read(fd)) if file.is_dead(fd, same_namespace) else None
    finally:
        os.close(fd)


def _was_kept_for_site(folder: WorkerFolder) -> bool:
    mark = folder.path / FOUND_DEAD
    if not mark.exists():
        mark.touch(mode=0o600)
    return _is_old(mark)


def _is_old(path: Path) -> bool:
    return wall_time() - path.stat().st_mtime > KEEP_SECONDS
