"""The judge of the chaos test for parked tasks, on histories made by hand."""

from __future__ import annotations

from collections.abc import Sequence

from tests.chaos.history import Event
from tests.chaos.parked_verdict import Rules, Ticket, Verdict, bodies_in, deaths_in, judge

LATE = Rules(late=True, broker_loses=False)
EARLY = Rules(late=False, broker_loses=False)


def parking(task: str, at: float, pid: int = 1) -> list[Event]:
    """A run that parks its task."""
    return [Event("enter", at, pid, task_id=task), Event("leave", at + 0.1, pid, task_id=task, reason="IGNORED")]


def running(task: str, at: float, pid: int = 1, *, end: float | None = None, key: str = "a") -> list[Event]:
    """A run that takes its lease; without an end it never leaves its body."""
    held = {"pid": pid, "key": key, "token": f"{task}-{at}", "fence": int(at * 100)}
    events = [
        Event("enter", at, pid, task_id=task),
        Event("acquire", at + 0.01, sent=at, ttl=4.0, **held),  # type: ignore[arg-type]
        Event("begin", at + 0.02, task_id=task, **held),  # type: ignore[arg-type]
    ]
    if end is not None:
        events += [
            Event("end", end, task_id=task, **held),  # type: ignore[arg-type]
            Event("let_go", end + 0.01, **held),  # type: ignore[arg-type]
            Event("leave", end + 0.02, pid, task_id=task, reason="SUCCESS"),
        ]
    return events


def killed(at: float, pid: int = 1) -> list[Event]:
    return [Event("killed", at, pid)]


def judged(events: Sequence[Event], rules: Rules = LATE, tickets: Sequence[Ticket] = (), **states: str) -> Verdict:
    return judge(events, states, tickets, rules)


def test_tasks_that_park_and_run_one_after_the_other_are_well() -> None:
    events = [*parking("x", 1), *running("x", 2, end=3), *parking("y", 2.5, pid=2), *running("y", 3.2, pid=2, end=4)]
    verdict = judged(events, x="SUCCESS", y="SUCCESS")
    assert verdict.violations == []
    assert verdict.ends == {"SUCCESS": 2}
    assert verdict.figures["runs of messages"] == 4


def test_two_bodies_of_a_key_that_overlap_are_found_even_where_no_lease_was_written() -> None:
    events = [*running("x", 1, end=3), *running("y", 2, pid=2, end=4)]
    silent = [event for event in events if event.kind != "acquire"]
    kinds = {text.partition(":")[0] for text in judged(silent, x="SUCCESS", y="SUCCESS").violations}
    assert "two at once" in kinds


def test_bodies_of_two_keys_may_run_at_the_same_time() -> None:
    events = [*running("x", 1, end=3), *running("y", 2, pid=2, end=4, key="b")]
    assert judged(events, x="SUCCESS", y="SUCCESS").violations == []


def test_a_body_ends_with_its_process_and_with_nothing_else() -> None:
    begun, other = running("x", 1), running("y", 3, pid=2, end=4)
    died, lived = [*begun, *killed(2), *other], [*begun, *other]
    assert [body.end for body in bodies_in(died, {1: 2.0})] == [2.0, 4]
    assert any(text.startswith("two at once") for text in judged(lived, x="SUCCESS", y="SUCCESS").violations)
    assert not any(text.startswith("two at once") for text in judged(died, x="SUCCESS", y="SUCCESS").violations)


def test_a_worker_that_quits_ends_its_processes_with_their_last_lines() -> None:
    quit_first = [*running("x", 1), Event("quit", 1.5, 1), *running("y", 3, pid=2, end=4)]
    assert not any(text.startswith("two at once") for text in judged(quit_first, x="SUCCESS", y="SUCCESS").violations)
    idle = [*parking("x", 1), Event("enter", 2, 1, task_id="x"), Event("quit", 2.5, 1), Event("quit", 2.5, 9)]
    assert deaths_in(idle) == {1: 2, 9: 2.5}


def test_a_body_without_a_lease_is_found() -> None:
    events = [event for event in running("x", 1, end=2) if event.kind != "acquire"]
    assert "leaseless" in judged(events, x="SUCCESS").violations[0]


def test_a_release_before_the_end_of_the_body_excuses_nothing() -> None:
    early = Event("let_go", 1.5, 1, key="a", token="x-1")
    verdict = judged([*running("x", 1, end=3), early, *running("y", 2, pid=2, end=4)], x="SUCCESS", y="SUCCESS")
    assert [text.partition(":")[0] for text in verdict.violations] == ["two at once"]


