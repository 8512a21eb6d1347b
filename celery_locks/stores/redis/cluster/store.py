"""The store of a Redis Cluster: names are dealt out to parts, and one server serves each part.

What is over all locks is put together here.
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
from celery_locks.stores.redis.answers import MICROSECONDS, page_of, reason_of, stats_of
from celery_locks.stores.redis.calls import Send, call_of, command_of, evalsha
from celery_locks.stores.redis.cluster.fan_out import FanOut, TooFewError
from celery_locks.stores.redis.cluster.nodes import Nodes
from celery_locks.stores.redis.parking import of_broker, task_places
from celery_locks.stores.redis.parts import SLOT_OF, TAGS, never, slot_of, tag_of, untagged
from celery_locks.stores.redis.remedies import code_of
from celery_locks.stores.redis.scripts import Script
from celery_locks.stores.redis.store import LONGEST_WAIT, RedisStore, first_woken
from celery_locks.stores.redis.wire.connections import as_text
from celery_locks.stores.redis.wire.driver import driver_of
from celery_locks.stores.redis.wire.protocol import Command, packed
from celery_locks.stores.redis.wire.urls import Address, Timeouts, address, checked_replicas, checked_timeouts
from celery_locks.stores.trial import throwaway_name, try_writes
from celery_locks.stores.types import Renewal

if TYPE_CHECKING:
    import redis

#: How many locks of each part are requested at first. Names are spread evenly, so a page has few of each part.
FIRST_LOOK = 8
#: Seconds between two looks at what is due: a list for each part can't be waited for with one command.
LOOK = 0.5
#: How many names a tried write makes at most until it has one on each master.
MOST_NAMES_TRIED = 10_000


class RedisClusterStore(RedisStore):
    """Leases in a Redis Cluster or a Valkey cluster.

    Args:
        server: A URL, or a ``RedisCluster`` (``ValkeyCluster``) whose settings are used; it is not used itself.
        min_replicas: How many replicas of its master must have a lease before it is granted or renewed.
        connect_timeout: How long a connection may take, in seconds; see `RedisStore`.
        request_timeout: How long a request may take, in seconds; see `RedisStore`.

    Raises:
        LockConfigError: A setting is wrong.
    """

    notices = False  # a process would have to read a list on each master

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
        self._connections = self._nodes.anyone()  # for what it means when something fails
        self._min_replicas = checked_replicas(min_replicas or 0)
        self._unclear = {}

    # One lock

    def wait_any(self, places: Sequence[tuple[str, str]], timeout: float) -> Collection[str]:
        tag = tag_of(places[0][0])
        try:
            return first_woken(self._nodes.of(SLOT_OF[tag]), places, timeout, tag)
        except self._nodes.driver.response_error as error:
            if code_of(error) == "NOPERM":
                raise self._connections.unavailable(error) from error
            time.sleep(min(timeout, LOOK))  # the slot moves, or has moved: whoever waited looks at the lock again
            return [token for _, token in places]
        except self._nodes.driver.errors as error:
            raise self._connections.unavailable(error) from error

    def waits_with(self, name: str) -> str:
        """One command is about one slot."""
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
        """Where some masters can't be reached, the leases on the others are renewed all the same."""
        commands = []
        for each in renewals:
            tag, ttl = tag_of(each.name), round(each.ttl * MICROSECONDS)
            commands.append((SLOT_OF[tag], command_of(scripts.RENEW, each.name, each.token, ttl, tag=tag)))
        shortest = min(renewal.ttl for renewal in renewals)
        answers = FanOut(self._nodes, commands, scripts.RENEW, shortest, self._min_replicas).answers()
        if all(isinstance(answer, Exception) for answer in answers):
            self._raise(answers[0])
        return ["unreachable" if isinstance(answer, Exception) else reason_of(answer) for answer in answers]

    # All locks

    def page(self, names: NameRange) -> Page:
        looks = names.count + MOST_PASSED_OVER
        pages = self._pages({tag: (names.after, min(names.count, FIRST_LOOK)) for tag in TAGS}, names, looks)
        again = _incomplete(pages, names.count)
        pages |= self._pages(dict.fromkeys(again, (names.after, names.count)), names, looks)
        return merge_pages(list(pages.values()), names.count)

    def _pages(self, wanted: Mapping[str, tuple[str, int]], names: NameRange, looks: int) -> dict[str, Page]:
        """A page of each part: those after a name, so many."""
        args = {}
        for tag, (after, count) in wanted.items():
            begin = f"(n{tag}{after}" if after >= names.start else f"[n{tag}{names.start}"
            args[tag] = (begin, tag + names.start, count, looks, MOST_LISTED)
        found = {}
        for tag, answer in self._of_parts(scripts.LIST, names.prefix, args).items():
            page = page_of(answer)
            items = tuple(replace(item, name=untagged(item.name)) for item in page.items)
            found[tag] = Page(items, None if page.last is None else untagged(page.last))
        return found

    def stats(self, prefix: str, near: float) -> Stats:
        args = dict.fromkeys(TAGS, (round(near * MICROSECONDS), MOST_COUNTED))
        parts = [stats_of(answer) for answer in self._of_parts(scripts.STATS, prefix, args).values()]
        whole = Stats.total(parts)
        return whole if whole.oldest_name is None else replace(whole, oldest_name=untagged(whole.oldest_name))

    def _of_parts(self, script: Script, prefix: str, args: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """What a script over the list answers for each of some parts."""
        commands = []
        for tag, own in args.items():
            keys = (f"{tag}{prefix}:locks", f"{tag}{prefix}:lines", never(f"{tag}{prefix}:"))
            commands.append((SLOT_OF[tag], call_of(script, keys, *own)))
        return dict(zip(args, self._all(commands, script), strict=True))

    def _all(self, commands: Sequence[tuple[int, Command]], script: Script | None = None) -> list[Any]:
        answers = FanOut(self._nodes, commands, script).answers()
        for answer in answers:
            if isinstance(answer, Exception):
                self._raise(answer)
        return answers

    def _some(self, commands: Sequence[tuple[int, Command]], script: Script | None = None) -> list[Any]:
        """The answers of those masters that can be reached; fails where nothing was found and there may be more."""
        answers = FanOut(self._nodes, commands, script).answers()
        known = [answer for answer in answers if not isinstance(answer, Exception)]
        if len(known) < len(answers) and not any(map(_tells_of_something, known)):
            self._raise(next(answer for answer in answers if isinstance(answer, Exception)))
        return known

    def _raise(self, error: Exception) -> None:
        if isinstance(error, TooFewError):
            raise self._connections.too_few(error.confirmed, self._min_replicas)
        raise self._connections.unavailable(error) from error

    # Parking

    def is_broker(self, settings: Mapping[str, Any]) -> bool:
        return False

    def await_due(self, prefix: str, broker: str, timeout: float) -> None:
        """Look again every half a second."""
        until = monotonic() + min(timeout, LONGEST_WAIT)
        while (left := until - monotonic()) > 0:
            dues = [due / MICROSECONDS for due in self._due(prefix, broker, 0) if due >= 0]
            if dues and min(dues) <= 0:
                return
            time.sleep(max(0.001, min(left, LOOK, *dues)))

    def sweep(self, prefix: str, broker: str, most: int = 100) -> tuple[Dispatch, ...]:
        """Do what is due on the masters that can be reached."""
        names = [untagged(as_text(name)) for part in self._due(prefix, broker, most) for name in part]
        return self._as_far_as_it_goes(lambda name: self._swept(name, broker), names[:most])

    def withdraw(self, prefix: str, broker: str, task_id: str) -> tuple[Dispatch, ...]:
        commands = [
            (slot, packed(("MGET", *(f"{tag}{place}" for place in task_places(prefix, broker, task_id)))))
            for tag, slot in SLOT_OF.items()
        ]
        found = [each for answer in self._some(commands) for each in answer if each is not None]
        return self._as_far_as_it_goes(lambda each: self._withdraw(each, broker, task_id), found)

    def _due(self, prefix: str, broker: str, most: int) -> list[Any]:
        records = of_broker("parked", broker)
        commands = [
            (
                slot,
                call_of(
                    scripts.DUE, [*(f"{tag}{prefix}:{record}" for record in records), never(f"{tag}{prefix}:")], most
                ),
            )
            for tag, slot in SLOT_OF.items()
        ]
        return self._some(commands, scripts.DUE)

    def _name(self, name: str) -> str:
        return untagged(name)

    # The servers

    def ping(self) -> None:
        self._ask_all(lambda call: call("PING"))

    def checks(self, *, parks: bool = False) -> dict[str, str]:
        return merge(self._ask_all(lambda call: checks.checks(call, parks)))

    def try_writes(self, prefix: str, *, parks: bool = False) -> list[str]:
        """Use one throwaway lock on each master."""
        masters = len(self._ask_all(lambda call: call("PING")))
        names: dict[Any, str] = {}
        for _ in range(MOST_NAMES_TRIED):
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
        releases = self._ask_all(checks.about)
        return f"{', '.join(dict.fromkeys(releases))}, a cluster of {len(releases)} masters"

    def _ask_all(self, question: Callable[[Callable[..., Any]], Any]) -> list[Any]:
        try:
            return [node.twice(None, lambda client: question(client.call)) for node in self._nodes.masters()]
        except self._nodes.driver.errors as error:
            raise self._connections.unavailable(error) from error

    def close(self) -> None:
        self._nodes.close()


def open_cluster(url: str) -> RedisClusterStore:
    """The store at a URL: ``redis+cluster://user:password@host1,host2:6379``; ``rediss+cluster://`` speaks TLS."""
    return RedisClusterStore(url)


def _incomplete(pages: Mapping[str, Page], count: int) -> list[str]:
    """Return the parts that may have more locks for a page of ``count``."""
    first = nsmallest(count, (item.name for page in pages.values() for item in page.items))
    end = first[-1] if len(first) == count else None
    return [tag for tag, page in pages.items() if page.last is not None and (end is None or page.last < end)]


def _tells_of_something(answer: Any) -> bool:
    """Return whether something was found: a value, a moment, or names."""
    return any(each is not None for each in answer) if isinstance(answer, list) else answer not in (None, -1)


def _nodes_at(place: Address) -> Nodes:
    if place.ways != "cluster":
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
