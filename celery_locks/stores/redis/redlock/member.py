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
from celery_locks.stores.types import MOST_HOLDERS, Claim, Granted, Refused
from celery_locks.stores.write_check import TTL_SECONDS, WriteCheck, throwaway_name

#: How many requests to one server may be pending. Each has a thread, so they would pile up if the server hangs.
MOST_UNDER_WAY = 256


class Member(RedisStore):
    """A `RedisStore` that confirms the fencing token of a majority, and undoes claims that failed."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self._under_way = 0
        self._counting = threads.RLock()

    def confirm(self, name: str, token: str, fencing_token: int, up_for: float, ttl: float) -> bool:
        """Give a lease the fencing token that a majority agreed on; the lock's next one is greater.

        Args:
            name: The lock's full name.
            token: The owner token.
            fencing_token: The fencing token.
            up_for: The server's answer counts only if it is up for this many seconds; 0 for any uptime.
            ttl: The ttl of the lease.

        Returns:
            Whether the token holds the lock, and the server's answer counts.
        """
        asks = int(up_for > 0)
        up: int = self._run(scripts.CONFIRM, name, token, fencing_token, asks, ttl=ttl)
        return up >= 0 and (not asks or up >= up_for)

    def try_lock(self, prefix: str, restart_delay: float) -> list[str]:
        """Use a throwaway lock as a majority does: no one waits for it here, and it has no value.

        Args:
            prefix: That of the site's locks.
            restart_delay: The server's answer counts only if it is up for this many seconds.

        Raises:
            StoreUnavailable: A step failed.
        """
        check = WriteCheck(self, prefix, throwaway_name(prefix))
        check.run(line=False, values=False)
        claim = check.claim()
        with check.step("the fencing token of a majority can't be confirmed"):
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
            claim: The claim.
            displaces: The owner token of the only holder that it may displace.
        """
        special = arguments(claim.adopts, f"only {displaces}", "", MOST_HOLDERS)
        return parse_claim(self._claim(scripts.TAKE, claim, 4, special))

    def settle(self, name: str, token: str, adopts: str) -> None:
        """End the lease that a claim displaced: a majority granted the claim, so its release must not restore it.

        Args:
            name: The lock's full name.
            token: The claim's owner token.
            adopts: The holder whose lease the claim adopts. Any other displaced holder gets the reason ``replaced``.
        """
        self._run(scripts.SETTLE, name, token, adopts)

    def undo_claim(self, name: str, token: str, ttl: float) -> None:
        """Release the lease of a claim, restore the lease that it displaced, and void copies of the claim.

        The request is sent once only: a copy that comes late could end the lease of a later attempt.

        Raises:
            StoreUnavailable: The server may have released it, or may still do so.
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

    def forget_parent(self) -> None:
        """Forget the requests of the parent's threads."""
        self._under_way, self._counting = 0, threads.RLock()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a request while it is pending; refuse it if there are too many."""
        with self._counting:
            if self._under_way >= MOST_UNDER_WAY:
                name = self._connections.name
                raise StoreUnavailable(f"the lock store {name} has {MOST_UNDER_WAY} pending requests: it hangs")
            self._under_way += 1
        try:
            yield
        finally:
            with self._counting:
                self._under_way -= 1