def test_a_body_whose_lease_was_lost_may_run_alongside_the_next() -> None:
    first = running("x", 1, end=3)
    lost = Event("lost", 1.5, 1, key="a", token="x-1", reason="expired")
    verdict = judged([*first, lost, *running("y", 2, pid=2, end=4)], x="SUCCESS", y="SUCCESS")
    assert verdict.violations == []
    assert verdict.figures["bodies alongside one whose lease was lost"] == 1


def test_a_task_that_never_ended_is_found() -> None:
    verdict = judged([*parking("x", 1), *running("x", 2), *killed(3), *parking("x", 4, pid=2)], x="WAITING")
    assert verdict.stuck == {"x"}
    assert "x is WAITING, its body began; run at 1.000 IGNORED, run at 2.000 died" in verdict.violations[0]


def test_early_acknowledgement_excuses_a_task_whose_process_died_in_its_run_and_no_other() -> None:
    in_body = [*parking("x", 1), *running("x", 2), *killed(3)]
    before_body = [*parking("x", 1), Event("enter", 2, 1, task_id="x"), *killed(3)]
    elsewhere = [*parking("x", 1), *running("x", 2), *killed(3, pid=2)]
    assert judged(in_body, EARLY, x="WAITING").lost == {"x"}
    assert judged(before_body, EARLY, x="WAITING").lost == {"x"}
    assert judged(before_body, LATE, x="WAITING").stuck == {"x"}
    assert judged(elsewhere, EARLY, x="WAITING").stuck == {"x"}


def test_early_acknowledgement_excuses_a_process_that_died_before_the_body() -> None:
    events = [Event("enter", 1, 1, task_id="x"), *killed(2)]
    ended_first = [events[0], Event("leave", 1.5, 1, task_id="x"), *events[1:]]
    for state in ("PENDING", "WAITING", "FAILURE WorkerLostError"):
        assert judged(events, EARLY, x=state).ends == {"lost before its body": 1}
        assert judged(ended_first, EARLY, x=state).ends == {"lost before its body": 1}
        assert judged(ended_first, LATE, x=state).stuck == {"x"}
    assert judged([*events, *parking("x", 3, pid=2)], EARLY, x="WAITING").stuck == {"x"}, "it parked since"
    assert judged(events, LATE, x="PENDING").stuck == {"x"}


def test_only_a_broker_that_loses_messages_excuses_a_task_that_no_worker_got() -> None:
    loses = Rules(late=True, broker_loses=True)
    assert judged([], loses, x="PENDING").lost == {"x"}
    assert judged([], LATE, x="PENDING").stuck == {"x"}
    assert judged(parking("x", 1), loses, x="WAITING").stuck == {"x"}


def test_a_message_that_the_broker_had_to_deliver_again_may_be_lost_by_a_cut() -> None:
    loses, cut = Rules(late=True, broker_loses=True), [Event("fault", 4, 9, reason="cut broker")]
    died = [*parking("x", 1), *running("x", 2), *killed(3)]
    ended = [Ticket("x", "ended")]
    assert judged([*died, *cut], loses, ended, x="WAITING").violations == []
    for events, rules, tickets in [
        (died, loses, ended),  # nothing was cut
        ([*died, *cut], LATE, ended),
        ([*died, *cut], loses, [Ticket("x", "parked")]),  # the store has to dispatch it
        ([*died, *cut, *parking("x", 5, pid=2)], loses, ended),  # it was delivered
    ]:
        assert judged(events, rules, tickets, x="WAITING").stuck == {"x"}


def test_a_failure_and_a_success_without_a_body_are_found() -> None:
    verdict = judged([*parking("x", 1)], x="SUCCESS", y="FAILURE LockLost")
    assert len(verdict.violations) == 2
    assert verdict.ends == {"SUCCESS": 1, "FAILURE LockLost": 1}


def test_a_ticket_that_is_left_is_found_unless_its_task_is_lost() -> None:
    events = [*parking("x", 1), *running("x", 2), *killed(3)]
    tickets = [Ticket("x", "running"), Ticket("y", "parked")]
    verdict = judged([*events, *running("y", 8, pid=2, end=9)], EARLY, tickets, x="WAITING", y="SUCCESS")
    assert verdict.violations == ["ticket left: y is parked in the store"]
