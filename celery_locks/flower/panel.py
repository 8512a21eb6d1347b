"""What the panels of one Flower know: the locks that they read, one panel for each store, and the history of them."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tornado.options import options

from celery_locks import LockConfigError, LockError, Locks, StoreUnavailable, _logging
from celery_locks._logging import one_line
from celery_locks._validation import DEFAULT_STORE
from celery_locks.flower import shown
from celery_locks.flower.history import History
from celery_locks.flower.store_threads import StoreBusy, StoreThreads
from celery_locks.keys.names import described
from celery_locks.keys.text import check_key
from celery_locks.locks import store_names
from celery_locks.stores.types import Holder
from celery_locks.tasks.force_release import force_release_by_fencing_token, force_release_lease
from celery_locks.views import NEAR_SECONDS, read_key, read_owned, store_fields

logger = _logging.logger(__name__)
T = TypeVar("T")

#: Seconds between two looks at the store for the history.
DEFAULT_POLL = 5.0
#: How many keys one such look sees; the next goes on after them.
WATCHED = 100
#: How many reads, and how many releases, are under way at the same time.
MOST_READS, MOST_RELEASES = 4, 2
#: Seconds within which each is answered. A page gives up a read after 4 s, and a release after 10 s.
READ_WITHIN, RELEASE_WITHIN = 3.5, 5.0


class Panel:
    """The locks of a Celery app in one store, read by threads of its own: one that hangs holds up nothing else."""

    def __init__(self, app: Any, store: str) -> None:
        self._app = app
        self.store = store
        self._opening = threading.Lock()
        self._locks: Locks | None = None
        self._reads = StoreThreads(MOST_READS, "reads", READ_WITHIN)
        self._releases = StoreThreads(MOST_RELEASES, "releases", RELEASE_WITHIN)
        self._watcher = ThreadPoolExecutor(1, thread_name_prefix="celery-locks-flower-watch")
        self.history = History()

    async def index(self, prefix: str, after: str | None, count: int) -> dict[str, Any]:
        """A page of keys, with figures over all: two reads, whatever the number of locks.

        Args:
            prefix: What the keys begin with.
            after: The key after which it begins.
            count: How many at most, up to 1000.

        Raises:
            LockConfigError: No store is set, it keeps no list, or the count is out of bounds.
            StoreUnavailable: The store can't be reached, or is too slow.
        """
        return await self._reads.run(lambda: self._index(prefix, after, count), (prefix, after, count))

    async def key(self, key: str, part: str = "") -> dict[str, Any]:
        """All that is known of a key, or of a part of it: two reads at most.

        Raises:
            LockKeyError: It is empty, or there is no such part.
            LockConfigError: No store is set.
            StoreUnavailable: The store can't be reached, or is too slow.
        """
        return await self._reads.run(lambda: self._key(key, part), (key, part))

    async def release(self, key: str, part: str, fencing_token: int, by: str) -> Holder | None:
        """Ends the lease of a key that has this fencing token; see `free_one`.

        Args:
            key: The key.
            part: Which part of it; see `LockInfo.part`.
            fencing_token: Which of its leases.
            by: Who wants it, as one line.

        Raises:
            LockKeyError: The key is empty, or there is no such part.
            LockConfigError: No store is set.
            StoreUnavailable: The store can't be reached, or is too slow. The message says whether it may have been
                released all the same.
        """

        def work() -> Holder | None:
            holder = force_release_by_fencing_token(self.locks(), key, fencing_token, part)
            if holder is not None:
                self._record(check_key(key), part, holder, by)
            return holder

        return await self._run_release(work)

    async def release_owned(self, owner: str, by: str) -> list[tuple[str, str, Holder]]:
        """End all leases of an owner, and of those within it.

        Args:
            owner: The owner's name; see `Locks.release_owned_by`.
            by: Who wants it, as one line.

        Returns:
            The key of each lease that was released, its part, and its holder.

        Raises:
            LockConfigError: No store is set, or it keeps no list.
            StoreUnavailable: The store can't be reached, or is too slow; some may have been released all the same.
        """

        def work() -> list[tuple[str, str, Holder]]:
            locks = self.locks()
            released = []
            for info, holder in read_owned(locks, owner, "the release of an owner's leases"):
                if force_release_lease(locks, info.key, holder, info.part):
                    self._record(info.key, info.part, holder, by)
                    released.append((info.key, info.part, holder))
            return released

        return await self._run_release(work)

    def _record(self, key: str, part: str, holder: Holder, by: str) -> None:
        """Log a release, and keep it in the history."""
        which = described(key, part)
        if self.store != DEFAULT_STORE:
            which += f" in the store {one_line(self.store)}"
        logger.warning("%s, held by %s, was released in Flower by %s", which, holder.owner, by)
        self.history.freed(key, part, holder, by)

    async def _run_release(self, work: Callable[[], T]) -> T:
        try:
            return await self._releases.run(work)
        except StoreBusy as error:
            raise StoreUnavailable(f"nothing was released: {error}") from None
        except StoreUnavailable as error:
            raise StoreUnavailable(f"the lease may have been released all the same: {error}") from error

    def locks(self) -> Locks:
        """The locks, opened by whoever asks first.

        Raises:
            LockConfigError: No store is set.
        """
        with self._opening:
            if self._locks is None:
                self._locks = open_locks(self._app, self.store)
            return self._locks

    async def watch(self) -> None:
        """Looks at the store now and then, for the history, as long as Flower runs: one read each time."""
        poll, after = options.locks_poll, None
        if not 0 < poll < math.inf:
            return
        self.history.watched_every = poll
        while True:
            try:
                after = await asyncio.get_running_loop().run_in_executor(self._watcher, self._look, after)
            except LockConfigError as error:
                logger.info("the history of locks is not watched: %s", error)
                self.history.watched_every = None
                return
            except LockError as error:
                logger.debug("the history of locks has a gap: %s", error)
            except Exception:
                logger.exception("the history of locks has a gap")
            await asyncio.sleep(poll)

    def _look(self, after: str | None) -> str | None:
        locks = self.locks()
        page = locks.list("", after, WATCHED)
        self.history.see_page(locks.prefix, "", after, page, time.time())
        return page.next

    def _index(self, prefix: str, after: str | None, count: int) -> dict[str, Any]:
        locks = self.locks()
        page, stats = locks.list(prefix, after, count), locks.stats(NEAR_SECONDS)
        now = time.time()
        self.history.see_page(locks.prefix, prefix, after, page, now)
        return {"store": store_fields(locks), **shown.index(page, stats, now)}

    def _key(self, key: str, part: str) -> dict[str, Any]:
        locks = self.locks()
        (info, parts), now = read_key(locks, key, part), time.time()
        self.history.see_key(info, now)
        history = self.history.of(info.key, part)
        return {**shown.one(info, parts, now), "store": store_fields(locks), "history": history}


def stores_of(app: Any) -> tuple[str, ...]:
    """Return the names of the stores that are shown: those of the app, unless an option names the store."""
    try:
        return (DEFAULT_STORE,) if options.locks_url else store_names(app.conf)
    except LockConfigError:  # which each page shows when it reads the store
        return (DEFAULT_STORE,)


def open_locks(app: Any, store: str = DEFAULT_STORE) -> Locks:
    """Open the locks that the options name, otherwise those of the app.

    Raises:
        LockConfigError: Neither names any.
    """
    prefix = options.locks_prefix or app.conf.get("locks_prefix")
    named = {"prefix": prefix} if prefix else {}
    if options.locks_url:
        return Locks(options.locks_url, **named)
    found = Locks.from_app(app, store)
    found._space.prefix = prefix or found.prefix
    return found


_panels: dict[tuple[Any, str], Panel] = {}
_making = threading.Lock()


def panel_of(app: Any, store: str = DEFAULT_STORE) -> Panel:
    """Return the panel of a store of a Celery app.

    Raises:
        LookupError: None of the stores that are shown has this name.
    """
    names = stores_of(app)
    if store not in names:
        raise LookupError(f"no store has the name {store!r}: the names are {', '.join(map(repr, names))}")
    with _making:
        if (app, store) not in _panels:
            _panels[app, store] = Panel(app, store)
        return _panels[app, store]
