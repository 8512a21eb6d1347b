"""Who of this process is to be told what: a subscription for each token that stands in line, or is waited for.

One that is kept from before a token's request is sent until its place is given up misses nothing, so that whoever
waits by it has nothing to look for.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

#: How many tokens in line have one at most. Those beyond look for themselves before they wait.
MOST_KEPT = 10_000


def notice(kind: str, text: str) -> str:
    """What is sent to those who wait for a token or a lock. Anybody in the database may listen, so it tells neither."""
    return f"{kind}:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


class Subscription:
    """What has become known of a token since it was last asked for.

    Attributes:
        told: Whether a notice has come.
        sure: Whether no notice can have been missed.
        until: When its turn may come without a notice, by the machine's clock; 0 where that is not known.
    """

    __slots__ = ("events", "kept", "notices", "sure", "told", "until")

    def __init__(self, *notices: str) -> None:
        self.notices = notices
        self.told = self.sure = self.kept = False
        self.until = 0.0
        #: Of those who wait by it now.
        self.events: set[threading.Event] = set()


class Subscriptions:
    """All of a process. Its methods may be called by any thread.

    Attributes:
        hearing: Whether notices come.
        waiting: How many threads wait for some.
    """

    def __init__(self) -> None:
        self.hearing = False
        self.waiting = 0
        self._mutex = threading.Lock()
        self._by_notice: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._kept: OrderedDict[str, Subscription] = OrderedDict()

    def keep(self, token: str, told_by: str) -> Subscription:
        """The subscription of a token that is about to be in line.

        Args:
            token: The token.
            told_by: The notice that tells its turn.
        """
        with self._mutex:
            kept = self._kept.get(token)
            if kept is None:
                while len(self._kept) >= MOST_KEPT:
                    self._give_up(self._kept.popitem(last=False)[1])
                kept = self._kept[token] = Subscription(told_by)
                kept.kept = True
                self._add(kept)
            return kept

    def kept(self, token: str) -> Subscription | None:
        """The subscription of a token in line, if it has one."""
        return self._kept.get(token)

    def drop(self, token: str) -> None:
        """The token is in line no more."""
        if token in self._kept:
            with self._mutex:
                if (kept := self._kept.pop(token, None)) is not None:
                    self._give_up(kept)

    def begin(self, subscription: Subscription) -> None:
        """Its token is about to be asked for, or looked for: what was known is of no use any more."""
        with self._mutex:
            subscription.told, subscription.sure, subscription.until = False, self.hearing, 0.0

    @contextmanager
    def expecting(self, subscriptions: Collection[Subscription]) -> Iterator[threading.Event]:
        """An event that is set when one of them is told something, or can't be sure any more."""
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

    def tell(self, notices: Iterable[str]) -> None:
        """These have come."""
        with self._mutex:
            for told in notices:
                for each in self._by_notice.get(told, ()):
                    each.told = True
                    _set(each.events)

    def doubt(self, hearing: bool) -> None:
        """Notices come from now on, or no more; until now some may have been missed."""
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
        """Takes it out, unless it is kept or somebody waits by it."""
        if subscription.kept or subscription.events:
            return
        for each in subscription.notices:
            self._by_notice[each].discard(subscription)
            if not self._by_notice[each]:
                del self._by_notice[each]


def _set(events: Iterable[threading.Event]) -> None:
    for event in events:
        event.set()
