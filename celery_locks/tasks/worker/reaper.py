"""The reaper: a thread in every worker that frees the leases of processes which died.

It looks at its own worker's processes four times a second. Every two seconds it looks at other workers of this
machine, which may have died as a whole, and at the earlier life of a worker that has come back. Once a minute it
removes what dead workers of other sites have left.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from celery_locks import _logging
from celery_locks._runtime.clock import wall_time
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.base import Store
from celery_locks.stores.parking import Dispatch, Parking, tickets_of
from celery_locks.tasks.messages.broker import broker_id
from celery_locks.tasks.messages.publish import publish_dispatched
from celery_locks.tasks.worker import journal
from celery_locks.tasks.worker.journal import Written
from celery_locks.tasks.worker.liveness import Life, Member
from celery_locks.tasks.worker.remains import remove_remains

logger = _logging.logger(__name__)

#: Seconds between two looks at the processes of this worker, at other workers, and at what other sites have left.
LOOK = 0.25
LOOK_AT_OTHERS = 2.0
LOOK_AT_REMAINS = 60.0


class Reaper:
    """Frees what the dead have left.

    Args:
        app: The app whose broker gets the messages of those whose turn comes by it.
        stores: The app's stores, by name.
        life: The life of this worker.
    """

    def __init__(self, app: Any, stores: Mapping[str, Store], life: Life) -> None:
        self._app = app
        self._stores = stores
        self._life = life
        self._pid = os.getpid()
        self._closing = False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="celery-locks-reaper", daemon=True)

    def end_at_exit(self) -> None:
        """End the life when this process exits, also if the worker fails before `start`."""
        atexit.register(self._at_exit)

    def start(self) -> None:
        """Frees what the dead have left so far, and from now on."""
        self._thread.start()

    def close(self) -> None:
        """The worker is ending: so does this, after the last of the worker's other processes."""
        self._closing = True

    def _run(self) -> None:
        looks = 0
        while not (self._closing and self._alone()):
            remains, others = (looks % round(every / LOOK) == 0 for every in (LOOK_AT_REMAINS, LOOK_AT_OTHERS))
            self._look_safely(others, remains)
            looks += 1
            time.sleep(LOOK)
        self._end()

    def _alone(self) -> bool:
        return not [member for member in self._life.members() if not member.main]

    def _end(self) -> None:
        atexit.unregister(self._at_exit)
        journal.end(self._life)
        self._life.remove()

    def _at_exit(self) -> None:
        if os.getpid() == self._pid:
            self._look_safely()
            self._end()

    def _look_safely(self, others: bool = False, remains: bool = False) -> None:
        try:
            if remains:
                remove_remains(self._life)
            self.look(others)
            self._warned = False
        except StoreUnavailable as error:
            if not self._warned:
                logger.warning("%s; what dead processes held is freed when it is back, or by its ttl", error)
            self._warned = True
        except Exception:
            logger.exception("the reaper failed; it goes on")

    def look(self, others: bool = True) -> None:
        """Frees what dead processes have left.

        Args:
            others: Whether to look at other workers of this machine too.

        Raises:
            StoreUnavailable: The store is away; the rest is left for the next time.
        """
        for member in self._life.members():
            if not member.main:
                self._reap(member, same_namespace=True)
        for life in self._life.siblings() if others else ():
            self._look_at(life)

    def _look_at(self, life: Life) -> None:
        """Another worker's processes are its own to look after, unless its main process is dead."""
        for member in life.members():
            if not self._reap(member, life.same_namespace) and member.main:
                return
        life.remove()

    def _reap(self, member: Member, same_namespace: bool) -> bool:
        """Frees what a process held, if it is dead. Returns whether it is."""
        try:
            fd = os.open(member.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # another reaper was here
            return True
        try:
            if not member.is_dead(fd, same_namespace):
                return False
            away: StoreUnavailable | None = None
            for written in journal.read(fd):
                try:
                    self._free(member, written)
                except StoreUnavailable as error:  # noqa: PERF203 - another one may serve
                    away = error
            if away is not None:
                raise away
            member.path.unlink(missing_ok=True)
            return True
        finally:
            os.close(fd)

    def _free(self, member: Member, written: Written) -> None:
        store, name, token = self._stores.get(written.store), written.name, written.token
        if store is None:  # of a worker with other settings: the lease ends with its ttl
            return
        if not written.since:
            store.leave(name, token)
        parking = tickets_of(store)
        if parking is None:
            freed = store.release(name, token)
        else:
            freed, dispatches = parking.end_run(name, token, "again", broker=broker_id(self._app))
            self._publish(parking, dispatches)
        if freed:
            who = f"{written.task}[{written.task_id}]"
            said = f"process {member.process.pid} died; {written.key!r} is free, which its {who} held"
            fields = {"key": written.key, "task": written.task, "task_id": written.task_id}
            held = wall_time() - written.since if written.since else None
            _logging.line(logger, logging.WARNING, "freed", said, **fields, reason="died", seconds=held)

    def _publish(self, parking: Parking, dispatches: tuple[Dispatch, ...]) -> None:
        if dispatches:
            # A connection of its own: those of the app's pool belong to the worker's other threads and children.
            with self._app.connection_for_write() as connection:
                publish_dispatched(self._app, parking, dispatches, connection)
