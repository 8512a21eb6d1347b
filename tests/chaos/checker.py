"""Reads a history, and says where it breaks what was promised. Knows nothing of the library, nor of how it works."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from tests.chaos.history import Event

#: What the store has said yes to.
YES = ("acquire", "renew")
#: After these the holder knows that it holds no more.
OVER = ("let_go", "lost")


@dataclass(frozen=True)
class Violation:
    """Something that must not happen.

    Attributes:
        kind: ``overlap``, ``fence`` (one that doesn't grow), ``register`` (an older token was accepted), ``refused`` (a
            rightful holder was), ``leaseless`` (a body without a lease), ``lost task``.
        at: When.
        text: What exactly.
    """

    kind: str
    at: float
    text: str

    def __str__(self) -> str:
        return f"{self.at:.6f} {self.kind}: {self.text}"


@dataclass
class Report:
    """What a history holds.

    Attributes:
        violations: What must not happen, in order of time.
        figures: Counts, for people.
    """

    violations: list[Violation] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)

    def found(self, kind: str, at: float, text: str) -> None:
        self.violations.append(Violation(kind, at, text))


@dataclass
class Belief:
    """What a holder may believe: that it holds until a deadline, since the store has said so."""

    yes: Event
    limit: int

    @property
    def until(self) -> float:
        return self.yes.sent + self.yes.ttl


def check(events: Iterable[Event], *, broker_may_lose: bool = False) -> Report:
    """Checks a history.

    Args:
        events: All of it.
        broker_may_lose: Whether a task is excused that nobody has heard of since before a process was killed.
    """
    events = _with_ends(sorted(events, key=lambda event: event.at))
    # Of one death it may be told more than once.
    report = Report(figures=Counter(event.kind for event in events if event.kind != "killed"))
    report.figures["processes that ended"] = len({event.pid for event in events if event.kind == "killed"})
    _Holders(report, [event for event in events if event.kind == "loss"]).go_through(events)
    _check_fences(report, events)
    _check_register(report, events)
    _check_tasks(report, events, broker_may_lose)
    report.violations.sort(key=lambda violation: violation.at)
    return report


def _with_ends(events: list[Event]) -> list[Event]:
    """A process that was told to end at once may be killed by its worker, unseen: it ends with its last line."""
    told = {event.pid: event.at for event in events if event.kind == "quit"}
    last = {event.pid: event.at for event in events if event.kind != "killed"}
    ends = [Event("killed", last[pid], pid, reason="quit") for pid in told]
    return sorted([*events, *ends], key=lambda event: event.at)  # stable: after its last line


class _Holders:
    """Never more holders than the limit, each by what it may believe: from the store's yes until the deadline that
    came with it, or until it knows better, or is dead.

    Where the store may have forgotten something between its yes to one and its yes to another, both may believe.
    """

    def __init__(self, report: Report, losses: list[Event]) -> None:
        self._report = report
        self._losses = losses
        self._beliefs: dict[str, dict[str, Belief]] = defaultdict(dict)
        self._over: set[str] = set()
        self._dead: set[int] = set()
        self._leases: dict[str, int] = {}

    def go_through(self, events: list[Event]) -> None:
        for event in events:
            if event.kind == "acquire":  # also by a process that is about to die: its kill is recorded beforehand
                self._leases[event.token] = event.pid
            if event.kind == "killed":
                self._die(event)
            elif event.kind in YES and event.token not in self._over and event.pid not in self._dead:
                self._yes(event)
            elif event.kind in OVER:
                self._over.add(event.token)
                self._beliefs[event.key].pop(event.token, None)
            elif event.kind == "write" and not event.accepted and event.limit == 1:
                self._refused(event)
            elif event.kind == "begin" and self._leases.get(event.token) != event.pid:
                self._report.found("leaseless", event.at, f"process {event.pid} began {event.key} without a lease")

    def _die(self, death: Event) -> None:
        self._dead.add(death.pid)
        for beliefs in self._beliefs.values():
            for token in [token for token, belief in beliefs.items() if belief.yes.pid == death.pid]:
                del beliefs[token]

    def _yes(self, yes: Event) -> None:
        beliefs = self._beliefs[yes.key]
        limit = yes.limit
        if yes.kind == "renew":
            if yes.token not in beliefs:
                return  # it had ended for this holder: no answer revives it
            limit = beliefs[yes.token].limit
        if yes.sent + yes.ttl <= yes.at:
            return  # told too late to be believed
        others = [belief for token, belief in beliefs.items() if token != yes.token and belief.until > yes.at]
        unexcused = [belief for belief in others if not self._may_be_forgotten(belief, yes.at)]
        if len(unexcused) >= limit:
            names = ", ".join(f"{belief.yes.token} (pid {belief.yes.pid})" for belief in unexcused)
            text = f"{yes.key}: {yes.kind} of {yes.token} (pid {yes.pid}) beside {names}, limit {limit}"
            self._report.found("overlap", yes.at, text)
        elif len(others) >= limit:
            self._report.figures["overlaps after the store forgot"] += 1
        beliefs[yes.token] = Belief(yes, limit)

    def _refused(self, write: Event) -> None:
        belief = self._beliefs[write.key].get(write.token)
        if belief is None or belief.until <= write.at or self._may_be_forgotten(belief, write.at):
            self._report.figures["writes refused by the register"] += 1
            return
        text = f"{write.key}: write {write.number} of {write.token} with {write.fence}, which holds, was refused"
        self._report.found("refused", write.at, text)

    def _may_be_forgotten(self, belief: Belief, at: float) -> bool:
        """Whether the store may have lost this holding between its last yes to it and a moment."""
        return any(loss.until >= belief.yes.sent and loss.at <= at for loss in self._losses)


def _check_fences(report: Report, events: list[Event]) -> None:
    """A token is greater than all that were there when it was asked for, whatever the store has forgotten."""
    by_key = defaultdict(list)
    for event in events:
        if event.kind == "acquire":
            by_key[event.key].append(event)
    for key, grants in by_key.items():
        answered: list[tuple[float, int]] = []
        highest = 0
        seen: dict[int, str] = {}
        for grant in sorted(grants, key=lambda grant: grant.sent):
            while answered and answered[0][0] <= grant.sent:
                highest = max(highest, heapq.heappop(answered)[1])
            heapq.heappush(answered, (grant.at, grant.fence))
            if grant.fence <= highest:
                report.found("fence", grant.at, f"{key}: {grant.token} got {grant.fence} after {highest}")
            if seen.setdefault(grant.fence, grant.token) != grant.token:
                report.found("fence", grant.at, f"{key}: {grant.token} and {seen[grant.fence]} both got {grant.fence}")


def _check_register(report: Report, events: list[Event]) -> None:
    """In the order of the register's own count, which is that of its lock."""
    highest: dict[str, int] = {}
    writes = [event for event in events if event.kind == "write" and event.limit == 1]
    for write in sorted(writes, key=lambda write: (write.key, write.number)):
        if not write.accepted:
            continue
        if write.fence < highest.get(write.key, 0):
            text = f"{write.key}: write {write.number} with {write.fence} after {highest[write.key]}"
            report.found("register", write.at, text)
        highest[write.key] = max(write.fence, highest.get(write.key, 0))


def _check_tasks(report: Report, events: list[Event], broker_may_lose: bool) -> None:
    """What was sent has ended well."""
    unsent = {event.task_id for event in events if event.kind == "unsent"}  # their callers know
    sent: dict[str, Event] = {}
    for event in events:
        if event.kind in ("sent", "existing") and event.task_id not in unsent:
            sent.setdefault(event.task_id, event)
        elif event.kind == "existing":  # it asks while the lease of a call that failed is still to be given back
            report.figures["calls that were told of a call that failed"] += 1
    ended = {event.task_id for event in events if event.kind == "success"}
    last_death = max((event.at for event in events if event.kind == "killed"), default=0.0)
    signs: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.task_id in sent and event.task_id not in ended:
            signs[event.task_id].append(replace(event, token="", key=""))
    report.figures["tasks sent"], report.figures["tasks ended"] = len(sent), len(ended & set(sent))
    for task_id, heard in signs.items():
        if broker_may_lose and heard[-1].at <= last_death:
            report.figures["tasks lost by the broker"] += 1
            continue
        course = ", ".join(f"{event.kind} {event.at:.3f} {event.reason}".strip() for event in heard[-6:])
        report.found("lost task", heard[-1].at, f"{task_id} of {sent[task_id].key}: {course}")
