"""Takes the steps of locks for coroutines: short ones in a few threads, waiting in none of their own.

Stores are synchronous, and stay so: what they promise was tested that way, and a lease must be renewed while a loop is
blocked, which takes a thread anyhow.

A store that hangs keeps these threads for as long as its requests take. So a coroutine with a timeout waits for its
request until shortly after it, and not for those before it: a request that has not begun by then never does. What is to
be released then is released by other threads, which no request holds up.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from celery_locks import _logging
from celery_locks._durations import seconds_of
from celery_locks._sansio import Abandoned, Pause, Step, Steps, Turn, run
from celery_locks.aio.waits import Place, Waits
from celery_locks.aio.workers import Workers
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.base import Store

T = TypeVar("T")

logger = _logging.logger(__name__)

#: How many threads talk to one store, and how many clean up.
THREADS = 8
#: How long a cancelled coroutine waits until its place in line is given up, in seconds; then it is left to a thread.
GIVING_UP = 1.0
#: Seconds beyond its timeout that a coroutine waits for an answer of the store.
ANSWER_PATIENCE_SECONDS = 1.5


class Driver:
    """Takes steps in one store, for any number of loops."""

    def __init__(self) -> None:
        self._requests = Workers(THREADS, "celery-locks-aio")
        self._cleaners = Workers(THREADS, "celery-locks-aio-cleaner")
        self._waits = Waits()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Calls a function in a thread. It goes on to its end also when the coroutine is cancelled."""
        return await _ended(self._submit(partial(function, *args)))

    async def drive(self, steps: Steps[T], timeout: Any = None) -> T:
        """Take all steps. If it is cancelled, release what they acquired or may have acquired.

        Args:
            steps: What to do.
            timeout: The timeout that the steps were made with, if they have one.

        Raises:
            StoreUnavailable: The store did not answer in time.
        """
        places: dict[str, Place] = {}
        try:
            step, until = next(steps), None
            if timeout is not None:
                patience = max(0.0, seconds_of("timeout", timeout)) + ANSWER_PATIENCE_SECONDS
                until = asyncio.get_running_loop().time() + patience
            while True:
                step = steps.send(await self._take(steps, step, places, until))
        except (_Over, StopIteration) as end:
            result: T = end.value
            return result
        finally:
            for place in places.values():
                self._waits.remove(place)

    def close(self) -> None:
        """End the threads as soon as they have nothing to do."""
        for part in (self._requests, self._cleaners, self._waits):
            part.close()

    async def _take(self, steps: Steps[Any], step: Step, places: dict[str, Place], until: float | None) -> Any:
        asked: Future[Any] | None = None
        try:
            if isinstance(step, Turn):
                if step.token not in places:
                    places[step.token] = self._waits.add(step.store, step.name, step.token)
                return await places[step.token].wait(step.timeout)
            if isinstance(step, Pause):
                return await asyncio.sleep(step.seconds)
            asked = self._submit(step)
            return await _ended(asked, until)
        except _NoAnswer:
            late = StoreUnavailable("the lock store did not answer within the timeout, and some time beyond it")
            self._clean_up(steps, asked, late)
            raise late from None
        except Exception as error:
            # In a thread, since what follows an error may talk to the store.
            cleaned = self._cleaners.submit(partial(copy_context().run, run, steps, error))
            try:
                raise _Over(await _ended(cleaned, until)) from None
            except _NoAnswer:
                raise error from None
        except BaseException as error:
            await self._abandon(steps, asked, isinstance(error, asyncio.CancelledError))
            raise

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        # In the coroutine's context: what signals tell of a lease belongs to the trace that is under way there.
        return self._requests.submit(partial(copy_context().run, function))

    async def _abandon(self, steps: Steps[Any], asked: Future[Any] | None, patient: bool) -> None:
        try:
            cleaned = self._clean_up(steps, asked, Abandoned())
        except RuntimeError:  # the interpreter is shutting down
            steps.close()
            return
        if patient:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_ended(cleaned), GIVING_UP)

    def _clean_up(self, steps: Steps[Any], asked: Future[Any] | None, error: BaseException) -> Future[None]:
        """Have a thread release what the steps acquired, once the request that is under way has its answer.

        That answer may be a lease. A request that has not begun is not made any more.
        """
        if asked is None or asked.cancel():
            return self._cleaners.submit(partial(copy_context().run, _give_up, steps, error))
        cleaned: Future[None] = Future()
        context = copy_context()

        def clean(_: Future[Any]) -> None:
            try:
                context.run(_give_up, steps, error)
            finally:
                cleaned.set_result(None)

        asked.add_done_callback(lambda ended: self._cleaners.submit(partial(clean, ended)) and None)
        return cleaned


class _Over(Exception):
    """The steps went on to their end after an error."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _NoAnswer(Exception):
    """A request did not end in time."""


async def _ended(asked: Future[T], until: float | None = None) -> T:
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
    timer = None if until is None else loop.call_at(until, end)
    try:
        await ended
    finally:
        if timer is not None:
            timer.cancel()
    if not asked.done():
        raise _NoAnswer
    return asked.result()


def _give_up(steps: Steps[Any], error: BaseException) -> None:
    """Throw an error into steps whose caller has gone, so that they release what they acquired."""
    try:
        run(steps, error)
    except BaseException as raised:
        if raised is not error:
            logger.exception("giving up a place in line failed")


#: A driver has no reference to its store, so that both can go.
_drivers: WeakKeyDictionary[Store, Driver] = WeakKeyDictionary()


def driver_of(store: Store) -> Driver:
    """The driver of a store in this process."""
    driver = _drivers.get(store)
    return _drivers.setdefault(store, Driver()) if driver is None else driver


def close_driver(store: Store) -> None:
    """End the threads of a store's driver. The next use of the store by a coroutine makes a new driver."""
    driver = _drivers.pop(store, None)
    if driver is not None:
        driver.close()


def _in_forked_child() -> None:
    global _drivers
    _drivers = WeakKeyDictionary()  # its threads are the parent's


os.register_at_fork(after_in_child=_in_forked_child)
