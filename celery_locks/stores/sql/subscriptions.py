"""The subscriptions of a process to notices: one for each token in line, or for which a thread waits.

A token in line keeps its subscription from before its request until it leaves the line. So it misses no notice, and its
waiter needs no queries.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

#: The most tokens in line with a subscription. Waiters of other tokens query the database before they wait.
MOST_KEPT = 10_000


def notice(kind: str, text: str) -> str:
    """Return the notice for a token or a lock. It is a hash, because every user of the database may listen."""
    return f"{kind}:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


class Subscription:
    """The notices about a token since its last request.

    Attributes:
        notified: Whether a notice has arrived.
        sure: Whether no notice can have been missed.
        until: When its turn may come without a notice, by the machine's clock; 0 if unknown.
    """

    __slots__ = ("events", "kept", "notices", "notified", "sure", "until")

    def __init__(self, *notices: str) -> None:
        self.notices = notices
        self.notified = self.sure = self.kept = False
        self.until = 0.0
        #: The events of the threads that wait for this subscription.
        self.events: set[threading.Event] = set()


class Subscriptions:
    """The subscriptions of a process. Any thread may call the methods.

    Attributes:
        hearing: Whether notices arrive.
        waiting: How many threads wait for notices.
    """

    def __init__(self) -> None:
        self.hearing = False
        self.waiting = 0
        self._mutex = threading.Lock()
        self._by_notice: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._kept: OrderedDict[str, Subscription] = OrderedDict()

    def keep(self, token: str, expected: str) -> Subscription:
        """Return the subscription of a token that is about to stand in line.

        Args:
            token: The token.
            expected: The notice of its turn.
        """
        with self._mutex:
            kept = self._kept.get(token)
            if kept is None:
                while len(self._kept) >= MOST_KEPT:
                    self._give_up(self._kept.popitem(last=False)[1])
                kept = self._kept[token] = Subscription(expected)
                kept.kept = True
                self._add(kept)
            return kept

    def kept(self, token: str) -> Subscription | None:
        """Return the subscription of a token in line, if it has one."""
        return self._kept.get(token)

    def drop(self, token: str) -> None:
        """Drop the subscription of a token that has left the line."""
        if token in self._kept:
            with self._mutex:
                if (kept := self._kept.pop(token, None)) is not None:
                    self._give_up(kept)

    def begin(self, subscription: Subscription) -> None:
        """Reset a subscription before a request or a query for its token."""
        with self._mutex:
            subscription.notified, subscription.sure, subscription.until = False, self.hearing, 0.0

    @contextmanager
    def expecting(self, subscriptions: Collection[Subscription]) -> Iterator[threading.Event]:
        """Provide an event that is set when a notice for one of the subscriptions arrives, or may be missed."""
        event = threading.Event()
        with self._mutex:
            self.waiting += 1
            for each in subscriptions:
                each.events.add(event)
                self._add(each)
        try:
            yield event
        finally:
            with self._mutex:
                self.waiting -= 1
                for each in subscriptions:
                    each.events.discard(event)
                    self._remove(each)

    def deliver(self, notices: Iterable[str]) -> None:
        """Pass on notices that have arrived."""
        with self._mutex:
            for arrived in notices:
                for each in self._by_notice.get(arrived, ()):
                    each.notified = True
                    _set(each.events)

    def set_hearing(self, hearing: bool) -> None:
        """Record whether notices arrive from now on. Until now, some may have been missed."""
        with self._mutex:
            self.hearing = hearing
            for some in self._by_notice.values():
                for each in some:
                    each.sure = False
                    _set(each.events)

    def _give_up(self, kept: Subscription) -> None:
        kept.kept = False
        self._remove(kept)

    def _add(self, subscription: Subscription) -> None:
        for each in subscription.notices:
            self._by_notice[each].add(subscription)

    def _remove(self, subscription: Subscription) -> None:
        """Remove a subscription, unless it is kept or a thread waits for it."""
        if subscription.kept or subscription.events:
            return
        for each in subscription.notices:
            self._by_notice[each].discard(subscription)
            if not self._by_notice[each]:
                del self._by_notice[each]


def _set(events: Iterable[threading.Event]) -> None:
    for event in events:
        event.set()
