"""Removal of records that dead workers of other sites left in this folder.

Records are of use to their site alone: its workers know the store and the prefix, and free early what the dead held. A
site that never comes back would leave its records for ever, so every worker removes those of other sites. All processes
of a life must be dead, by the rule of `lives`. Records with claims are kept for a day then: a claim's ttl is not
written down, and until it is over a worker of the site may come back.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from celery_locks import _logging
from celery_locks._runtime.clock import wall_time
from celery_locks.tasks.worker import journal
from celery_locks.tasks.worker.liveness import Life, Member

logger = _logging.logger(__name__)

#: For how long claims of the dead are kept for a worker of their own site.
KEEP_SECONDS = 24 * 3600.0
#: A file in a life's folder, made when a worker of another site first found all of the life's processes dead.
FOUND_DEAD = "dead"


def remove_remains(own: Life) -> None:
    """Remove what dead workers of other sites have left.

    Args:
        own: The life of this worker.
    """
    for life in own.strangers():
        with suppress(OSError):  # another removes it too
            _remove(life)
    for site in own.path.parent.parent.iterdir():
        with suppress(OSError):  # it has lives in it
            site.rmdir()


def _remove(life: Life) -> None:
    members = life.members()
    claims = 0
    for member in members:
        if (found := _claims_of_dead(member, life.same_namespace)) is None:
            return
        claims += found
    if not life.published:  # its process may be about to publish it
        if not _is_old(life.path):
            return
    elif claims and not _waited_for_site(life):
        return
    for member in members:
        member.path.unlink(missing_ok=True)
    life.remove()
    logger.info("removed %s, left by a dead worker that had another store or prefix", life.path)


def _claims_of_dead(member: Member, same_namespace: bool) -> int | None:
    """Return how many claims the record of a dead process has, ``None`` where the process may be alive."""
    fd = os.open(member.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return len(journal.read(fd)) if member.is_dead(fd, same_namespace) else None
    finally:
        os.close(fd)


def _waited_for_site(life: Life) -> bool:
    mark = life.path / FOUND_DEAD
    if not mark.exists():
        mark.touch(mode=0o600)
    return _is_old(mark)


def _is_old(path: Path) -> bool:
    return wall_time() - path.stat().st_mtime > KEEP_SECONDS
