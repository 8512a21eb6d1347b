"""Takes the steps of locks for coroutines: short ones in a few threads, waiting in none of their own.

Stores are synchronous, and stay so: what they promise was tested that way, and a lease must be renewed while a loop is
blocked, which takes a thread anyhow.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from celery_locks import log
from celery_locks.aio.waits import Place, Waits
from celery_locks.steps import Abandoned, Pause, Step, Steps, Turn, run
from celery_locks.stores.base import Store

T = TypeVar("T")

logger = log.logger(__name__)

#: How many threads talk to one store.
THREADS = 8
#: How long a cancelled coroutine waits until its place in line is given up, in seconds; then it is left to a thread.
GIVING_UP = 1.0


class Driver:
    """Takes steps in one store, for any number of loops."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="celery-locks-aio")
        self._waits = Waits()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Calls a function in a thread. It goes on to its end also when the coroutine is cancelled."""
        return await _ended(self._submit(partial(function, *args)))

    async def drive(self, steps: Steps[T]) -> T:
        """Takes all steps. When it is cancelled, what they had or may have got is given back."""
        places: dict[str, Place] = {}
        try:
            step = next(steps)
            while True:
                step = steps.send(await self._take(steps, step, places))
        except (_Over, StopIteration) as end:
            result: T = end.value
            return result
        finally:
            for place in places.values():
                self._waits.remove(place)

    async def _take(self, steps: Steps[Any], step: Step, places: dict[str, Place]) -> Any:
        asked: Future[Any] | None = None
        try:
            if isinstance(step, Turn):
                if step.token not in places:
                    places[step.token] = self._waits.add(step.store, step.name, step.token)
                return await places[step.token].wait(step.timeout)
            if isinstance(step, Pause):
                return await asyncio.sleep(step.seconds)
            asked = self._submit(step)
            return await _ended(asked)
        except Exception as error:
            # In a thread, since what follows an error may talk to the store.
            raise _Over(await self.call(run, steps, error)) from None
        except BaseException as error:
            await self._abandon(steps, asked, isinstance(error, asyncio.CancelledError))
            raise

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        # In the coroutine's context: what signals tell of a lease belongs to the trace that is under way there.
        return self._pool.submit(copy_context().run, function)

    async def _abandon(self, steps: Steps[Any], asked: Future[Any] | None, patient: bool) -> None:
        if asked is not None and asked.cancel():
            asked = None  # it had not been sent
        try:
            given_up = self._submit(partial(_abandon, steps, asked))
        except RuntimeError:  # the interpreter is shutting down
            steps.close()
            return
        if patient:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_ended(given_up), GIVING_UP)


class _Over(Exception):
    """The steps went on to their end after an error."""

    def __init__(self, value: Any) -> None:
        self.value = value


async def _ended(asked: Future[T]) -> T:
    # Not asyncio's own `wrap_future`, which takes back what was asked for when the coroutine is cancelled: a release
    # above all is to be done all the same.
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    def tell(_: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(end)

    asked.add_done_callback(tell)
    await ended
    return asked.result()


def _abandon(steps: Steps[Any], asked: Future[Any] | None) -> None:
    """Gives back what the steps had, once the request that is under way has its answer: it may be a lease."""
    if asked is not None:
        wait([asked])
    try:
        with suppress(Abandoned):
            run(steps, Abandoned())
    except Exception:
        logger.exception("giving up a place in line failed")


#: A driver has no reference to its store, so that both can go.
_drivers: WeakKeyDictionary[Store, Driver] = WeakKeyDictionary()


def driver_of(store: Store) -> Driver:
    """The driver of a store in this process."""
    driver = _drivers.get(store)
    return _drivers.setdefault(store, Driver()) if driver is None else driver


def _in_forked_child() -> None:
    global _drivers
    _drivers = WeakKeyDictionary()  # its threads are the parent's


os.register_at_fork(after_in_child=_in_forked_child)
