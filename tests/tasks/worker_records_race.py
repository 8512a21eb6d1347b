"""A process that begins and ends lives as fast as it can, where others do too: ``lives_race FOLDER ROUNDS``."""

from __future__ import annotations

import random
import sys

from celery_locks.tasks.worker import journal
from celery_locks.tasks.worker.stale_folders import remove_stale_folders

#: Few, so that the first and the last life of a site often meet.
SITES = ("one", "two")


def live(folder: str) -> None:
    life = journal.begin(random.choice(SITES), folder)
    record = journal.own_journal()
    assert record is not None
    remove_stale_folders(life)
    journal.add_claim("token", "name", "key", "task", "id")
    assert record.path.exists(), "the record of a living process is gone"
    assert [member.path for member in life.process_files()] == [record.path]
    journal.end(life)
    life.remove()


if __name__ == "__main__":
    for _ in range(int(sys.argv[2])):
        live(sys.argv[1])
