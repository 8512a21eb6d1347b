"""Judge a run of parked tasks: by what their bodies and processes wrote, their results, and the tickets that are left.

Everything here works on plain data. It knows nothing of the library.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.checker import check
from tests.chaos.history import Event


@dataclass(frozen=True)
class Ticket:
    """A ticket that the store still has, other than a tombstone.

    Attributes:
        task_id: Its task.
        state: Where it is in its life.
    """

    task_id: str
    state: str


@dataclass(frozen=True)
class Rules:
    """What Celery itself may do to a task.

    Attributes:
        late: Messages are acknowledged after the run. Otherwise a task whose process dies in its run is lost.
        broker_loses: The broker may lose a message that it was delivering, for the first time or again, when a worker
            died or its connection was cut.
    """

    late: bool
    broker_loses: bool


@dataclass(frozen=True)
class Body:
    """A run of a body. ``end`` is the death of its process where the body wrote none."""

    key: str
    task_id: str
    token: str
    pid: int
    begin: float
    end: float
    finished: bool


@dataclass
class Verdict:
    """What became of all tasks.

    Attributes:
        violations: What must not happen.
        ends: How many tasks ended in which way.
        stuck: The ids of tasks that never ended and had to.
        lost: The ids of tasks that ended without a result, as they do in Celery itself.
        figures: Other counts.
    """

    violations: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    stuck: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    figures: Counter[str] = field(default_factory=Counter)


def judge(events: Sequence[Event], states: Mapping[str, str], tickets: Iterable[Ticket], rules: Rules) -> Verdict:
    """Judge a whole run.

    Args:
        events: The history.
        states: The result of each task that was sent: a state of Celery's, for a failure with the error's name after
            a blank.
        tickets: What is left in the store.
        rules: What is excused.
    """
    events = sorted(events, key=lambda event: event.at)
    verdict, deaths = Verdict(), deaths_in(events)
    _check_holders(verdict, events)
    bodies = bodies_in(events, deaths)
    _check_bodies(verdict, bodies, events)
    tickets = list(tickets)
    returning = {ticket.task_id for ticket in tickets if ticket.state == "ended"}
    _check_ends(verdict, states, events, bodies, deaths, rules, returning)
    for ticket in tickets:
        verdict.figures[f"tickets left {ticket.state}"] += 1
        # A process that dies after its result, before its ticket is settled, leaves it ended: owed nothing, it expires.
        over = ticket.state == "ended" and states.get(ticket.task_id) == "SUCCESS"
        if not over and ticket.task_id not in verdict.lost:
            verdict.violations.append(f"ticket left: {ticket.task_id} is {ticket.state} in the store")
    return verdict


def deaths_in(events: Iterable[Event]) -> dict[int, float]:
    """Return when which process died.

    A process that was told to end immediately may be killed by its worker unseen: it ends with its last line.
    """
    deaths: dict[int, float] = {}
    last: dict[int, float] = {}
    quitting: set[int] = set()
    for event in events:
        if event.kind == "killed":
            deaths.setdefault(event.pid, event.at)
        elif event.kind == "quit":
            quitting.add(event.pid)
            last.setdefault(event.pid, event.at)
        else:
            last[event.pid] = event.at
    return {**deaths, **{pid: last[pid] for pid in quitting}}


def bodies_in(events: Iterable[Event], deaths: Mapping[int, float]) -> list[Body]:
    """Return all runs of bodies, in the order of their begins."""
    begun: dict[tuple[str, int], Event] = {}
    bodies = []
    for event in events:
        if event.kind == "begin":
            begun[event.token, event.pid] = event
        elif event.kind == "end" and (event.token, event.pid) in begun:
            bodies.append(_body(begun.pop((event.token, event.pid)), event.at, finished=not event.reason))
    bodies += [
        _body(begin, max(begin.at, deaths.get(begin.pid, float("inf"))), finished=False) for begin in begun.values()
    ]
    return sorted(bodies, key=lambda body: body.begin)


def _body(begin: Event, end: float, finished: bool) -> Body:
    return Body(begin.key, begin.task_id, begin.token, begin.pid, begin.at, end, finished)


def _check_holders(verdict: Verdict, events: Sequence[Event]) -> None:
    """Apply the rules of the other chaos test: leases, fencing tokens, bodies without a lease.

    It judges tasks by their ``sent``, which this history does not have.
    """
    verdict.violations += [str(violation) for violation in check(events).violations]


def _check_bodies(verdict: Verdict, bodies: Sequence[Body], events: Sequence[Event]) -> None:
    """Find two bodies of a key at the same time. A body that goes on after its lease was lost is excused."""
    ends_of_leases = _ends_of_leases(events)
    running: dict[str, list[Body]] = defaultdict(list)
    for body in bodies:
        running[body.key] = [other for other in running[body.key] if other.end > body.begin]
        for other in running[body.key]:
            if ends_of_leases.get(other.token, float("inf")) <= body.begin:
                verdict.figures["bodies alongside one whose lease was lost"] += 1
            else:
                verdict.violations.append(
                    f"two at once: {body.key}: {body.task_id} (pid {body.pid}) began at {body.begin:.6f}, "
                    f"{other.task_id} (pid {other.pid}) ran from {other.begin:.6f} to {other.end:.6f}"
                )
        running[body.key].append(body)


def _ends_of_leases(events: Iterable[Event]) -> dict[str, float]:
    """Return until when each lease excluded others: its last deadline, or when its holder knew that it was lost.

    A release excuses nothing: it comes after the body.
    """
    ends: dict[str, float] = {}
    over: set[str] = set()
    for event in events:
        if event.kind == "lost":
            over.add(event.token)
            ends[event.token] = min(ends.get(event.token, event.at), event.at)
        elif event.kind in ("acquire", "renew") and event.token not in over:
            ends[event.token] = event.sent + event.ttl
    return ends


def _check_ends(
    verdict: Verdict,
    states: Mapping[str, str],
    events: Sequence[Event],
    bodies: Sequence[Body],
    deaths: Mapping[int, float],
    rules: Rules,
    returning: set[str],
) -> None:
    finished = Counter(body.task_id for body in bodies if body.finished)
    begun = {body.task_id: body for body in bodies}  # the last body of each
    died = {task_id for task_id, body in begun.items() if body.pid in deaths}
    runs = _runs(events)
    cuts = [event.at for event in events if event.kind == "fault" and event.reason == "cut broker"]
    verdict.figures["runs of messages"] = sum(len(of_task) for of_task in runs.values())
    verdict.figures["tasks delivered more often than parking needs"] = sum(len(each) > 2 for each in runs.values())
    verdict.figures["tasks whose body began more than once"] = sum(
        count > 1 for count in Counter(body.task_id for body in bodies).values()
    )
    verdict.figures["tasks whose body finished more than once"] = sum(count > 1 for count in finished.values())
    for task_id, state in states.items():
        of_task = runs[task_id]
        excuse = _excuse(state, of_task, task_id in begun, task_id in died, rules, deaths)
        if not excuse and task_id in returning and rules.broker_loses and _lost_on_return(of_task, deaths, cuts):
            excuse = "lost by the broker"
        if state == "SUCCESS":
            verdict.ends["SUCCESS"] += 1
            if not finished[task_id]:
                verdict.violations.append(f"success without a body: {task_id}")
        elif excuse:
            verdict.ends[excuse] += 1
            verdict.figures[f"{excuse}: {state}"] += 1
            verdict.lost.add(task_id)
        else:
            verdict.ends[f"STUCK in {state}" if not state.startswith("FAILURE") else state] += 1
            verdict.stuck.add(task_id)
            verdict.violations.append(f"{_course(task_id, state, runs[task_id], begun, finished, deaths)}")


@dataclass(frozen=True)
class _Run:
    """A run of a message in a worker's process. ``state`` is ``None`` when it was never left."""

    pid: int
    at: float
    state: str | None = None


