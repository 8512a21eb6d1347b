"""`Locks`, the way to leases outside tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
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
    checked_renew,
    checked_ttl,
)
from celery_locks.errors import LockConfigError, LockError, LockKeyError, LockNotOwned
from celery_locks.keys.names import check_part
from celery_locks.keys.text import check_key
from celery_locks.lease import Lease, renew_one
from celery_locks.lock import Lock
from celery_locks.renewal import keeper
from celery_locks.semaphore import Semaphore
from celery_locks.stores import open_store
from celery_locks.stores.base import Store
from celery_locks.stores.types import Claim

if TYPE_CHECKING:
    from celery_locks.lock_info import LockInfo, Page, Stats
    from celery_locks.lockable import Lockable
    from celery_locks.multi import MultiLock
    from celery_locks.outcomes import OutcomeCallback
    from celery_locks.read_write import ReadWriteLock

T = TypeVar("T")


class Locks:
    """Locks in a store.

    Args:
        store: A store's URL or a `Store`; without one the variable ``CELERY_LOCKS_URL`` names it.
        prefix: What all names in the store begin with. Locks of different prefixes never meet.
        owner: The holder's name that others see; host and process id by default.
        clock: What the deadlines of leases are watched by (tests pass one that they can move).

    Raises:
        LockConfigError: There is no URL, or it names no store.
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
            raise LockConfigError(f"the prefix must be some text without braces, not {prefix!r}")
        url = mask(store) if isinstance(store, str) else type(store).__name__
        opened = open_store(store) if isinstance(store, str) else store
        self._space = Space(opened, url, prefix, owner, clock, DEFAULT_STORE)

    @classmethod
    def from_app(cls, app: Any, store: str = DEFAULT_STORE) -> Locks:
        """Return the locks of a Celery app, in the store that its settings name.

        ``locks_stores`` names stores, such as ``{"default": url, "audit": url}``. Without a default store there, it is
        the first of these that is set: ``locks_url``, the variable ``CELERY_LOCKS_URL``, the result backend, the broker
        (the last two if they are Redis or Valkey). ``locks_prefix`` is the prefix.

        Args:
            app: The app.
            store: The name of the store.

        Raises:
            LockConfigError: No store is set, or none has this name.
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
        """The name of the store among those of an app."""
        return self._space.store_name

    @property
    def url(self) -> str:
        """The store's address without its password, or the name of its class."""
        return self._space.url

    @property
    def prefix(self) -> str:
        """What all names in the store begin with."""
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
        """The lock of a key. Nothing is acquired yet.

        Args:
            key: What to lock: any text that is not empty.
            ttl: How long a lease lives without renewal: seconds, a ``timedelta`` or a text such as ``"5m"``.
            renew: Whether to renew while it is held: ``True`` for every ``ttl / 3``, or the time between renewals.
            max_hold: The longest holding; then renewal stops and the lease is lost.
            owner: The holder's name that others see.
            max_waiters: How many may wait in line at most; one more gets `LockQueueFull`.
            on_event: Called with each `Outcome` of this lock, see `Outcome.kind`, by the thread in which it happens.

        Raises:
            LockKeyError: The key is empty or no text.
            LockConfigError: Another argument is wrong.
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
        """The semaphore of a key, of which so many permits may be held at once. Nothing is acquired yet.

        Users of one key may give different limits: each acquisition goes by its own, see `Semaphore`.

        Args:
            key: What to share: any text that is not empty.
            limit: How many permits there are.
            ttl: How long a lease lives without renewal: seconds, a ``timedelta`` or a text such as ``"5m"``.
            renew: Whether to renew while it is held: ``True`` for every ``ttl / 3``, or the time between renewals.
            max_hold: The longest holding; then renewal stops and the lease is lost.
            owner: The holder's name that others see.
            max_waiters: How many may wait in line at most; one more gets `LockQueueFull`.
            on_event: Called with each `Outcome` of this lock, see `Outcome.kind`, by the thread in which it happens.

        Raises:
            LockKeyError: The key is empty or no text.
            LockConfigError: Another argument is wrong.
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
        """The read-write lock of a key: many readers at once, or one writer. Nothing is acquired yet.

        Args:
            key: What to lock: any text that is not empty. All users of a key should agree on what it is: a plain lock
                of the same key keeps no reader out.
            ttl: How long a lease lives without renewal: seconds, a ``timedelta`` or a text such as ``"5m"``.
            renew: Whether to renew while it is held: ``True`` for every ``ttl / 3``, or the time between renewals.
            max_hold: The longest holding; then renewal stops and the lease is lost.
            owner: The holder's name that others see.
            max_waiters: How many may wait in line at most; one more gets `LockQueueFull`.
            on_event: Called with each `Outcome` of this lock, see `Outcome.kind`, by the thread in which it happens.

        Raises:
            LockKeyError: The key is empty or no text.
            LockConfigError: Another argument is wrong, or the store has no semaphores.
        """
        from celery_locks.read_write import ReadWriteLock

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
        """Several keys, all or none, whatever their order; a key that is named twice counts once.

        Args:
            keys: What to lock: at least one text.
            ttl: How long each lease lives without renewal: seconds, a ``timedelta`` or a text such as ``"5m"``.
            renew: Whether to renew while they are held: ``True`` for every ``ttl / 3``, or the time between renewals.
            max_hold: The longest holding of each; then renewal stops and all are lost.
            owner: The holder's name that others see.
            max_waiters: How many may wait in line at most; one more gets `LockQueueFull`.
            on_event: Called with each `Outcome` of this lock, see `Outcome.kind`, by the thread in which it happens.

        Raises:
            LockKeyError: A key is empty or no text.
            LockConfigError: Another argument is wrong, or there is no key.
        """
        from celery_locks.multi import MultiLock, members

        if isinstance(keys, str):
            raise LockConfigError(f"multi takes a list of keys, not the text {keys!r}: write multi([{keys!r}])")
        found = members(
            keys,
            lambda key: self.lock(
                key, ttl, renew=renew, max_hold=max_hold, owner=owner, max_waiters=max_waiters, on_event=on_event
            ),
        )
        if not found:
            raise LockConfigError("multi needs at least one key")
        return MultiLock(self._space, found)

    def restore(self, text: str) -> Lease:
        """The lease of `Lease.serialize`, in this process: confirmed by the store, and watched, but not renewed here.

        Raises:
            LockNotOwned: The lease is held no more.
            LockKeyError: The text is not that of a lease.
            StoreUnavailable: The store can't be reached, or could not renew the lease in time.
        """
        lease = self._read(text)
        if renew_one(self.store, lease._renewal_request(self._space.clock.now()), lease.key) is not None:
            raise LockNotOwned(f"the lease of {lease.key!r} is held no more", lease.key)
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
        """The value kept with a key by `Lease.update`, ``None`` for none; whoever holds the key.

        Raises:
            LockKeyError: The key is empty or no text.
            LockConfigError: The store keeps no values.
            StoreUnavailable: The store can't be reached.
        """
        from celery_locks.stores import json_values

        self._space.require("values", "locks.value()", key)
        return json_values.read(self.store, self._space.name(check_key(key)))

    def delete(self, key: str) -> bool:
        """Delete what the store has of a key: its leases, and the value kept with it.

        Its holders lose their leases, with the reason ``force_released`` as by `Lock.force_release`, and write no value
        any more. Waiters stay in line. A parked task's ticket stays, too.

        Returns:
            Whether there was a lease or a value.

        Raises:
            LockKeyError: The key is empty or no text.
            StoreUnavailable: The store can't be reached.
        """
        name = self._space.name(check_key(key))
        # First the leases: a holder that still had one could write its value after the old one was deleted.
        held = bool(self.store.force_release(name))
        return (self.store.values and self.store.delete(name)) or held

    def release_owned_by(self, owner: str) -> tuple[str, ...]:
        """Release by force all that an owner holds, and those within it; see `Owner`.

        Their leases are lost with the reason ``force_released``. It looks at all keys that are held, and at 100 holders
        of each at most. What is acquired meanwhile may be left.

        Args:
            owner: The owner's name.

        Returns:
            The keys of the leases that were released, one for each.

        Raises:
            LockConfigError: The owner is empty or no text, or the store keeps no list.
            StoreUnavailable: The store can't be reached; some may be released already.
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

        It costs one look at the store, however many locks there are. Between two pages keys come and go: one that is
        held from the first page to the last is on exactly one of them.

        Args:
            prefix: Only keys that begin so.
            after: Only keys after this one: `Page.next` of the page before.
            count: How many at most, up to 1000.

        Raises:
            LockKeyError: The prefix or the key is no text that a key can have.
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
        """Return who holds a key and who waits for it; at most 100 holders and 100 of those in line are named.

        Args:
            key: The key.
            part: A part of the key that is locked apart from it: `LockInfo.part` of a list.

        Raises:
            LockKeyError: The key is empty or no text, or there is no such part.
            StoreUnavailable: The store can't be reached.
        """
        from celery_locks.lock_info import info_of

        return info_of(self._space, self._space.name(check_key(key), check_part(part)))

    def stats(self, near: Duration = 10.0) -> Stats:
        """How many keys are held, how many wait, how many leases are about to end, and which key is held for longest.

        Args:
            near: How soon a lease is about to end.

        Raises:
            LockConfigError: The store keeps no list.
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
        """Declares a kind of thing that is locked, at one place for all its users.

        Args:
            template: How its keys are written, such as ``"order:<order_id>"``: as ``key=`` of a task.
            ttl: How long a lease lives without renewal: seconds, a ``timedelta`` or a text such as ``"5m"``.
            renew: Whether to renew while it is held: ``True`` for every ``ttl / 3``, or the time between renewals.
            max_hold: The longest holding; then renewal stops and the lease is lost.
            owner: The holder's name that others see.
            max_waiters: How many may wait in line at most; one more gets `LockQueueFull`.
            on_event: Called with each `Outcome` of this lock, see `Outcome.kind`, by the thread in which it happens.

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
        try:
            return _terms_once(ttl, renew, max_hold, limit, max_waiters)
        except TypeError:  # a value without a hash: the check names it
            return _checked_terms(ttl, renew, max_hold, limit, max_waiters)

    def close(self) -> None:
        """Close connections and files, and end the threads that serve the store.

        Leases that are still held go on being renewed until they are released.
        """
        keeper().close(self.store)
        self.store.close()


NO_STORE = (
    "no lock store is set: set locks_url (in Celery's settings) or the variable CELERY_LOCKS_URL to a store's address, "
    "such as redis://localhost:6379/1 or sqlite:////var/lib/locks.db"
)
_REDIS = ("redis://", "rediss://", "redis+socket://", "valkey://", "valkeys://", "unix://")


def app_store(conf: Mapping[str, Any], name: str = DEFAULT_STORE) -> str | Store:
    """Return a lock store, or its address, that Celery's settings name; see `Locks.from_app`.

    Raises:
        LockConfigError: No store is set, or none has this name.
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
        LockConfigError: It does not name stores, or it names a default store and ``locks_url`` is set as well.
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
        LockConfigError: The setting ``locks_stores`` does not name stores.
    """
    return tuple(dict.fromkeys((DEFAULT_STORE, *named_stores(conf))))


def _checked_terms(
    ttl: Duration, renew: bool | Duration, max_hold: Duration | None, limit: int, max_waiters: int | None
) -> Terms:
    longest = checked_longest("max_hold", max_hold)
    waiters = 0 if max_waiters is None else checked_count("max_waiters", max_waiters)
    return Terms(checked_ttl(ttl), checked_renew(renew), longest, checked_count("limit", limit), 1, waiters)


#: Locks are made at each use, and nearly all on the same few terms. Typed, since 1 is no ``True`` here.
_terms_once = lru_cache(maxsize=256, typed=True)(_checked_terms)


def _of(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value
