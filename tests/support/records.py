"""Records of workers in the places that all workers of this machine share: where no folder is set for them."""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Collection

_PLACES = ("/dev/shm", "/run/shm", tempfile.gettempdir())


def shared() -> dict[str, int]:
    """The process id of each record."""
    found = {}
    for place in _PLACES:
        for path in glob.glob(f"{place}/celery-locks-{os.geteuid()}/*/*/*"):
            if name := re.fullmatch(r"(main\.)?(\d+)\.\d+", os.path.basename(path)):
                found[path] = int(name[2])
    return found


def left_by(pids: Collection[int], before: Collection[str]) -> list[str]:
    """Return the records of these processes. Records from before are left out, since process ids are reused."""
    return [path for path, pid in shared().items() if pid in pids and path not in before]
