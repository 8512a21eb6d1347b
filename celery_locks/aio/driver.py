"""Runs the steps of locks for coroutines: requests in a few threads, waits in threads that many coroutines share.

Stores are synchronous also for coroutines. They are tested that way, and a lease must be renewed while its loop is
blocked, which takes a thread anyhow.

A store that hangs blocks these threads. So a coroutine with a timeout waits for its request only until shortly after
the timeout. If the request has not begun by then, it is cancelled. Other threads, which no request can block, release
the claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from celery_locks import _logging
from celery_locks._durations import seconds_of
from celery_locks._runtime.process import PerProcess
from celery_locks._sansio import CallerCancelled, Step, Steps, Turn, run
from celery_locks.aio.waits import Waiter, WaitGroups
from celery_locks.aio.workers import Workers
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.base import Store

T = TypeVar("T")

logger = _logging.logger(__name__)

#: How many threads send requests to a store, and how many clean up.
THREADS = 8
#: How long a cancelled coroutine waits until it has left the line. After that, it ends, and a thread goes on.
CANCEL_PATIENCE_SECONDS = 1.0
#: How long after its timeout a coroutine waits for an answer of the store.
ANSWER_PATIENCE_SECONDS = 1.5


class Driver:
    """Runs steps in one store, for any number of loops."""

    def __init__(self) -> None:
        self._requests = Workers(THREADS, "celery-locks-aio")
        self._cleaners = Workers(THREADS, "celery-locks-aio-cleaner")
        self._waits = WaitGroups()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in a thread. The call is completed even if the coroutine is cancelled."""
        return await _result(self._submit(partial(function, *args)))

    async def drive(self, steps: Steps[T], timeout: Any = None) -> T:
        """Run all steps. If the coroutine is cancelled, release everything that they acquired or may have acquired.

        Args:
            steps: The steps.
            timeout: The timeout of the steps, if they have one.

        Raises:
            StoreUnavailable: The store did not answer in time.
        """
        waiters: dict[str, Waiter] = {}
        try:
            step, until = next(steps), None
            if timeout is not None:
                patience = max(0.0, seconds_of("timeout", timeout)) + ANSWER_PATIENCE_SECONDS
                until = asyncio.get_running_loop().time() + patience
            while True:
                step = steps.send(await self._run_step(steps, step, waiters, until))
        except (_Finished, StopIteration) as end:
            result: T = end.value
            return result
        finally:
            for waiter in waiters.values():
                self._waits.remove(waiter)

    def close(self) -> None:
        """End the threads as soon as they have nothing to do."""
        for part in (self._requests, self._cleaners, self._waits):
            part.close()

    async def _run_step(self, steps: Steps[Any], step: Step, waiters: dict[str, Waiter], until: float | None) -> Any:
        request: Future[Any] | None = None
        try:
            if isinstance(step, Turn):
                if step.token not in waiters:
                    waiters[step.token] = self._waits.add(step.store, step.name, step.token)
                return await waiters[step.token].wait(step.timeout)
            request = self._submit(step)
            return await _result(request, until)
        except _NoAnswer:
            late = StoreUnavailable("the lock store did not answer within the timeout, and some time beyond it")
            self._clean_up(steps, request, late)
            raise late from None
        except Exception as error:
            # In a thread, since the steps that follow an error may send requests to the store.
            cleaned = self._cleaners.submit(partial(copy_context().run, run, steps, error))
            try:
                raise _Finished(await _result(cleaned, until)) from None
            except _NoAnswer:
                raise error from None
        except BaseException as error:
            await self._cancel(steps, request, isinstance(error, asyncio.CancelledError))
            raise

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        # In the coroutine's context: the signals of a lease belong to the trace that is current there.
        return self._requests.submit(partial(copy_context().run, function))

    async def _cancel(self, steps: Steps[Any], request: Future[Any] | None, patient: bool) -> None:
        try:
            cleaned = self._clean_up(steps, request, CallerCancelled())
        except RuntimeError:  # the interpreter is shutting down
            steps.close()
            return
        if patient:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_result(cleaned), CANCEL_PATIENCE_SECONDS)

    def _clean_up(self, steps: Steps[Any], request: Future[Any] | None, error: BaseException) -> Future[None]:
        """Release in a thread what the steps acquired, once the current request is answered.

        The answer may be a lease. A request that has not begun is cancelled.
        """
        if request is None or request.cancel():
            return self._cleaners.submit(partial(copy_context().run, _throw, steps, error))
        cleaned: Future[None] = Future()
        context = copy_context()

        def clean(_: Future[Any]) -> None:
            try:
                context.run(_throw, steps, error)
            finally:
                cleaned.set_result(None)

        request.add_done_callback(lambda ended: self._cleaners.submit(partial(clean, ended)) and None)
        return cleaned


class _Finished(Exception):
    """The steps have handled an error and ended."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _NoAnswer(Exception):
    """A request did not end in time."""


async def _result(request: Future[T], until: float | None = None) -> T:
    # Not asyncio's own `wrap_future`, which cancels the request with the coroutine: a release must be completed.
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    def end_on_loop(_: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop is closed, so no coroutine waits
            loop.call_soon_threadsafe(end)

    request.add_done_callback(end_on_loop)
    timer = None if until is None else loop.call_at(until, end)
    try:
        await ended
    finally:
        if timer is not None:
            timer.cancel()
    if not request.done():
        raise _NoAnswer
    return request.result()


def _throw(steps: Steps[Any], error: BaseException) -> None:
    """Throw an error into steps whose caller has gone, so that they release what they acquired."""
    try:
        run(steps, error)
    except BaseException as raised:
        if raised is not error:
            logger.exception("leaving the line failed")


#: A driver has no reference to its store, so that both can be collected. In a forked child, the threads of these
#: drivers don't run.
_drivers: PerProcess[WeakKeyDictionary[Store, Driver]] = PerProcess(WeakKeyDictionary)


def driver_of(store: Store) -> Driver:
    """Return the driver of a store in this process."""
    driver = _drivers().get(store)
    return _drivers().setdefault(store, Driver()) if driver is None else driver


def close_driver(store: Store) -> None:
    """End the threads of a store's driver. The next use of the store by a coroutine makes a new driver."""
    driver = _drivers().pop(store, None)
    if driver is not None:
        driver.close()
