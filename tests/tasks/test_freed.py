"""What a run and a lock leave behind: all of it is freed at once, without the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest
from celery import Celery

from celery_locks import LockedTask, Locks
from celery_locks.stores.memory import MemoryStore
from celery_locks.tasks.run import run_of
from tests.support.waiting import eventually


@pytest.fixture
def collector_off() -> Iterator[None]:
    """The garbage collector does not run, so only reference counts free objects."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run_task(seen: list[weakref.ref[Any]], **options: Any) -> None:
    """Run a task eagerly, and note the objects of its run."""
    app = Celery("freed", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.locks_url = MemoryStore()

    @app.task(base=LockedTask, bind=True, shared=False, name="notes", lock_key="k", **options)
    def notes(task: Any) -> None:
        run = run_of(task)
        assert run is not None
        seen.extend(weakref.ref(each) for each in (run, run.entry, run.guard))

    notes.apply().get()


def is_freed(seen: list[weakref.ref[Any]]) -> bool:
    """Return whether none of the noted objects is left."""
    return all(each() is None for each in seen)


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("on_lost", ["abort", "signal"])
@pytest.mark.parametrize("in_thread", [False, True], ids=["main thread", "other thread"])
def test_a_run_is_gone_when_it_has_ended(on_lost: str, in_thread: bool) -> None:
    seen: list[weakref.ref[Any]] = []
    if in_thread:
        thread = Thread(target=run_task, args=(seen,), kwargs={"lock_on_lost": on_lost})
        thread.start()
        thread.join()
    else:
        run_task(seen, lock_on_lost=on_lost)
    assert len(seen) == 3
    eventually(lambda: is_freed(seen))


@pytest.mark.usefixtures("collector_off")
def test_a_lock_and_its_lease_are_gone_after_the_release() -> None:
    locks = Locks(MemoryStore())
    lock = locks.lock("k")
    lease = lock.acquire()
    seen: list[weakref.ref[Any]] = [weakref.ref(lock), weakref.ref(lease)]
    lease.release()
    del lock, lease
    eventually(lambda: is_freed(seen))
