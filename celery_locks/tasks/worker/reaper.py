"""The reaper: a thread in every worker that releases the leases of processes that died.

It checks the processes of its own worker four times a second. Every two seconds it checks other workers of this
machine, which may have died with their main process. Once a minute it removes the folders that dead workers of other
sites left.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from billiard.exceptions import WorkerLostError

from celery_locks import _logging
from celery_locks._runtime.clock import wall_time
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.base import Store
from celery_locks.stores.parking import Dispatch, Parking, RunEndName, tickets_of
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.direct import dispatch_tickets
from celery_locks.tasks.run_end import RunEnd, end_of
from celery_locks.tasks.worker import journal
from celery_locks.tasks.worker.journal import JournalEntry
from celery_locks.tasks.worker.liveness import ProcessFile, WorkerFolder
from celery_locks.tasks.worker.stale_folders import remove_stale_folders

logger = _logging.logger(__name__)

#: Seconds between two checks of the processes of this worker, of other workers, and of other sites' folders.
CHECK_SECONDS = 0.25
CHECK_OTHERS_SECONDS = 2.0
CHECK_STALE_SECONDS = 60.0


class Reaper:
    """Releases the leases of dead processes.

    Args:
        app: The app whose broker gets the messages of dispatched tasks.
        stores: The app's stores, by name.
        folder: The folder of this worker.
    """

    def __init__(self, app: Any, stores: Mapping[str, Store], folder: WorkerFolder) -> None:
        self._app = app
        self._stores = stores
        self._folder = folder
        self._pid = os.getpid()
        self._closing = False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="celery-locks-reaper", daemon=True)

    def end_at_exit(self) -> None:
        """Remove the worker's folder when this process exits, also if the worker fails before `start`."""
        atexit.register(self._at_exit)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, after the last of the worker's other processes has ended."""
        self._closing = True

    def _run(self) -> None:
        checks = 0
        while not (self._closing and all(file.main for file in self._folder.process_files())):
            stale, others = (
                checks % round(every / CHECK_SECONDS) == 0 for every in (CHECK_STALE_SECONDS, CHECK_OTHERS_SECONDS)
            )
            self._check_safely(others, stale)
            checks += 1
            time.sleep(CHECK_SECONDS)
        self._end()

    def _end(self) -> None:
        atexit.unregister(self._at_exit)
        journal.end(self._folder)
        self._folder.remove()

    def _at_exit(self) -> None:
        if os.getpid() == self._pid:
            self._check_safely()
            self._end()

    def _check_safely(self, others: bool = False, stale: bool = False) -> None:
        try:
            if stale:
                remove_stale_folders(self._folder)
            self.check(others)
            self._warned = False
        except StoreUnavailable as error:
            if not self._warned:
                logger.warning(
                    "%s; leases of dead processes are released when it is back, or end with their ttl", error
                )
            self._warned = True
        except Exception:
            logger.exception("the reaper failed and tries again")

    def check(self, others: bool = True) -> None:
        """Release the leases of dead processes.

        Args:
            others: Whether to check other workers of this machine too.

        Raises:
            StoreUnavailable: A store can't be reached; its leases are left for the next check.
        """
        for file in self._folder.process_files():
            if not file.main:
                self._reap(file, same_namespace=True)
        for folder in self._folder.others_of_site() if others else ():
            self._check_other(folder)

    def _check_other(self, folder: WorkerFolder) -> None:
        """Release the leases of another worker, if its main process is dead. Otherwise that worker does so itself."""
        for file in folder.process_files():
            if not self._reap(file, folder.same_namespace) and file.main:
                return
        folder.remove()

    def _reap(self, file: ProcessFile, same_namespace: bool) -> bool:
        """Release the leases of a process if it is dead. Return whether it is."""
        try:
            fd = os.open(file.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # another reaper has removed it
            return True
        try:
            if not file.is_dead(fd, same_namespace):
                return False
            unavailable: StoreUnavailable | None = None
            for entry in journal.read(fd):
                try:
                    self._release(file, entry)
                except StoreUnavailable as error:  # noqa: PERF203 - the next entry may be in another store
                    unavailable = error
            if unavailable is not None:
                raise unavailable
            file.path.unlink(missing_ok=True)
            return True
        finally:
            os.close(fd)

    def _release(self, file: ProcessFile, entry: JournalEntry) -> None:
        store, name, token = self._stores.get(entry.store), entry.name, entry.token
        if store is None:  # of a worker with other settings: the lease ends with its ttl
            return
        if not entry.since:
            store.leave(name, token)
        parking = tickets_of(store)
        if parking is None:
            was_held = store.release(name, token)
        else:
            was_held, dispatches = parking.end_run(name, token, self._end_of(file, entry), broker=broker_id(self._app))
            self._dispatch(entry.store, parking, dispatches)
        if was_held:
            text = f"process {file.process.pid} died; released {entry.key!r}, held by {entry.task}[{entry.task_id}]"
            fields = {"key": entry.key, "task": entry.task, "task_id": entry.task_id}
            held = wall_time() - entry.since if entry.since else None
            _logging.line(logger, logging.WARNING, "released", text, **fields, reason="died", seconds=held)

    def _end_of(self, file: ProcessFile, entry: JournalEntry) -> RunEndName:
        """Return how the run of a dead process ended.

        Of a child of this worker, Celery stores the failure, also after this. Then its message does not come again,
        unless the task has ``reject_on_worker_lost``, or this worker stops. If this worker dies before the failure is
        stored, the store parks an owed ticket again after a while.
        """
        task = self._app.tasks.get(entry.task)
        is_own_child = file.path.parent == self._folder.path and not file.main
        if not is_own_child or self._closing or task is None or task.reject_on_worker_lost:
            return "again"
        if getattr(task, "retry_on_worker_lost", False):  # Celery publishes a retry, which has a ticket of its own
            return "rejected"
        return "stored" if end_of(task, WorkerLostError()) in (RunEnd.FINAL, RunEnd.STORED) else "rejected"

    def _dispatch(self, store: str, parking: Parking, dispatches: tuple[Dispatch, ...]) -> None:
        if dispatches:
            # Not a connection of the app's pool, which belongs to other threads and to the worker's processes.
            with self._app.connection_for_write() as connection:
                dispatch_tickets(self._app, store, parking, dispatches, connection)
