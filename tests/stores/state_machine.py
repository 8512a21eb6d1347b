"""What may happen to a store, in any order, beside what should come of it: the state machine of the model-based tests.

`run` holds a store against `tests.stores.model.Model`: after each step every answer and all that the store tells of
itself are as in the model. ``HYPOTHESIS_PROFILE=long`` looks for longer, each time elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from celery_locks.stores.base import Store
from celery_locks.stores.listing import LockInfo, NameRange
from celery_locks.stores.parking import Dispatch, Dropped, Full, Out, Parked, RunEndName, Ticket
from celery_locks.stores.types import TICKET, Claim, Granted, Holder, Refused, Renewal
from tests.stores.model import Answer, Lock, Model
from tests.support.examples import LONG

PREFIX = "model"
#: Most happens in one lock; the other is there so that what is done to one leaves others alone.
BUSY, OTHER = f"{PREFIX}:{{busy}}", f"{PREFIX}:{{other}}"
#: Real time may pass between two looks at a store; deadlines that matter lie further apart.
TOLERANCE = 0.01

#: Without the phase that explains a failure: it runs the example many times more.
PHASES = (Phase.generate, Phase.shrink)

names = st.sampled_from([BUSY] * 7 + [OTHER])
ttls = st.sampled_from([60.0, 10.0, 60.0, 3.0, 60.0])
waits = st.none() | st.sampled_from([30.0, 4.0])
passing = st.sampled_from([1.0, 3.0, 5.0, 5.0, 11.0, 31.0, 70.0] * 3 + [4_000.0, 8_000.0, 86_400.0])
tickets = st.integers(1, 4)
permits = st.sampled_from([1, 1, 1, 2, 3])
most = st.sampled_from([None, None, None, 1, 2])
picks = st.integers(0, 9)
tasks = st.integers(1, 2)
ends = st.sampled_from(["final", "stored", "stored", "again", "rejected"])
#: A ticket has always the same one of them, by its number; most steps are made for the first.
BROKERS = ("", "mail", "billing")
brokers = st.sampled_from(["mail"] * 4 + ["billing"] * 2 + [""])


class Stores(Protocol):
    """A kind of store under a clock that stands still until it is moved."""

    #: How many examples take some 20 seconds.
    examples: int

    def clear(self) -> None:
        """Forgets all."""

    def open(self) -> Store:
        """A store object on the same data as all others, as another process would have."""

    def advance(self, seconds: float) -> None:
        """Lets time pass on the store's clock."""

    def remains(self) -> list[str]:
        """What is written without an end, in words."""


