"""What the panel of one Flower knows: the locks that it reads, and the history that it keeps of them."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tornado.options import options

from celery_locks import LockConfigError, LockError, Locks, StoreUnavailable, log
from celery_locks.flower import shown
from celery_locks.flower.history import History
from celery_locks.flower.threads import StoreBusy, StoreThreads
from celery_locks.key_text import check_key
from celery_locks.listing import parts_of
from celery_locks.names import described
from celery_locks.stores.base import Holder
from celery_locks.tasks.freeing import free_one

logger = log.logger(__name__)

#: Seconds between two looks at the store for the history.
DEFAULT_POLL = 5.0
#: How many keys one such look sees; the next goes on after them.
WATCHED = 100
#: How many reads, and how many releases, are under way at the same time.
MOST_READS, MOST_RELEASES = 4, 2
#: Seconds within which each is answered. A page gives up a read after 4 s, and a release after 10 s.
READ_WITHIN, RELEASE_WITHIN = 3.5, 5.0


class Panel:
    """The locks of a Celery app, read by threads of its own: a store that hangs holds up nothing else in Flower."""

    def __init__(self, app: Any) -> None:
        self._app = app
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
            holder = free_one(self.locks(), key, fencing_token, part)
            if holder is not None:
                which = described(key, part)
                logger.warning("%s, held by %s, was released in Flower by %s", which, holder.owner, by)
                self.history.freed(check_key(key), part, holder, by)
            return holder

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
                self._locks = open_locks(self._app)
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
        page, stats = locks.list(prefix, after, count), locks.stats(shown.NEAR)
        now = time.time()
        self.history.see_page(locks.prefix, prefix, after, page, now)
        return {"store": shown.store(locks), **shown.index(page, stats, now)}

    def _key(self, key: str, part: str) -> dict[str, Any]:
        locks = self.locks()
        info, now = locks.info(key, part), time.time()
        parts = [] if part else parts_of(locks, info.key)
        self.history.see_key(info, now)
        return {"store": shown.store(locks), **shown.one(info, parts, now), "history": self.history.of(info.key, part)}


def open_locks(app: Any) -> Locks:
    """The locks that the options name, else those of the app.

    Raises:
        LockConfigError: Neither names any.
    """
    prefix = options.locks_prefix or app.conf.get("locks_prefix")
    named = {"prefix": prefix} if prefix else {}
    if options.locks_url:
        return Locks(options.locks_url, **named)
    found = Locks.from_app(app)
    return Locks(found.store, **named) if options.locks_prefix else found


_panels: dict[Any, Panel] = {}
_making = threading.Lock()


def panel_of(app: Any) -> Panel:
    """The panel of a Celery app."""
    with _making:
        if app not in _panels:
            _panels[app] = Panel(app)
        return _panels[app]
