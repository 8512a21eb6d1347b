"""One of several processes that want the same lock: ``python excluded.py <store> <key> <folder>``.

While it holds the lock it makes a file that must not be there, and writes its fencing token down. It goes on until the
file ``over`` is in the folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from celery_locks import Locks


def main(url: str, key: str, folder: Path) -> None:
    lock, inside = Locks(url).lock(key, ttl=60), folder / "inside"
    record = os.open(folder / "record", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    while not (folder / "over").exists():
        with lock as lease:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another one is inside
            os.write(record, f"{lease.fencing_token} {os.getpid()}\n".encode())
            inside.unlink()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
