"""How far a reader has to travel: the package's files that each of three journeys of a task enters.

`python -m benchmarks.journeys` runs a real worker in this process and notes each call of a function of the package.
It prints, for each journey, the number of files, and of moves from a file to another.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from celery import Celery
from celery.contrib.testing.worker import start_worker

import celery_locks
from celery_locks import LockLost, Locks, single_instance
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

PACKAGE = str(Path(celery_locks.__file__).parent)


class Journey:
    """The files that calls enter, in order, by thread."""

    def __init__(self) -> None:
        self.paths = dict[int, list[str]]()

    def note(self, frame: FrameType, event: str, _argument: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(PACKAGE):
            path = self.paths.setdefault(threading.get_ident(), [])
            if not path or path[-1] != file:
                path.append(file)

    def __str__(self) -> str:
        files = {file for path in self.paths.values() for file in path}
        return f"{len(files)} files, {sum(map(len, self.paths.values()))} moves between files"


_running = list[Journey]()


def _note(frame: FrameType, event: str, argument: object) -> None:
    for journey in _running:
        journey.note(frame, event, argument)


@contextmanager
def journey(name: str) -> Iterator[None]:
    """Print how far the calls of the block travel, those of the worker's threads included."""
    noted = Journey()
    _running.append(noted)
    try:
        yield
    finally:
        _running.clear()
    print(f"{name}: {noted}")


def main() -> None:
    threading.setprofile(_note)
    sys.setprofile(_note)
    with RedisServer() as server:
        url = server.url()
        app = Celery("journeys", broker=url, backend=url)
        app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)

        @app.task
        @single_instance(key="user:<user_id>", on_contention="park", ttl=9, max_wait=60)
        def sync_user(user_id: int, seconds: float = 0.0) -> int:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.01)
            return user_id

        with start_worker(app, pool="threads", concurrency=4, perform_ping_check=False):
            locks = Locks.from_app(app)
            sync_user.delay(1).get(timeout=30)  # imports what is imported late
            lock = locks.lock("user:3").acquire()
            parked = sync_user.delay(3)
            eventually(lambda: parked.state == "WAITING", 30)
            lock.release()
            parked.get(timeout=30)
            with journey("(a) a free key: run, released"):
                sync_user.delay(7).get(timeout=30)
            lock = locks.lock("user:8").acquire()
            with journey("(b) a held key: parked, dispatched, run"):
                parked = sync_user.delay(8)
                eventually(lambda: parked.state == "WAITING", 30)
                lock.release()
                parked.get(timeout=30)
            running = sync_user.delay(9, 30)
            eventually(lambda: locks.info("user:9").holders, 30)
            with journey("(c) a lost lease: aborted, FAILURE"), suppress(LockLost):
                locks.lock("user:9").force_release()
                running.get(timeout=30)


if __name__ == "__main__":
    main()
