"""One acquisition by a majority of servers, also at the servers that reply late."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from celery_locks._runtime import threads
from celery_locks._runtime.clock import system_clock
from celery_locks.errors import StoreUnavailable
from celery_locks.stores.parallel import ask, start
from celery_locks.stores.redis.redlock.member import Member
from celery_locks.stores.redis.wire.connections import patient_ttl, timeout_for
from celery_locks.stores.types import Claim, Granted, Holder, Refused

#: Seconds between two requests to a server that must restore a lease and can't be reached.
FIRST_UNDO_PAUSE_SECONDS, LONGEST_UNDO_PAUSE_SECONDS = 0.1, 2.0
#: The reply of a server to a claim, or why there is none.
Reply = Granted | Refused | StoreUnavailable | None


class Attempt:
    """A claim that is made at several servers.

    A failed attempt undoes its claim at each server, after the server has replied to it. Until a server has confirmed
    that, it is ``unclear``: a request that comes late might end a later lease of the same owner token.

    A claim that adopts or replaces displaces the lease of the holder that the server named before, and of no other
    holder. Each server keeps the displaced lease until the claim is settled, after a majority has granted it. A release
    before that restores the lease. So a failed attempt releases its leases until each server has confirmed that.

    Args:
        members: The servers, and the holder whose lease the claim takes at each.
        claim: The claim.
        up_for: A server's answer counts only if it is up for this many seconds.
        unclear: The servers that still have to undo a claim of this owner token.
    """

    def __init__(
        self, members: Mapping[Member, Holder | None], claim: Claim, up_for: float, unclear: set[Member]
    ) -> None:
        self._members = list(members)
        self._displaced = {member: holder for member, holder in members.items() if holder is not None}
        self._begun = system_clock.now()
        self._claim = claim
        self._up_for = up_for
        self._unclear = unclear
        self._timeout = 2 * timeout_for(patient_ttl(claim))  # after a broken connection the request is sent twice
        self._mutex = threads.RLock()
        self._replies: dict[Member, Reply] = {}
        self._fencing_token: int | None = None
        self._wanted = True
        self._settled = False

    @property
    def over(self) -> bool:
        """Whether all servers have replied."""
        return len(self._replies) == len(self._members)

    def make(self, enough: Callable[[Sequence[Reply]], bool]) -> list[Reply]:
        """Make the claim at all servers, and return the replies that came in time."""
        return ask([partial(self._claim_at, member) for member in self._members], self._timeout, enough)

    def agree(self, fencing_token: int, quorum: int) -> bool:
        """Give the lease a fencing token at the servers that have granted it.

        Returns:
            Whether a majority has it.
        """
        with self._mutex:
            self._fencing_token = fencing_token
            granted = [member for member, reply in self._replies.items() if isinstance(reply, Granted)]

        def enough(answers: Sequence[bool | StoreUnavailable | None]) -> bool:
            return sum(answer is True for answer in answers) >= quorum

        calls = [partial(self._confirm_at, member) for member in granted]
        return enough(ask(calls, self._timeout, enough))

    def settle(self, quorum: int) -> bool:
        """End the leases that the claim displaced, also at servers that reply late: a majority has granted the claim.

        Returns:
            Whether a majority has ended them. Otherwise they may be restored, so the claim must be undone.
        """
        with self._mutex:
            self._settled = True
            granted = [member for member, reply in self._replies.items() if isinstance(reply, Granted)]
        displacing = [member for member in granted if member in self._displaced]
        if not displacing:
            return True

        def enough(answers: Sequence[bool | StoreUnavailable | None]) -> bool:
            return len(granted) - len(displacing) + sum(answer is True for answer in answers) >= quorum

        if enough(ask([partial(self._settle_at, member) for member in displacing], self._timeout, enough)):
            return True
        with self._mutex:
            self._settled = False
        return False

    def undo(self) -> None:
        """Undo the claim. Wait for the servers that granted it; the others follow when they reply."""
        with self._mutex:
            self._wanted = False
            to_do = [member for member in self._replies if not isinstance(self._replies[member], Refused)]
            self._unclear.update(to_do, (member for member in self._members if member not in self._replies))
            failed = [member for member in to_do if not isinstance(self._replies[member], Granted)]
        for member in failed:
            start(partial(self._undo_at, member))
        ask([partial(self._undo_at, member) for member in to_do if member not in failed], self._timeout)

    def release_late(self) -> None:
        """Undo the claim at servers that reply from now on. The caller releases the lease at all others."""
        with self._mutex:
            self._wanted = False

    def _claim_at(self, member: Member) -> Granted | Refused:
        reply: Reply = None
        try:
            reply = self._ask(member)
        except StoreUnavailable as error:
            reply = error
        finally:
            with self._mutex:
                self._replies[member] = reply
                wanted, fencing_token, settled = self._wanted, self._fencing_token, self._settled
        if isinstance(reply, Granted) and settled:
            self._settle_at(member)
        if not wanted:
            if isinstance(reply, Refused):
                self._unclear.discard(member)
            else:
                self._undo_at(member)
        elif fencing_token is not None and isinstance(reply, Granted):
            self._confirm_at(member)
        if isinstance(reply, StoreUnavailable):
            raise reply
        return reply

    def _ask(self, member: Member) -> Granted | Refused:
        if not (self._claim.adopts or self._claim.replaces):
            return member.acquire(self._claim)
        holder = self._displaced.get(member)
        return member.take(self._claim, "" if holder is None else holder.token)

    def _confirm_at(self, member: Member) -> bool:
        assert self._fencing_token is not None
        name, token = self._claim.name, self._claim.token
        return member.confirm(name, token, self._fencing_token, self._up_for, self._claim.ttl)

    def _settle_at(self, member: Member) -> bool:
        if member in self._displaced:
            try:
                member.settle(self._claim.name, self._claim.token, self._claim.adopts)
            except StoreUnavailable:
                return False
        return True

    def _undo_at(self, member: Member) -> None:
        """Undo the claim at one server. If that fails and a displaced lease depends on it, go on in the background."""
        try:
            member.undo_claim(self._claim.name, self._claim.token, self._claim.ttl)
        except StoreUnavailable:  # the server stays unclear
            if member in self._displaced and not self._settled:
                start(partial(self._keep_undoing_at, member))
        else:
            self._unclear.discard(member)

    def _keep_undoing_at(self, member: Member) -> None:
        pause = FIRST_UNDO_PAUSE_SECONDS
        while system_clock.now() < self._begun + self._displaced[member].expires_in:
            time.sleep(pause)
            with suppress(StoreUnavailable):
                # The server stays unclear: a copy of an earlier request may still arrive.
                member.undo_claim(self._claim.name, self._claim.token, self._claim.ttl)
                return
            pause = min(2 * pause, LONGEST_UNDO_PAUSE_SECONDS)
