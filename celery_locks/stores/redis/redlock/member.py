"""One of the independent servers of a `celery_locks.stores.redis.redlock.Redlock`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery_locks._runtime import threads
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.commands import evalsha, lock_command
from celery_locks.stores.redis.replies import parse_claim
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.redis.wire.protocol import arguments
from celery_locks.stores.trial import TTL_SECONDS, Trial, throwaway_name
from celery_locks.stores.types import MOST_HOLDERS, Claim, Granted, Refused

#: How many calls to one server may be under way: each has a thread, and where it hangs they would pile up.
MOST_UNDER_WAY = 256


class Member(RedisStore):
    """A `RedisStore` that agrees with others on a fencing token, and takes back a try that came to nothing."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self._under_way = 0
        self._counting = threads.RLock()

    def confirm(self, name: str, token: str, fencing_token: int, up_for: float, ttl: float) -> bool:
        """Gives a holder the fencing token that was agreed on; the lock's next one is greater.

        Args:
            name: The lock's full name.
            token: The owner token.
            fencing_token: What was agreed on.
            up_for: How long the server must be up already for its word to count, in seconds; 0 for any.
            ttl: How long the lease lives.

        Returns:
            Whether the token holds the lock, and the server's word counts.
        """
        asks = int(up_for > 0)
        up: int = self._run(scripts.CONFIRM, name, token, fencing_token, asks, ttl=ttl)
        return up >= 0 and (not asks or up >= up_for)

    def try_lock(self, prefix: str, restart_delay: float) -> list[str]:
        """Use a throwaway lock as a majority does: no one waits for it here, and it has no value.

        Args:
            prefix: That of the site's locks.
            restart_delay: How long the server must be up for its word to count, in seconds.

        Raises:
            StoreUnavailable: A step failed.
        """
        trial = Trial(self, prefix, throwaway_name(prefix))
        trial.run(line=False, values=False)
        claim = trial.claim()
        with trial.step("the fencing token of a majority can't be confirmed"):
            granted = self.acquire(claim)
            try:
                if isinstance(granted, Granted):
                    self.confirm(claim.name, claim.token, granted.fencing_token, restart_delay, TTL_SECONDS)
            finally:
                self.release(claim.name, claim.token)
        return []

    def take(self, claim: Claim, displaces: str) -> Granted | Refused:
        """Acquire by a claim that adopts or replaces a lease. Until it is settled, that lease is only displaced.

        Args:
            claim: What is asked for.
            displaces: The owner token of the only holder that it may displace.
        """
        special = arguments(claim.adopts, f"only {displaces}", "", MOST_HOLDERS)
        return parse_claim(self._claim(scripts.TAKE, claim, 4, special))

    def settle(self, name: str, token: str, adopts: str) -> None:
        """End that the lease which a claim displaced is put back when that claim is released: a majority granted it.

        Args:
            name: The lock's full name.
            token: The claim's owner token.
            adopts: The holder whose lease it adopts. Any other one was replaced: that reason is left with its token.
        """
        self._run(scripts.SETTLE, name, token, adopts)

    def take_back(self, name: str, token: str, ttl: float) -> None:
        """Release what a claim got, and put the lease back that it displaced. Copies of the claim change nothing then.

        One request, that is never sent twice: no copy of it can come late, and end a later try's lease.

        Raises:
            StoreUnavailable: Whether it was done, or will be, is not known.
        """
        client = self._connections.for_ttl(ttl)
        command = lock_command(scripts.RELEASE, name, token, " ".join(self._unclear.get(token, ())))
        try:
            with self._counted():
                evalsha(client, scripts.RELEASE, command)
        except client.driver.errors as error:
            raise self._connections.unavailable(error) from error

    def _twice(self, ttl: float | None, call: Callable[..., Any], *args: Any) -> Any:
        with self._counted():
            return super()._twice(ttl, call, *args)

    def in_forked_child(self) -> None:
        """Forget the calls of the parent's threads."""
        self._under_way, self._counting = 0, threads.RLock()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Refuses when too many calls are under way."""
        with self._counting:
            if self._under_way >= MOST_UNDER_WAY:
                name = self._connections.name
                raise StoreUnavailable(f"the lock store {name} has {MOST_UNDER_WAY} requests to answer: it hangs")
            self._under_way += 1
        try:
            yield
        finally:
            with self._counting:
                self._under_way -= 1
