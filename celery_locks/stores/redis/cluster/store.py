"""The store of a Redis Cluster: locks are distributed over partitions, and one master serves each partition.

Replies about all locks are merged here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

from celery_locks._runtime.clock import monotonic
from celery_locks.errors import LockConfigError, LossReason
from celery_locks.stores.check_results import merge
from celery_locks.stores.listing import (
    MOST_COUNTED,
    MOST_LISTED,
    MOST_PASSED_OVER,
    NameRange,
    Page,
    Stats,
    merge_pages,
)
from celery_locks.stores.parking import Dispatch
from celery_locks.stores.redis import checks, scripts
from celery_locks.stores.redis.cluster.fan_out import FanOut, TooFewError
from celery_locks.stores.redis.cluster.nodes import Nodes
from celery_locks.stores.redis.commands import Send, evalsha, lock_command, script_command
from celery_locks.stores.redis.hash_tags import SLOT_OF, TAGS, guard_key, slot_of, tag_of, without_tag
from celery_locks.stores.redis.parking import of_broker, task_places
from celery_locks.stores.redis.remedies import code_of
from celery_locks.stores.redis.replies import MICROSECONDS, parse_page, parse_renewal, parse_stats
from celery_locks.stores.redis.script_store import as_micros
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.store import LONGEST_WAIT, RedisStore, first_woken
from celery_locks.stores.redis.wire.connections import as_text
from celery_locks.stores.redis.wire.driver import driver_of
from celery_locks.stores.redis.wire.protocol import Command, packed
from celery_locks.stores.redis.wire.urls import Address, Timeouts, address, checked_replicas, checked_timeouts
from celery_locks.stores.types import Renewal
from celery_locks.stores.write_check import throwaway_name, try_writes

if TYPE_CHECKING:
    import redis

#: How many locks of each partition are requested at first. Names are spread evenly, so a page has few of each.
FIRST_LOOK = 8
#: Seconds between two looks at what is due: one command can't wait for the lists of all partitions.
LOOK_INTERVAL_SECONDS = 0.5
#: How many names `try_writes` makes at most until it has one on each master.
MOST_TRIAL_NAMES = 10_000


class RedisClusterStore(RedisStore):
    """Leases in a Redis Cluster or a Valkey cluster.

    Args:
        server: A URL, or a ``RedisCluster`` (``ValkeyCluster``). The store uses its settings, not the client itself.
        min_replicas: How many replicas of its master must have a lease before it is granted or renewed.
        connect_timeout: How long a connection may take, in seconds; see `RedisStore`.
        request_timeout: How long a request may take, in seconds; see `RedisStore`.

    Raises:
        LockConfigError: A setting is wrong.
    """

    notices = False  # each process would have to read a list on each master

    def __init__(
        self,
        server: str | redis.RedisCluster,
        *,
        min_replicas: int | None = None,
        connect_timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> None:
        timeouts = checked_timeouts(connect_timeout, request_timeout)
        if isinstance(server, str):
            place = address(server)
            self._nodes = _nodes_at(place)
            min_replicas = place.min_replicas if min_replicas is None else min_replicas
        else:
            self._nodes = _nodes_of(server, timeouts)
        self._connections = self._nodes.first()  # for the texts of errors
        self._min_replicas = checked_replicas(min_replicas or 0)
        self._unclear = {}

    # Leases

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        tag = tag_of(places[0][0])
        try:
            return first_woken(self._nodes.of(SLOT_OF[tag]), places, timeout, tag)
        except self._nodes.driver.response_error as error:
            if code_of(error) == "NOPERM":
                raise self._connections.unavailable(error) from error
            time.sleep(min(timeout, LOOK_INTERVAL_SECONDS))  # the slot moves, or has moved: the waiters ask again
            return [token for _, token in places]
        except self._nodes.driver.errors as error:
            raise self._connections.unavailable(error) from error

    def waits_with(self, name: str) -> str:
        """Return the lock's hash tag: one command can wait in one slot only."""
        return tag_of(name)

    def value(self, name: str) -> str | None:
        return super().value(tag_of(name) + name)

    def delete(self, name: str) -> bool:
        return super().delete(tag_of(name) + name)

    def _tag(self, name: str) -> str:
        return tag_of(name)

    def _call(self, script: Script, key: str, command: Command, ttl: float | None = None, send: Send = evalsha) -> Any:
        return self._served(key, lambda client: send(client, script, command), ttl)

    def _single(self, command: str, *keys: str) -> Any:
        return self._served(keys[0], lambda client: client.call(command, *keys))

    def _served(self, key: str, call: Callable[[Any], Any], ttl: float | None = None) -> Any:
        try:
            return self._nodes.serve(slot_of(key), call, ttl)
        except self._nodes.driver.errors as error:
            raise self._connections.unavailable(error) from error

    # Many leases

    def _renew(self, renewals: Sequence[Renewal]) -> list[LossReason | None]:
        """Renew the leases on each master that can be reached, also when others can't."""
        commands = []
        for each in renewals:
            tag, ttl = tag_of(each.name), as_micros(each.ttl)
            commands.append((SLOT_OF[tag], lock_command(scripts.RENEW, each.name, each.token, ttl, tag=tag)))
        shortest = min(renewal.ttl for renewal in renewals)
        replies = FanOut(self._nodes, commands, scripts.RENEW, shortest, self._min_replicas).replies()
        if all(isinstance(reply, Exception) for reply in replies):
            self._raise(replies[0])
        return ["unreachable" if isinstance(reply, Exception) else parse_renewal(reply) for reply in replies]

    # All locks

    def page(self, names: NameRange) -> Page:
        looks = names.count + MOST_PASSED_OVER
        pages = self._pages({tag: (names.after, min(names.count, FIRST_LOOK)) for tag in TAGS}, names, looks)
        again = _incomplete(pages, names.count)
        pages |= self._pages(dict.fromkeys(again, (names.after, names.count)), names, looks)
        return merge_pages(list(pages.values()), names.count)

    def _pages(self, wanted: Mapping[str, tuple[str, int]], names: NameRange, looks: int) -> dict[str, Page]:
        """Return a page of each partition, given the name before it and the number of locks."""
        args = {}
        for tag, (after, count) in wanted.items():
            begin = f"(n{tag}{after}" if after >= names.start else f"[n{tag}{names.start}"
            args[tag] = (begin, tag + names.start, count, looks, MOST_LISTED)
        found = {}
        for tag, reply in self._on_lists(scripts.PAGE, names.prefix, args).items():
            page = parse_page(reply)
            items = tuple(replace(item, name=without_tag(item.name)) for item in page.items)
            found[tag] = Page(items, None if page.last is None else without_tag(page.last))
        return found

    def stats(self, prefix: str, near: float) -> Stats:
        args = dict.fromkeys(TAGS, (as_micros(near), MOST_COUNTED))
        partitions = [parse_stats(reply) for reply in self._on_lists(scripts.STATS, prefix, args).values()]
        whole = Stats.total(partitions)
        return whole if whole.oldest_name is None else replace(whole, oldest_name=without_tag(whole.oldest_name))

    def _on_lists(self, script: Script, prefix: str, args: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Call a script about the list of locks in some partitions, and return the reply of each."""
        commands = []
        for tag, own in args.items():
            keys = (f"{tag}{prefix}:locks", f"{tag}{prefix}:lines", guard_key(f"{tag}{prefix}:"))
            commands.append((SLOT_OF[tag], script_command(script, keys, *own)))
        return dict(zip(args, self._all(commands, script), strict=True))

    def _all(self, commands: Sequence[tuple[int, Command]], script: Script | None = None) -> list[Any]:
        replies = FanOut(self._nodes, commands, script).replies()
        for reply in replies:
            if isinstance(reply, Exception):
                self._raise(reply)
        return replies

    def _some(self, commands: Sequence[tuple[int, Command]], script: Script | None = None) -> list[Any]:
        """Return the replies of the masters that can be reached. Fail if nothing was found and a master is missing."""
        replies = FanOut(self._nodes, commands, script).replies()
        known = [reply for reply in replies if not isinstance(reply, Exception)]
        if len(known) < len(replies) and not any(map(_has_content, known)):
            self._raise(next(reply for reply in replies if isinstance(reply, Exception)))
        return known

    def _raise(self, error: Exception) -> None:
        if isinstance(error, TooFewError):
            raise self._connections.too_few(error.confirmed, self._min_replicas)
        raise self._connections.unavailable(error) from error

    # Parking

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        """Wait until a ticket is due; look every half second."""
        until = monotonic() + min(timeout, LONGEST_WAIT)
        while (left := until - monotonic()) > 0:
            dues = [due / MICROSECONDS for due in self._due(prefix, broker, 0) if due >= 0]
            if dues and min(dues) <= 0:
                return
            time.sleep(max(0.001, min(left, LOOK_INTERVAL_SECONDS, *dues)))

    def sweep(self, prefix: str, broker: str, most: int = 100) -> tuple[Dispatch, ...]:
        """Do what is due on the masters that can be reached."""
        names = [without_tag(as_text(name)) for keys in self._due(prefix, broker, most) for name in keys]
        return self._each(lambda name: self._sweep(name, broker), names[:most])

    def withdraw(self, prefix: str, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        commands = [
            (slot, packed(("MGET", *(f"{tag}{place}" for place in task_places(prefix, broker, task_id)))))
            for tag, slot in SLOT_OF.items()
        ]
        found = [each for reply in self._some(commands) for each in reply if each is not None]
        return self._each(lambda each: self._withdraw(each, broker, task_id), found)

    def _due(self, prefix: str, broker: str, most: int) -> list[Any]:
        records = of_broker("parked", broker)
        commands = [
            (
                slot,
                script_command(
                    scripts.DUE,
                    [*(f"{tag}{prefix}:{record}" for record in records), guard_key(f"{tag}{prefix}:")],
                    most,
                ),
            )
            for tag, slot in SLOT_OF.items()
        ]
        return self._some(commands, scripts.DUE)

    def _name(self, key: str) -> str:
        return without_tag(key)

    # The servers

    def ping(self) -> None:
        self._inspect_all(lambda call: call("PING"))

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        return merge(self._inspect_all(lambda call: checks.checks(call, parks)))

    def try_writes(self, prefix: str, *, parks: bool = False) -> list[str]:
        """Use one throwaway lock on each master."""
        masters = len(self._inspect_all(lambda call: call("PING")))
        names: dict[Any, str] = {}
        for _ in range(MOST_TRIAL_NAMES):
            name = throwaway_name(prefix)
            names.setdefault(self._master_of(name), name)
            if len(names) == masters:
                break
        for name in names.values():
            try_writes(self, prefix, parks=parks, name=name)
        return []

    def _master_of(self, name: str) -> Any:
        try:
            return self._nodes.of(SLOT_OF[tag_of(name)])
        except self._nodes.driver.errors as error:
            raise self._connections.unavailable(error) from error

    def about(self) -> str:
        releases = self._inspect_all(checks.about)
        return f"{', '.join(dict.fromkeys(releases))}, a cluster of {len(releases)} masters"

    def _inspect_all(self, question: Callable[[Callable[..., Any]], Any]) -> list[Any]:
        try:
            return [node.twice(None, lambda client: question(client.call)) for node in self._nodes.masters()]
        except self._nodes.driver.errors as error:
            raise self._connections.unavailable(error) from error

    def close(self) -> None:
        self._nodes.close()


def open_cluster(url: str) -> RedisClusterStore:
    """Return the store at a URL, such as ``redis+cluster://user:password@host1,host2:6379``.

    ``rediss+cluster://`` uses TLS.
    """
    return RedisClusterStore(url)


def _incomplete(pages: Mapping[str, Page], count: int) -> list[str]:
    """Return the partitions that may have more locks for a page of ``count``."""
    first = nsmallest(count, (item.name for page in pages.values() for item in page.items))
    end = first[-1] if len(first) == count else None
    return [tag for tag, page in pages.items() if page.last is not None and (end is None or page.last < end)]


def _has_content(reply: Any) -> bool:
    """Return whether a reply has a value, a time, or names."""
    return any(each is not None for each in reply) if isinstance(reply, list) else reply not in (None, -1)


def _nodes_at(place: Address) -> Nodes:
    if place.topology != "cluster":
        raise LockConfigError(f"{place.masked} is no address of a cluster: write redis+cluster://host1,host2")
    if place.path not in ("", "0"):
        raise LockConfigError(f"{place.masked} names a database, and a cluster has only one: leave it out")
    return Nodes(place.driver, place.settings(), place.hosts, place.masked, place.timeouts)


def _nodes_of(cluster: Any, timeouts: Timeouts) -> Nodes:
    chosen = driver_of(cluster)
    pool = getattr(cluster, f"get_{chosen.name}_connection")(cluster.get_default_node()).connection_pool
    settings = {**cluster.get_connection_kwargs(), "connection_class": pool.connection_class}
    for name in ("host", "port", "db", "ssl", f"{chosen.name}_connect_func", "retry"):
        settings.pop(name, None)
    places: Iterable[Any] = cluster.get_nodes()
    return Nodes(chosen, settings, [(node.host, node.port) for node in places], type(cluster).__name__, timeouts)
