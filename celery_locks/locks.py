"""`Locks`: leases outside tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from celery_locks._addresses import addresses_in, mask
from celery_locks._durations import Duration
from celery_locks._runtime.clock import Clock, system_clock
from celery_locks._space import Space
from celery_locks._validation import (
    DEFAULT_PREFIX,
    DEFAULT_STORE,
    DEFAULT_TTL,
    Terms,
    checked_count,
    checked_longest,
    checked_terms,
    checked_ttl,
)
from celery_locks.errors import LockConfigError, LockError, LockKeyError, LockNotOwned
from celery_locks.keys.names import check_part
from celery_locks.keys.text import check_key
from celery_locks.lease import Lease, renew_one
from celery_locks.lock import Lock
from celery_locks.renewal import keeper
from celery_locks.semaphore import ReadWriteLock, Semaphore
from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim

if TYPE_CHECKING:
    from celery_locks.lock_info import LockInfo, Page, Stats
    from celery_locks.lockable import Lockable
    from celery_locks.multi import MultiLock
    from celery_locks.signals import OutcomeCallback

T = TypeVar("T")


class Locks:
    """Locks in a store.

    Args:
        store: A `Store`, or its URL; by default the URL in the environment variable ``CELERY_LOCKS_URL``.
        prefix: The beginning of all names in the store. Locks with different prefixes never exclude each other.
        owner: The holder's name that others see; host and process id by default.
        clock: The clock of the leases' deadlines. Tests pass one that they can move.

    Raises:
        LockConfigError: There is no URL, or it is not that of a store; or the prefix is empty or has braces.
    """

    def __init__(
        self,
        store: str | Store | None = None,
        *,
        prefix: str = DEFAULT_PREFIX,
        owner: str | None = None,
        clock: Clock = system_clock,
    ) -> None:
        store = store or os.environ.get("CELERY_LOCKS_URL")
        if not store:
            raise LockConfigError(NO_STORE)
        if not isinstance(store, (str, Store)):
            raise LockConfigError(f"a store is a URL or a Store such as RedisStore(client), not {type(store).__name__}")
        if not prefix or "{" in prefix or "}" in prefix:
            raise LockConfigError(f"prefix={prefix!r} is empty or has braces: give a text without braces")
        url = mask(store) if isinstance(store, str) else type(store).__name__
        opened = open_store(store) if isinstance(store, str) else store
        self._space = Space(opened, url, prefix, owner, clock, DEFAULT_STORE)

    @classmethod
    def from_app(cls, app: Any, store: str = DEFAULT_STORE) -> Locks:
        """Return the locks of a Celery app, in a store of its settings.

        ``locks_stores`` names stores, such as ``{"default": url, "audit": url}``. Without a default store there, the
        first of these that is set is the default: ``locks_url``, the variable ``CELERY_LOCKS_URL``, the result backend,
        the broker (the last two if they are Redis or Valkey). ``locks_prefix`` is the prefix.

        Args:
            app: The app.
            store: The name of the store.

        Raises:
            LockConfigError: No store is set, or no store has this name.
        """
        locks = cls(app_store(app.conf, store), prefix=app.conf.get("locks_prefix", DEFAULT_PREFIX))
        locks._space.store_name = store
        return locks

    @property
    def store(self) -> Store:
        """The store."""
        return self._space.store

    @property
    def store_name(self) -> str:
        """The name of the store among the stores of an app."""
        return self._space.store_name

    @property
    def url(self) -> str:
        """The store's address without its password, or the name of its class."""
        return self._space.url

    @property
    def prefix(self) -> str:
        """The beginning of all names in the store."""
        return self._space.prefix

    @property
    def owner(self) -> str | None:
        """The holder's name that others see, ``None`` for host and process id."""
        return self._space.owner

    def lock(
        self,
        key: str,
        ttl: Duration = DEFAULT_TTL,
        *,
        renew: bool | Duration = True,
        max_hold: Duration | None = None,
        owner: str | None = None,
        max_waiters: int | None = None,
        on_event: OutcomeCallback | None = None,
    ) -> Lock:
        """Return the lock of a key. Nothing is acquired yet.

        Args:
            key: What to lock: any text that is not empty.
            ttl: How long a lease lives without renewal: seconds, a ``timedelta`` or a text such as ``"5m"``.
            renew: Whether to renew the lease while it is held: ``True`` for every ``ttl / 3``, or the time between two
                renewals, at most ``ttl / 2``.
            max_hold: The longest holding. Then renewal stops, and the lease is lost.
            owner: The holder's name that others see; that of the `Locks` by default.
            max_waiters: How many may wait in line at most. The next one gets `LockQueueFull`.
            on_event: Called with each `Outcome` of this lock, in the thread in which it happens; see `Outcome.kind`.

        Raises:
            LockKeyError: The key is empty or not a text.
            LockConfigError: Another argument is wrong, or the store has no line for ``max_waiters``.
        """
        terms = self._terms(key, ttl, renew, max_hold, max_waiters=max_waiters)
        return Lock(self._space, check_key(key), terms, owner, on_event=on_event)

    def semaphore(
        self,
        key: str,
        limit: int,
        ttl: Duration = DEFAULT_TTL,
        *,
        renew: bool | Duration = True,
        max_hold: Duration | None = None,
        owner: str | None = None,
        max_waiters: int | None = None,
        on_event: OutcomeCallback | None = None,
    ) -> Semaphore:
        """Return the semaphore of a key, of which ``limit`` permits may be held at the same time.

        Users of one key may give different limits, since each acquisition has its own; see `Semaphore`. The other
        arguments are those of `lock`. Nothing is acquired yet.

        Raises:
            LockKeyError: The key is empty or not a text.
            LockConfigError: Another argument is wrong, or the store has no semaphores.
        """
        self._space.require("semaphores", "locks.semaphore()", key)
        terms = self._terms(key, ttl, renew, max_hold, limit, max_waiters)
        return Semaphore(self._space, check_key(key), terms, owner, on_event)

    def read_write(
        self,
        key: str,
        ttl: Duration = DEFAULT_TTL,
        *,
        renew: bool | Duration = True,
        max_hold: Duration | None = None,
        owner: str | None = None,
        max_waiters: int | None = None,
        on_event: OutcomeCallback | None = None,
    ) -> ReadWriteLock:
        """Return the read-write lock of a key: many readers may hold it at the same time, or one writer.

        The arguments are those of `lock`. All users of a key have to use it in this way: a plain lock of the same key
        does not exclude readers. Nothing is acquired yet.

        Raises:
            LockKeyError: The key is empty or not a text.
            LockConfigError: Another argument is wrong, or the store has no semaphores.
        """
        self._space.require("semaphores", "locks.read_write()", key)
        terms = self._terms(key, ttl, renew, max_hold, max_waiters=max_waiters)
        return ReadWriteLock(self._space, check_key(key), terms, owner, on_event)

    def multi(
        self,
        keys: Iterable[str],
        ttl: Duration = DEFAULT_TTL,
        *,
        renew: bool | Duration = True,
        max_hold: Duration | None = None,
        owner: str | None = None,
        max_waiters: int | None = None,
        on_event: OutcomeCallback | None = None,
    ) -> MultiLock:
        """Return a lock of several keys, acquired all or none.

        ``keys`` has at least one key, in any order, and a repeated key counts once. The other arguments are those of
        `lock`, for each of the leases. Nothing is acquired yet.

        Raises:
            LockKeyError: A key is empty or not a text.
            LockConfigError: Another argument is wrong, or there is no key.
        """
        from celery_locks.multi import MultiLock, members

        if isinstance(keys, str):
            raise LockConfigError(f"multi takes a list of keys, not the text {keys!r}: write multi([{keys!r}])")
        terms = self._terms(None, ttl, renew, max_hold, max_waiters=max_waiters)
        found = members(keys, lambda key: Lock(self._space, check_key(key), terms, owner, on_event=on_event))
        if not found:
            raise LockConfigError("multi needs at least one key")
        return MultiLock(self._space, found)

    def restore(self, text: str) -> Lease:
        """Return the lease of a text of `Lease.serialize`, after the store has confirmed it.

        This process watches the lease but does not renew it.

        Raises:
            LockNotOwned: The lease is not held any more.
            LockKeyError: The text is not that of a lease.
            StoreUnavailable: The store can't be reached, or could not confirm the lease in time.
        """
        lease = self._read(text)
        if renew_one(self.store, lease._renewal_request(self._space.clock.now()), lease.key) is not None:
            raise LockNotOwned(f"the lease of {lease.key!r} is not held any more", lease.key)
        keeper().keep(lease, None)
        return lease

    def _read(self, text: str) -> Lease:
        sent = self._space.clock.now()
        try:
            data = json.loads(text)
            key, owner, token = check_key(data["key"]), _of(str, data["owner"]), _of(str, data["token"])
            limit, permits = checked_count("limit", data["limit"]), checked_count("permits", data["permits"])
            max_hold = checked_longest("max_hold", data.get("hold_left"))
            claim = Claim(self._space.name(key), token, owner, checked_ttl(data["ttl"]), limit, permits)
            fencing_token = _of(int, data["fencing_token"])
        except (LockError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise LockKeyError(f"this is not the text of a lease: {type(error).__name__}: {error}") from error
        lease = Lease(self.store, claim, key, fencing_token, sent, max_hold=max_hold, clock=self._space.clock)
        lease._store_name = self._space.store_name
        return lease

    def value(self, key: str) -> Any:
        """Return the value that `Lease.update` keeps with a key, ``None`` for none. The key may be held or free.

        Raises:
            LockKeyError: The key is empty or not a text.
            LockConfigError: The store keeps no values.
            StoreUnavailable: The store can't be reached.
        """
        from celery_locks.stores import json_values

        self._space.require("values", "locks.value()", key)
        return json_values.read(self.store, self._space.name(check_key(key)))

    def delete(self, key: str) -> bool:
        """Delete the leases of a key, and the value kept with it.

        Its holders lose their leases with the reason ``force_released``, as by `Lock.force_release`, and can't write a
        value any more. Waiters and parked tasks stay in line.

        Returns:
            Whether there was a lease or a value.

        Raises:
            LockKeyError: The key is empty or not a text.
            StoreUnavailable: The store can't be reached.
        """
        name = self._space.name(check_key(key))
        # First the leases: otherwise a holder could write its value after the old value was deleted.
        held = bool(self.store.force_release(name))
        return (self.store.values and self.store.delete(name)) or held

    def release_owned_by(self, owner: str) -> tuple[str, ...]:
        """Release by force the leases of an owner, and of all owners within it; see `Owner`.

        The leases are lost with the reason ``force_released``. The call reads all keys that are held, with up to 100
        holders of each. Leases that are acquired during the call may be left.

        Args:
            owner: The owner's name.

        Returns:
            The key of each lease that was released.

        Raises:
            LockConfigError: The owner is empty or not a text, or the store keeps no list.
            StoreUnavailable: The store can't be reached. Some leases may be released already.
        """
        from celery_locks.lock_info import owned_by

        self._space.require("lists", "locks.release_owned_by()")
        if not isinstance(owner, str) or not owner:
            raise LockConfigError(
                f"owner={owner!r} is not an owner's name: give the text that its locks have as owner="
            )
        released = []
        for item, holder in owned_by(self._space, owner):
            if self.store.force_release(item.name, holder.token):
                released.append(item.key)
        return tuple(released)

    def list(self, prefix: str = "", after: str | None = None, count: int = 100) -> Page:
        """Return a page of the keys that are held or waited for, in a fixed order.

        A page costs one read of the store. Keys may appear and disappear between two pages. A key that is held from the
        first page to the last is on exactly one page.

        Args:
            prefix: The beginning of the keys.
            after: Only keys after this one: `Page.next` of the page before.
            count: The highest number of keys, up to 1000.

        Raises:
            LockKeyError: The prefix, or ``after``, can't be the text of a key.
            LockConfigError: The count is out of bounds, or the store keeps no list.
            StoreUnavailable: The store can't be reached.

        Examples:
            >>> page = locks.list(prefix="user:")
            >>> [(item.key, item.holders[0].owner) for item in page.items]
            [('user:7', 'web1:4711')]
            >>> page.next is None
            True
        """
        from celery_locks.lock_info import page_of

        self._space.require("lists", "locks.list()")
        return page_of(self._space, prefix, after, count)

    def info(self, key: str, part: str = "") -> LockInfo:
        """Return the holders and the waiters of a key: up to 100 of each.

        Args:
            key: The key.
            part: A part of the key that is locked separately: `LockInfo.part` of a page.

        Raises:
            LockKeyError: The key is empty or not a text, or it has no part of this name.
            StoreUnavailable: The store can't be reached.
        """
        from celery_locks.lock_info import info_of

        return info_of(self._space, self._space.name(check_key(key), check_part(part)))

    def stats(self, near: Duration = 10.0) -> Stats:
        """Return figures over all keys: held keys, waiters, leases near their deadline, and the longest holding.

        Args:
            near: A lease counts as near its deadline within this time: seconds, a ``timedelta`` or a text.

        Raises:
            LockConfigError: The store keeps no list, or the time is not a duration.
            StoreUnavailable: The store can't be reached.
        """
        self._space.require("lists", "locks.stats()")
        return self.store.stats(self.prefix, checked_ttl(near))

    def lockable(
        self,
        template: str,
        ttl: Duration = DEFAULT_TTL,
        *,
        renew: bool | Duration = True,
        max_hold: Duration | None = None,
        owner: str | None = None,
        max_waiters: int | None = None,
        on_event: OutcomeCallback | None = None,
    ) -> Lockable:
        """Declare a kind of thing that is locked, in one place for all its users.

        ``template`` is the form of its keys, such as ``"order:<order_id>"``, as ``key=`` of a task. The other arguments
        are those of `lock`.

        Raises:
            LockKeyError: The template is malformed.
            LockConfigError: Another argument is wrong.
        """
        from celery_locks.lockable import Lockable

        terms = self._terms(None, ttl, renew, max_hold, max_waiters=max_waiters)
        return Lockable(template, lambda key: Lock(self._space, key, terms, owner, on_event=on_event))

    def _terms(
        self,
        key: str | None,
        ttl: Duration,
        renew: bool | Duration,
        max_hold: Duration | None,
        limit: int = 1,
        max_waiters: int | None = None,
    ) -> Terms:
        if max_waiters is not None:
            self._space.require("fair", "max_waiters", key)
        return checked_terms(ttl, renew, max_hold, limit, max_waiters)

    def close(self) -> None:
        """Close connections and files, and end the threads that serve the store.

        Leases that are still held are renewed until they are released.
        """
        keeper().close(self.store)
        self.store.close()


NO_STORE = (
    "no lock store is set: set locks_url (in Celery's settings) or the variable CELERY_LOCKS_URL to a store's address, "
    "such as redis://localhost:6379/1 or sqlite:////var/lib/locks.db"
)
_REDIS = ("redis://", "rediss://", "redis+socket://", "valkey://", "valkeys://", "unix://")


def app_store(conf: Mapping[str, Any], name: str = DEFAULT_STORE) -> str | Store:
    """Return a lock store of Celery's settings, or its address; see `Locks.from_app`.

    Raises:
        LockConfigError: No store is set, or no store has this name.
    """
    store: str | Store | None
    named = named_stores(conf)
    if name in named:
        store = named[name]
        return store
    if name != DEFAULT_STORE:
        known = ", ".join(map(repr, dict.fromkeys((DEFAULT_STORE, *named))))
        raise LockConfigError(f"no lock store has the name {name!r} (known: {known}): add it to locks_stores")
    store = conf.get("locks_url") or os.environ.get("CELERY_LOCKS_URL")
    if store:
        return store
    for setting in ("result_backend", "broker_url"):
        # Attribute access lets CELERY_RESULT_BACKEND and CELERY_BROKER_URL win, as in Celery.
        value = getattr(conf, setting, None) or conf.get(setting)
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        first = addresses_in(first)[0] if isinstance(first, str) else ""
        if first.startswith(_REDIS):
            return first
    raise LockConfigError(NO_STORE)


def named_stores(conf: Mapping[str, Any]) -> Mapping[str, str | Store]:
    """Return the setting ``locks_stores``.

    Raises:
        LockConfigError: It is not a mapping of names, or it names a default store and ``locks_url`` is set as well.
    """
    named: Mapping[str, str | Store] = conf.get("locks_stores") or {}
    if not isinstance(named, Mapping) or not all(isinstance(name, str) and name for name in named):
        raise LockConfigError(f'locks_stores={named!r} does not name stores: write {{"default": url, "audit": url}}')
    if DEFAULT_STORE in named and conf.get("locks_url"):
        raise LockConfigError("locks_url and locks_stores both set the default store: remove one of them")
    return named


def store_names(conf: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the stores that Celery's settings set, the default one first.

    Raises:
        LockConfigError: The setting ``locks_stores`` is not a mapping of names.
    """
    return tuple(dict.fromkeys((DEFAULT_STORE, *named_stores(conf))))


def _of(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not of type {kind.__name__}")
    return value
