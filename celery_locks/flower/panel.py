"""The panels of a Flower. There is one for each store, with its locks, its threads and its history."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tornado.options import options

from celery_locks import LockConfigError, LockError, Locks, StoreUnavailable
from celery_locks._logging import logger, one_line
from celery_locks._validation import DEFAULT_STORE
from celery_locks.flower.history import History
from celery_locks.flower.payloads import key_payload, page_payload
from celery_locks.flower.store_threads import StoreBusy, StoreThreads
from celery_locks.keys.names import described
from celery_locks.keys.text import check_key
from celery_locks.locks import store_names
from celery_locks.stores.types import Holder
from celery_locks.views import (
    NEAR_SECONDS,
    read_key,
    read_owned,
    release_by_fencing_token,
    release_lease,
    store_fields,
    with_prefix,
)

log = logger(__name__)
T = TypeVar("T")

#: Seconds between two reads of the store for the history.
DEFAULT_POLL_SECONDS = 5.0
#: How many keys one of these reads returns. The next one continues after them.
POLLED_KEYS = 100
#: How many reads, and how many releases, run at the same time.
MOST_READS, MOST_RELEASES = 4, 2
#: Seconds within which each is answered. A page gives up a read after 4 s, and a release after 10 s.
READ_SECONDS, RELEASE_SECONDS = 3.5, 5.0


class Panel:
    """The locks of a Celery app in one store. Its threads read the store, so a slow store blocks nothing else."""

    def __init__(self, app: Any, store: str) -> None:
        self._app = app
        self.store = store
        self._opening = threading.Lock()
        self._locks: Locks | None = None
        self._reads = StoreThreads(MOST_READS, "reads", READ_SECONDS)
        self._releases = StoreThreads(MOST_RELEASES, "releases", RELEASE_SECONDS)
        self._poller = ThreadPoolExecutor(1, thread_name_prefix="celery-locks-flower-watch")
        self.history = History()

    def locks(self) -> Locks:
        """Return the locks. The first call opens them.

        Raises:
            LockConfigError: No store is set.
        """
        with self._opening:
            if self._locks is None:
                self._locks = open_locks(self._app, self.store)
            return self._locks

    async def read_list(self, prefix: str, after: str | None, count: int) -> dict[str, Any]:
        """Return a page of keys, with figures over all keys. This takes two reads of the store.

        Args:
            prefix: Only keys that begin with it.
            after: Only keys after this one.
            count: How many keys, up to 1000.

        Raises:
            LockConfigError: No store is set, it keeps no list, or the count is out of bounds.
            StoreUnavailable: The store can't be reached, or is too slow.
        """

        def read() -> dict[str, Any]:
            locks = self.locks()
            page, stats = locks.list(prefix, after, count), locks.stats(NEAR_SECONDS)
            now = time.time()
            self.history.record_page(prefix, after, page, now)
            return {"store": store_fields(locks), **page_payload(page, stats, now)}

        return await self._reads.run(read, (prefix, after, count))

    async def read_key(self, key: str, part: str = "") -> dict[str, Any]:
        """Return a key, or a part of it, with its history. This takes at most two reads of the store.

        Raises:
            LockKeyError: The key is empty, or there is no part of this name.
            LockConfigError: No store is set.
            StoreUnavailable: The store can't be reached, or is too slow.
        """

        def read() -> dict[str, Any]:
            locks = self.locks()
            (info, parts), now = read_key(locks, key, part), time.time()
            self.history.record_visit(info, now)
            history = self.history.payload(info.key, part)
            return {**key_payload(info, parts, now), "store": store_fields(locks), "history": history}

        return await self._reads.run(read, (key, part))

    async def release(self, key: str, part: str, fencing_token: int, user: str) -> Holder | None:
        """Release the lease of a key that has this fencing token; see `release_by_fencing_token`.

        Args:
            key: The key.
            part: The part of the key; see `LockInfo.part`.
            fencing_token: The fencing token of the lease.
            user: The user who releases it, as one line.

        Raises:
            LockKeyError: The key is empty, or there is no part of this name.
            LockConfigError: No store is set.
            StoreUnavailable: The store can't be reached, or is too slow. The message states whether the lease may have
                been released all the same.
        """

        def release() -> Holder | None:
            holder = release_by_fencing_token(self.locks(), key, fencing_token, part)
            if holder is not None:
                self._record_release(check_key(key), part, holder, user)
            return holder

        return await self._run_release(release)

    async def release_owned(self, owner: str, user: str) -> list[tuple[str, str, Holder]]:
        """Release all leases of an owner, and of the owners within it.

        Args:
            owner: The owner's name; see `Locks.release_owned_by`.
            user: The user who releases them, as one line.

        Returns:
            The key of each lease that was released, its part, and its holder.

        Raises:
            LockConfigError: No store is set, or it keeps no list.
            StoreUnavailable: The store can't be reached, or is too slow. Some may have been released all the same.
        """

        def release() -> list[tuple[str, str, Holder]]:
            locks = self.locks()
            released = []
            for info, holder in read_owned(locks, owner, "the release of an owner's leases"):
                if release_lease(locks, info.key, holder, info.part):
                    self._record_release(info.key, info.part, holder, user)
                    released.append((info.key, info.part, holder))
            return released

        return await self._run_release(release)

    def _record_release(self, key: str, part: str, holder: Holder, user: str) -> None:
        which = described(key, part)
        if self.store != DEFAULT_STORE:
            which += f" in the store {one_line(self.store)}"
        log.warning("%s, held by %s, was released in Flower by %s", which, holder.owner, user)
        self.history.record_release(key, part, holder, user)

    async def _run_release(self, release: Callable[[], T]) -> T:
        try:
            return await self._releases.run(release)
        except StoreBusy as error:
            raise StoreUnavailable(f"nothing was released: {error}") from None
        except StoreUnavailable as error:
            raise StoreUnavailable(f"the lease may have been released all the same: {error}") from error

    async def watch(self) -> None:
        """Read the store at intervals, for the history, until Flower ends. Each time it takes one read."""
        interval, after = options.locks_poll, None
        if not 0 < interval < math.inf:
            return
        self.history.poll_interval = interval
        while True:
            try:
                after = await asyncio.get_running_loop().run_in_executor(self._poller, self._poll, after)
            except LockConfigError as error:
                log.info("no history of locks is recorded: %s", error)
                self.history.poll_interval = None
                return
            except LockError as error:
                log.debug("the history of locks has a gap: %s", error)
            except Exception:
                log.exception("the history of locks has a gap")
            await asyncio.sleep(interval)

    def _poll(self, after: str | None) -> str | None:
        page = self.locks().list("", after, POLLED_KEYS)
        self.history.record_page("", after, page, time.time())
        return page.next


def stores_of(app: Any) -> tuple[str, ...]:
    """Return the names of the stores that Flower shows: the stores of the app, unless ``--locks_url`` names one."""
    try:
        return (DEFAULT_STORE,) if options.locks_url else store_names(app.conf)
    except LockConfigError:  # each page shows the error when it reads the store
        return (DEFAULT_STORE,)


def open_locks(app: Any, store: str = DEFAULT_STORE) -> Locks:
    """Open the locks that Flower's options name, otherwise the locks of the app.

    Raises:
        LockConfigError: No store is set.
    """
    prefix = options.locks_prefix or app.conf.get("locks_prefix")
    locks = Locks(options.locks_url) if options.locks_url else Locks.from_app(app, store)
    return with_prefix(locks, prefix) if prefix else locks


_panels: dict[tuple[Any, str], Panel] = {}
_panels_lock = threading.Lock()


def panel_of(app: Any, store: str = DEFAULT_STORE) -> Panel:
    """Return the panel of a store of a Celery app.

    Raises:
        LookupError: Flower shows no store of this name.
    """
    names = stores_of(app)
    if store not in names:
        raise LookupError(f"no store has the name {store!r}: the names are {', '.join(map(repr, names))}")
    with _panels_lock:
        if (app, store) not in _panels:
            _panels[app, store] = Panel(app, store)
        return _panels[app, store]