def _runs(events: Iterable[Event]) -> dict[str, list[_Run]]:
    runs: dict[str, list[_Run]] = defaultdict(list)
    for event in events:
        if event.kind == "enter":
            runs[event.task_id].append(_Run(event.pid, event.at))
        elif event.kind == "leave":
            of_task = runs[event.task_id]
            entered = max((n for n, run in enumerate(of_task) if run.pid == event.pid), default=None)
            if entered is not None:
                of_task[entered] = _Run(event.pid, of_task[entered].at, event.reason)
    return runs


def _excuse(
    state: str, runs: Sequence[_Run], begun: bool, died: bool, rules: Rules, deaths: Mapping[int, float]
) -> str:
    """Return why a task need not have ended well, or an empty text.

    Args:
        state: Its result.
        runs: The runs of its messages.
        begun: Whether its body ever began.
        died: Whether the process of its last body died.
        rules: What is excused.
        deaths: When which process died.
    """
    if not runs and state == "PENDING" and rules.broker_loses:
        return "lost by the broker"
    if rules.late:
        return ""
    if begun:
        return "lost in its body" if died else ""
    # Its message was acknowledged when a process accepted it, and the process died before the body.
    # A cold shutdown may end the run first, without a state.
    died_last = bool(runs) and not runs[-1].state and runs[-1].pid in deaths
    unseen = not runs and state.startswith("FAILURE WorkerLost")
    return "lost before its body" if died_last or unseen else ""


def _lost_on_return(runs: Sequence[_Run], deaths: Mapping[int, float], cuts: Sequence[float]) -> bool:
    """Whether the broker had the message to deliver again after its last run died, and a connection was cut then.

    kombu's Redis transport takes a message from its list before it notes it down: a cut in between loses it.
    """
    died = deaths.get(runs[-1].pid) if runs and runs[-1].state is None else None
    return died is not None and any(cut >= died for cut in cuts)


def _course(
    task_id: str,
    state: str,
    runs: Sequence[_Run],
    begun: Mapping[str, Body],
    finished: Mapping[str, int],
    deaths: Mapping[int, float],
) -> str:
    parts = [f"run at {run.at:.3f} {run.state or ('died' if run.pid in deaths else 'never left')}" for run in runs]
    body = "its body finished" if finished.get(task_id) else "its body began" if task_id in begun else "it never began"
    return f"not ended well: {task_id} is {state}, {body}; {', '.join(parts[-6:]) or 'no worker ran it'}"
