"""Services: apps whose tasks stand in the test that runs them, with workers in processes of their own."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import redis
from celery import Celery
from celery.result import AsyncResult

from celery_locks import Locks
from celery_locks.stores.parking import Parking
from tests.support.celery_worker import ROOT, Worker
from tests.support.journal import Journal
from tests.support.waiting import eventually

_HEAD = """
import os, time
from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from celery_locks import LockedTask, Locks, current_lease, single_instance
from tests.support.journal import Journal

URL = {url!r}
app = Celery({name!r}, broker={broker!r}, backend={backend!r}, set_as_current=False)
app.conf.update(
    locks_url=URL,
    locks_sweep_interval=1,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={{"unacked_restore_interval": 1, "unacked_restore_throttle": 1}},
)
app.conf.update({conf})
note = Journal(URL).write
_task = app.task
app.task = lambda *args, **options: _task(*args, **{{"shared": False, **options}})

"""
_numbers = itertools.count()


class Service:
    """An app whose source is written by the test; written again, it is a deploy.

    Args:
        folder: For its modules.
        url: Its lock store and journal; its broker and results too, unless others are given.
        broker: Another broker.
        backend: Another result backend.
        name: The app's name, which the names of its tasks begin with.
    """

    def __init__(
        self, folder: Path, url: str, *, broker: str | None = None, backend: str | None = None, name: str = "shop"
    ) -> None:
        self.url = url
        self.name = name
        self.journal = Journal(url)
        self.stack = ExitStack()
        self._folder = folder
        self._addresses = {"broker": broker or url, "backend": backend or url}
        self.module = ""
        self.tasks: ModuleType
        #: The last worker that was started.
        self.worker: Worker

    def deploy(self, source: str, **conf: Any) -> ModuleType:
        """Write the module anew, for workers that start from now on.

        Args:
            source: The tasks. ``app``, ``note(event, **fields)`` and the public names are there.
            **conf: Settings.

        Returns:
            The module.
        """
        self.module = f"{self.name}_{next(_numbers)}"
        path = self._folder / f"{self.module}.py"
        path.write_text(_HEAD.format(url=self.url, name=self.name, conf=repr(conf), **self._addresses) + source)
        spec = importlib.util.spec_from_file_location(self.module, path)
        assert spec is not None
        assert spec.loader is not None
        self.tasks = sys.modules[self.module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.tasks)
        self.app.finalize()
        return self.tasks

    @property
    def app(self) -> Celery:
        app: Celery = self.tasks.app
        return app

    @property
    def locks(self) -> Locks:
        return Locks.from_app(self.app)

    def start_worker(self, **options: Any) -> Worker:
        path = {"PYTHONPATH": f"{ROOT}:{self._folder}", **options.pop("env", {})}
        options.setdefault("concurrency", 1)
        self.worker = Worker(self.module, self.app, env=path, cwd=self._folder, **options)
        return self.stack.enter_context(self.worker)

    def park(self, key: str, *calls: Callable[[], AsyncResult]) -> list[AsyncResult]:
        """Call tasks while their key is held, one after the other; the key is free when they are parked."""
        results = []
        with self.locks.lock(key, ttl=60):
            for number, call in enumerate(calls, 1):
                results.append(call())
                eventually(lambda number=number: self.waiting(key) == number, 60, "a task did not park")
        return results

    def waiting(self, key: str) -> int:
        """How many tasks and other waiters are in line."""
        store = self.locks.store
        assert isinstance(store, Parking)
        return store.waiting(self.locks._space.name(key))

    def notes(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        return self.journal.entries(event, **fields)


def messages_at(broker: str) -> list[dict[str, Any]]:
    """The messages at a Redis broker, those that workers have not acknowledged among them."""
    client = redis.Redis.from_url(broker, decode_responses=True)
    unacked = [json.loads(each)[0] for each in client.hvals("unacked")]
    lists = (name for name in client.keys("celery*") if client.type(name) == "list")
    queues = [name for name in lists if "pidbox" not in name and not name.startswith("celery-locks:")]
    return [*unacked, *(json.loads(text) for queue in queues for text in client.lrange(queue, 0, -1))]


def deliver_again(broker: str, message: dict[str, Any], redelivered: bool = True) -> None:
    """Put a message of `messages_at` into the queue of a Redis broker, as one that is delivered again."""
    message["properties"]["delivery_tag"] = str(uuid.uuid4())
    message["properties"]["delivery_info"]["redelivered"] = redelivered
    redis.Redis.from_url(broker).rpush("celery", json.dumps(message))