class Machine(RuleBasedStateMachine):
    """Processes that use one store, beside the model of it."""

    def __init__(self, stores: Stores) -> None:
        super().__init__()
        stores.clear()
        self.stores, self.model = stores, Model()
        self.store: Any = stores.open()
        self.limits = {BUSY: 1, OTHER: 1}
        #: Owner tokens that were used for a lock, the latest last; those of a process that crashed are not used again.
        self.tokens: dict[str, list[str]] = {BUSY: [], OTHER: []}
        #: Fencing tokens of the model and what the store gave instead.
        self.fences: dict[str, dict[int, int]] = {BUSY: {}, OTHER: {}}
        self.dispatches: list[Dispatch] = []
        self.made = 0

    def teardown(self) -> None:
        try:
            remains = self.stores.remains()
            assert remains == [], f"without an end: {remains}"
        finally:
            self.store.close()

    @initialize(limit=st.sampled_from([1, 1, 2, 3]), steps=st.integers(0, 5))
    def some_of_a_ticket_s_life_is_behind_it(self, limit: int, steps: int) -> None:
        """Not all begin with nothing: what comes late in a life would seldom be reached."""
        self.limits[BUSY] = limit
        life: list[Callable[[], object]] = [
            lambda: self.acquire(BUSY, 60.0, limit, None),
            lambda: self.enter(BUSY, 1, 60.0, None, None),
            lambda: self.end_run(BUSY, 0, "final", BROKERS[1]),
            lambda: self.a_dispatched_message_arrives(0, 10.0, True),
            lambda: self.enter(BUSY, 1, 60.0, None, None),  # a copy
        ]
        for step in life[:steps]:
            step()

    # ------------------------------------------------------------------ leases

    @rule(name=names, ttl=ttls, permits=permits, line_up=waits)
    def acquire(self, name: str, ttl: float, permits: int, line_up: float | None) -> None:
        self._acquire(self.claim(name, self.new_token(name), ttl, permits), line_up)

    @rule(name=names, pick=picks, ttl=ttls, permits=permits, line_up=waits)
    def acquire_again(self, name: str, pick: int, ttl: float, permits: int, line_up: float | None) -> None:
        """One in line looks whether it is its turn; or the reply was lost; or the lease has ended."""
        token = self.some_waiter(name, pick) or self.some_token(name, pick)
        self._acquire(self.claim(name, token, ttl, permits), line_up)

    @rule(name=names, pick=picks, ttl=ttls, permits=permits, task=tasks, line_up=waits)
    def acquire_specially(
        self, name: str, pick: int, ttl: float, permits: int, task: int, line_up: float | None
    ) -> None:
        adopted = self.some_token(name, pick)
        lease = self.model.lock(name).leases.get(adopted)
        claim = self.claim(name, self.new_token(name), ttl, permits)
        if pick % 3 == 0:
            claim = replace(claim, adopts=adopted, permits=lease.claim.permits if lease else 1)
        elif pick % 3 == 1:
            claim, line_up = replace(claim, replaces=True), None
        else:
            claim = replace(claim, task_id=f"lease's task {task}")
        self._acquire(claim, line_up)

    def _acquire(self, claim: Claim, line_up: float | None) -> None:
        self.compare(claim, self.store.acquire(claim, line_up), self.model.acquire(claim, line_up))

    @rule(name=names, pick=picks)
    def leave(self, name: str, pick: int) -> None:
        token = self.some_waiter(name, pick) or self.some_token(name, pick)
        self.store.leave(name, token)
        self.model.leave(name, token)

    @rule(leases=st.lists(st.tuples(names, picks, ttls), min_size=1, max_size=3, unique_by=lambda each: each[:2]))
    def renew(self, leases: list[tuple[str, int, float]]) -> None:
        renewals = [Renewal(name, self.some_token(name, pick), ttl) for name, pick, ttl in leases]
        answers = self.store.renew(renewals)
        right = [self.model.renew(each.name, each.token, each.ttl) for each in renewals]
        assert all(answer in those for answer, those in zip(answers, right, strict=True)), f"{answers}, not {right}"

    @rule(name=names, pick=picks)
    def release(self, name: str, pick: int) -> None:
        token = self.some_token(name, pick)
        assert self.store.release(name, token) == self.model.release(name, token)

    @rule(name=names)
    def force_release(self, name: str) -> None:
        assert {holder.token for holder in self.store.force_release(name)} == self.model.force_release(name)

    @rule(name=names, pick=picks)
    def force_release_one(self, name: str, pick: int) -> None:
        token = self.some_token(name, pick)
        assert {holder.token for holder in self.store.force_release(name, token)} == self.model.force_release(
            name, token
        )

    # ------------------------------------------------------------------ tickets

    @rule(name=names, number=tickets, ttl=ttls, wait=waits, most=most, late=st.booleans())
    def enter(
        self, name: str, number: int, ttl: float, wait: float | None, most: int | None, late: bool = True
    ) -> None:
        """A message arrives, for the first time or once more."""
        claim = self.claim(name, self.new_token(name), ttl, 1 + number // 4)
        self._enter(claim, replace(self.ticket(name, number, wait, most), late=late))

    @rule(pick=picks, ttl=ttls, late=st.booleans())
    def a_dispatched_message_arrives(self, pick: int, ttl: float, late: bool) -> None:
        if self.dispatches:
            dispatch = self.dispatches[-1 - pick % min(3, len(self.dispatches))]
            number = int(dispatch.id.rpartition(" ")[2])
            claim = self.claim(dispatch.name, self.new_token(dispatch.name), ttl, 1 + number // 4)
            self._enter(claim, replace(self.ticket(dispatch.name, number), late=late, count=dispatch.count))

    @rule(name=names, number=tickets, ttl=ttls, pick=picks)
    def enter_again(self, name: str, number: int, ttl: float, pick: int) -> None:
        """The answer was lost; or a message that may not park."""
        known = self.model.lock(name).tickets.get(f"{name} {number}")
        token = known.token if known and known.token in self.tokens[name] else self.new_token(name)
        self._enter(self.claim(name, token, ttl), self.ticket(name, number, message=pick % 2 == 0))

    def _enter(self, claim: Claim, ticket: Ticket) -> None:
        self.compare(claim, self.store.enter(claim, ticket), self.model.enter(claim, ticket))

    @rule(name=names, number=tickets, ttl=ttls, wait=waits, most=most, pick=picks)
    def park(self, name: str, number: int, ttl: float, wait: float | None, most: int | None, pick: int) -> None:
        claim = self.claim(name, self.new_token(name), ttl, 1 + number // 4)
        ticket = self.ticket(name, number, wait, most, message=pick < 8)
        self.compare(claim, self.store.park(claim, ticket), self.model.park(claim, ticket))

    @rule(name=names, pick=picks, end=ends, broker=brokers)
    def end_run(self, name: str, pick: int, end: RunEndName, broker: str) -> None:
        token = self.some_token(name, pick)
        ended = self.store.end_run(name, token, end, broker=broker)
        self.compare_ends(ended, self.model.end_run(name, token, end, broker))

    @rule(pick=picks, within=ttls)
    def published(self, pick: int, within: float) -> None:
        if self.dispatches:
            dispatch = self.dispatches[-1 - pick % len(self.dispatches)]
            self.store.published(dispatch, within)
            self.model.published(dispatch, within)

    @rule(name=names, number=tickets, pick=picks, running=st.booleans())
    def finish(self, name: str, number: int, pick: int, running: bool) -> None:
        """A task ended without a run; or the run of a ticket, most often the last one, has ended for good after all."""
        id = f"{name} {number}"
        known = self.model.lock(name).tickets.get(id)
        token = "" if pick < 4 else known.token if known and pick < 8 else self.some_token(name, pick)
        self.store.finish(name, id, token, running=running)
        self.model.finish(name, id, token, running)

    @rule(broker=brokers)
    def sweep(self, broker: str) -> None:
        self.compare_dispatches(self.store.sweep(PREFIX, broker), self.model.sweep(broker))

    @rule(name=names, number=tickets, broker=brokers)
    def withdraw(self, name: str, number: int, broker: str) -> None:
        task = f"task {name} {number}"
        self.compare_dispatches(self.store.withdraw(PREFIX, broker, task), self.model.withdraw(task, broker))

    @rule(task=tasks, broker=brokers)
    def withdraw_lease(self, task: int, broker: str) -> None:
        id = f"lease's task {task}"
        name, token, until = self.model.tasks.get(id, ("", "", 0.0))
        if name and (self.model.now >= until or token not in self.model.lock(name).leases):
            return  # what became of that lease, a store may or may not know: nothing comes of it but a sweep
        self.compare_dispatches(self.store.withdraw(PREFIX, broker, id), self.model.withdraw(id, broker))

    # ------------------------------------------------------------------ fate

    @rule(seconds=passing)
    def time_passes(self, seconds: float) -> None:
        self.stores.advance(seconds)
        self.model.now += seconds

    @rule(name=names)
    def crash(self, name: str) -> None:
        """A process forgets its tokens; another one comes."""
        self.tokens[name].clear()
        self.store.close()
        self.store = self.stores.open()

    # ------------------------------------------------------------------ what holds after each step

    @invariant()
    def each_lock_is_as_in_the_model(self) -> None:
        for name in self.limits:
            state = self.store.info(name)
            assert state.name == name
            self.compare_state(state)
            assert self.store.waiting(name) == state.waiting
            assert self.store.held(name) == state.permits

    @invariant()
    def the_list_is_as_in_the_model(self) -> None:
        page = self.store.page(NameRange(PREFIX, f"{PREFIX}:", "", 10))
        assert page.last is None
        assert [item.name for item in page.items] == [name for name in sorted(self.limits) if self.in_use(name)]
        for item in page.items:
            self.compare_state(item)

    @invariant()
    def the_figures_are_as_in_the_model(self) -> None:
        figures, near = self.store.stats(PREFIX, 7.5), self.model.now + 7.5
        locks = {name: self.model.lock(name) for name in self.limits}
        leases = [lease for lock in locks.values() for lease in lock.leases.values()]
        assert figures.complete
        assert figures.locks == sum(map(self.in_use, self.limits))
        assert figures.holders == len(leases)
        assert figures.near_expiry == sum(lease.deadline < near for lease in leases)
        assert figures.waiting == sum(len(lock.line) for lock in locks.values())
        since = min((lease.since for lease in leases), default=self.model.now)
        oldest = {name for name, lock in locks.items() if any(each.since == since for each in lock.leases.values())}
        assert figures.oldest_name in (oldest or {None})
        assert abs(figures.oldest_held_for - (self.model.now - since)) < TOLERANCE

    def in_use(self, name: str) -> bool:
        lock = self.model.lock(name)
        return bool(lock.leases or lock.line)

    # ------------------------------------------------------------------ comparing

    def compare(self, claim: Claim, told: Any, right: Answer) -> None:
        """The answer to a claim."""
        lock = self.model.lock(claim.name)
        if right.kind == "granted":
            assert isinstance(told, Granted), f"{told}, not {right}"
            assert told.has_ticket == right.has_ticket
            self.compare_fences(claim.name, {right.fence: told.fencing_token})
        elif right.kind in ("refused", "parked", "out"):
            kinds = {"refused": Refused, "parked": Parked, "out": Out}
            assert isinstance(told, kinds[right.kind]), f"{told}, not {right}"
            self.compare_refusal(lock, told if isinstance(told, Refused) else told.refused, right)
            assert not isinstance(told, Out) or told.reason == right.more
            self.compare_dispatches(getattr(told, "dispatches", ()), right.dispatches)
        elif right.kind == "full":
            assert isinstance(told, Full)
            assert 0 < told.waiters <= right.more
        else:
            assert told == {"none": None, "dropped": Dropped(right.more)}[right.kind]

    def compare_refusal(self, lock: Lock, told: Refused, right: Answer) -> None:
        assert tuple(sorted(holder.token for holder in told.holders)) == right.holders
        assert told.position == right.position
        assert told.replaced == (right.more == "replaced")
        assert told.retry_in >= 0
        events = [lease.deadline for lease in lock.leases.values()]
        if right.position:  # of those before it, the last; a ticket's place is begun anew by whoever comes by it
            before = list(lock.line)[right.position - 1]
            events = [] if before.startswith(TICKET) else [lock.line[before].deadline]
        if events:
            latest = min(events) - self.model.now
            assert told.retry_in <= latest + TOLERANCE, f"looks again in {told.retry_in} s, {latest} s would be right"

    def compare_ends(self, told: tuple[bool, tuple[Dispatch, ...]], right: tuple[bool, tuple[Dispatch, ...]]) -> None:
        assert told[0] == right[0]
        self.compare_dispatches(told[1], right[1])

    def compare_dispatches(self, told: tuple[Dispatch, ...], right: tuple[Dispatch, ...]) -> None:
        """Each ticket is dispatched when it is its turn, and as often as it should be."""
        assert sorted(told, key=by_ticket) == sorted(right, key=by_ticket), f"dispatched {told}, not {right}"
        self.dispatches += told

    def compare_state(self, state: LockInfo) -> None:
        lock, limit = self.model.lock(state.name), self.limits[state.name]
        assert state.permits == sum(holder.permits for holder in state.holders) <= limit, "more than there are"
        assert state.waiting == len(lock.line), f"{state.waiting} wait, not {list(lock.line)}"
        leases = sorted(lock.leases.items(), key=lambda item: item[1].fence)
        assert [holder.token for holder in state.holders] == [token for token, _ in leases]
        for holder, (_, lease) in zip(state.holders, leases, strict=True):
            terms = (lease.claim.owner, lease.claim.permits, lease.claim.limit)
            assert (holder.owner, holder.permits, holder.limit) == terms
            assert abs(holder.held_for - (self.model.now - lease.since)) < TOLERANCE
            assert abs(holder.expires_in - (lease.deadline - self.model.now)) < TOLERANCE
        self.compare_fences(state.name, {lease.fence: holder.fencing_token for holder, (_, lease) in self.pairs(state)})

    def pairs(self, state: LockInfo) -> list[tuple[Holder, tuple[str, Any]]]:
        leases = self.model.lock(state.name).leases
        return [(holder, (holder.token, leases[holder.token])) for holder in state.holders]

    def compare_fences(self, name: str, given: dict[int, int]) -> None:
        """A lease keeps its fencing token, and a later one has a greater one."""
        known = self.fences[name]
        assert all(known.setdefault(number, fence) == fence for number, fence in given.items())
        in_order = [known[number] for number in sorted(known)]
        assert all(one < next for one, next in pairwise(in_order)), "a token did not grow"

    # ------------------------------------------------------------------ what the rules are written with

    def claim(self, name: str, token: str, ttl: float, permits: int = 1, **more: Any) -> Claim:
        limit = self.limits[name]
        return Claim(name, token, f"owner of {token}", ttl, limit, min(permits, limit), **more)

    def new_token(self, name: str) -> str:
        self.made += 1
        self.tokens[name].append(f"token {self.made}")
        return self.tokens[name][-1]

    def some_token(self, name: str, pick: int) -> str:
        """One of a live lease more often than not, else a stale one."""
        leases = self.model.lock(name).leases
        live = [token for token in self.tokens[name] if token in leases]
        those = live if live and pick < 7 else self.tokens[name]
        return those[-1 - pick % len(those)] if those else "nobody's"

    def some_waiter(self, name: str, pick: int) -> str | None:
        """One that stands in line, and no ticket."""
        line = [token for token in self.model.lock(name).line if token in self.tokens[name]]
        return line[pick % len(line)] if line else None

    def ticket(
        self, name: str, number: int, wait: float | None = None, most: int | None = None, message: bool = True
    ) -> Ticket:
        text = f"message of {name} {number}" if message else ""
        return Ticket(f"{name} {number}", text, f"task {name} {number}", wait, most, broker=BROKERS[number % 3])


def by_ticket(dispatch: Dispatch) -> tuple[str, str]:
    return dispatch.name, dispatch.id


def run(stores: Stores) -> None:
    """Holds a kind of store against the model."""
    run_state_machine_as_test(
        lambda: Machine(stores),
        settings=settings(
            max_examples=stores.examples * (50 if LONG else 1),
            stateful_step_count=100 if LONG else 40,
            derandomize=not LONG,
            deadline=None,
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
