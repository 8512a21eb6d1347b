"""One acquisition by a majority of servers, and what becomes of those that answer late."""

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

#: Seconds between two requests to a server that could not be asked to put a lease back.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 2.0
#: What a server says to a claim.
Said = Granted | Refused | StoreUnavailable | None


class Attempt:
    """A claim made at each of some servers.

    A server answers a claim, and only afterwards is asked to take it back, whether anybody still waited for its answer
    or not. Until it has confirmed that, it is ``unclear`` whether it will end a later lease of the same owner token.

    A claim that adopts or replaces displaces the lease of the holder that the server named before, and of no other.
    Each server keeps that lease until the claim is settled, after a majority has granted it. A release before puts the
    lease back. So an attempt that fails releases what it got, until each server has confirmed that.

    Args:
        members: The servers, and the holder whose lease the claim takes at each.
        claim: What is asked of each.
        up_for: How long a server must be up for its word to count, in seconds.
        unclear: Those servers that still have to take back something of this owner token.
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
        self._timeout = 2 * timeout_for(patient_ttl(claim))  # a server whose connection broke is asked twice
        self._mutex = threads.RLock()
        self._said: dict[Member, Said] = {}
        self._fencing_token: int | None = None
        self._wanted = True
        self._settled = False

    @property
    def over(self) -> bool:
        """Whether all have answered."""
        return len(self._said) == len(self._members)

    def claims(self, enough: Callable[[Sequence[Said]], bool]) -> list[Said]:
        """Makes the claim everywhere, and returns what the servers said in time."""
        return ask([partial(self._claim_at, member) for member in self._members], self._timeout, enough)

    def agree(self, fencing_token: int, quorum: int) -> bool:
        """Gives the lease a fencing token, with those servers that have granted it.

        Returns:
            Whether a majority has it.
        """
        with self._mutex:
            self._fencing_token = fencing_token
            granted = [member for member, said in self._said.items() if isinstance(said, Granted)]

        def enough(answers: Sequence[bool | StoreUnavailable | None]) -> bool:
            return sum(answer is True for answer in answers) >= quorum

        calls = [partial(self._confirm_at, member) for member in granted]
        return enough(ask(calls, self._timeout, enough))

    def settle(self, quorum: int) -> bool:
        """End the leases that the claim displaced, at servers that answer late too: a majority has granted it.

        Returns:
            Whether they are over at a majority. Otherwise they may be put back, so the claim must be taken back.
        """
        with self._mutex:
            self._settled = True
            granted = [member for member, said in self._said.items() if isinstance(said, Granted)]
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

    def take_back(self) -> None:
        """Takes back what was granted, and what will be; waits for those servers that have answered the claim."""
        with self._mutex:
            self._wanted = False
            to_do = [member for member in self._said if not isinstance(self._said[member], Refused)]
            self._unclear.update(to_do, (member for member in self._members if member not in self._said))
            failed = [member for member in to_do if not isinstance(self._said[member], Granted)]
        for member in failed:
            start(partial(self._take_back_soon, member))
        ask([partial(self._take_back_soon, member) for member in to_do if member not in failed], self._timeout)

    def unwanted(self) -> None:
        """The lease is released by others at all servers: of those that answer from now on it is taken back."""
        with self._mutex:
            self._wanted = False

    def _claim_at(self, member: Member) -> Granted | Refused:
        said: Said = None
        try:
            said = self._ask(member)
        except StoreUnavailable as error:
            said = error
        finally:
            with self._mutex:
                self._said[member] = said
                wanted, fencing_token, settled = self._wanted, self._fencing_token, self._settled
        if isinstance(said, Granted) and settled:
            self._settle_at(member)
        if not wanted:
            self._late(member, said)
        elif fencing_token is not None and isinstance(said, Granted):
            self._confirm_at(member)
        if isinstance(said, StoreUnavailable):
            raise said
        return said

    def _ask(self, member: Member) -> Granted | Refused:
        if not (self._claim.adopts or self._claim.replaces):
            return member.acquire(self._claim)
        holder = self._displaced.get(member)
        return member.take(self._claim, "" if holder is None else holder.token)

    def _late(self, member: Member, said: Said) -> None:
        """What was said is of no use any more."""
        if isinstance(said, Refused):
            self._unclear.discard(member)
        else:
            self._take_back_soon(member)

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

    def _take_back_soon(self, member: Member) -> None:
        """Take back what was granted; in the background where that fails now and a lease is to be put back by it."""
        if not self._take_back_at(member) and member in self._displaced and not self._settled:
            start(partial(self._keep_taking_back, member))

    def _keep_taking_back(self, member: Member) -> None:
        pause = FIRST_PAUSE_SECONDS
        while system_clock.now() < self._begun + self._displaced[member].expires_in:
            time.sleep(pause)
            with suppress(StoreUnavailable):
                # The server stays unclear: a copy of a request before may yet come.
                member.take_back(self._claim.name, self._claim.token, self._claim.ttl)
                return
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _take_back_at(self, member: Member) -> bool:
        try:
            member.take_back(self._claim.name, self._claim.token, self._claim.ttl)
        except StoreUnavailable:
            return False  # it stays unclear
        self._unclear.discard(member)
        return True
