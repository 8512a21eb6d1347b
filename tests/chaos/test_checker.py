"""The checker finds what is planted, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.chaos.checker import check
from tests.chaos.faults import FAULTS
from tests.chaos.history import Event, History, Reader, Register, read
from tests.chaos.schedule import KINDS, LANES, schedule

TTL = 2.0


def acquire(at: float, token: str, fence: int, *, pid: int = 1, limit: int = 1, sent: float | None = None) -> Event:
    sent = at - 0.01 if sent is None else sent
    return Event("acquire", at, pid, "key", token, fence, limit, sent, TTL)


def renew(at: float, token: str, *, pid: int = 1) -> Event:
    return Event("renew", at, pid, "key", token, sent=at - 0.01, ttl=TTL)


def over(at: float, token: str, kind: str = "let_go", pid: int = 1) -> Event:
    return Event(kind, at, pid, "key", token)


def write(at: float, token: str, fence: int, number: int, accepted: bool = True) -> Event:
    return Event("write", at, 1, "key", token, fence, number=number, accepted=accepted)


def loss(at: float, until: float) -> Event:
    return Event("loss", at, until=until)


def task(at: float, kind: str, task_id: str = "t", **told: object) -> Event:
    return Event(kind, at, 1, "key", task_id=task_id, **told)  # type: ignore[arg-type]


def found(events: Iterable[Event], **options: bool) -> list[str]:
    return [violation.kind for violation in check(events, **options).violations]


class TestOverlap:
    def test_one_after_the_other_is_right(self) -> None:
        assert found([acquire(1, "a", 1), over(1.5, "a"), acquire(1.6, "b", 2, pid=2), over(2, "b", pid=2)]) == []

    def test_two_that_overlap_are_found(self) -> None:
        assert found([acquire(1, "a", 1), acquire(1.5, "b", 2, pid=2), over(2, "a")]) == ["overlap"]

    def test_a_deadline_ends_it(self) -> None:
        assert found([acquire(1, "a", 1), acquire(3.0, "b", 2, pid=2)]) == []
        assert found([acquire(1, "a", 1), acquire(2.98, "b", 2, pid=2)]) == ["overlap"]

    def test_a_renewal_extends_it(self) -> None:
        assert found([acquire(1, "a", 1), renew(2.5, "a"), acquire(4, "b", 2, pid=2)]) == ["overlap"]

    def test_a_renewal_after_a_newcomer_is_found_where_the_first_promise_had_ended(self) -> None:
        events = [acquire(1, "a", 1), acquire(3.1, "b", 2, pid=2), renew(3.2, "a")]
        assert found(events) == ["overlap"]

    def test_an_answer_that_comes_too_late_is_not_believed(self) -> None:
        late = Event("renew", 9, 1, "key", "a", sent=2, ttl=TTL)
        assert found([acquire(1, "a", 1), acquire(8.5, "b", 2, pid=2), late]) == []

    @pytest.mark.parametrize("kind", ["let_go", "lost"])
    def test_who_knows_better_believes_no_more(self, kind: str) -> None:
        events = [acquire(1, "a", 1), over(1.2, "a", kind), acquire(1.3, "b", 2, pid=2)]
        assert found(events) == []
        # A renewal whose answer is told afterwards revives nothing.
        assert found([*events, renew(1.4, "a")]) == []

    def test_a_confirmed_release_alone_ends_no_belief(self) -> None:
        # It is written when another may have the key already: only what is written before counts.
        assert found([acquire(1, "a", 1), over(1.2, "a", "release"), acquire(1.3, "b", 2, pid=2)]) == ["overlap"]

    def test_the_dead_believe_nothing(self) -> None:
        died = [acquire(1, "a", 1), Event("killed", 1.2, 1)]
        assert found([*died, acquire(1.3, "b", 2, pid=2)]) == []
        assert found([*died, acquire(1.1, "b", 2, pid=2)]) == ["overlap"]

    def test_a_process_that_must_end_immediately_believes_until_its_last_line(self) -> None:
        events = [acquire(1, "a", 1), Event("quit", 1.1, 1), write(1.4, "a", 1, 1)]
        assert found([*events, acquire(1.5, "b", 2, pid=2)]) == []
        assert found([*events, acquire(1.3, "b", 2, pid=2)]) == ["overlap"]

    def test_a_semaphore_has_as_many_as_it_may(self) -> None:
        two = [acquire(1, "a", 1, limit=2), acquire(1.1, "b", 2, pid=2, limit=2)]
        assert found(two) == []
        assert found([*two, acquire(1.2, "c", 3, pid=3, limit=2)]) == ["overlap"]
        assert found([*two, over(1.15, "b", pid=2), acquire(1.2, "c", 3, pid=3, limit=2)]) == []

    def test_other_keys_are_others(self) -> None:
        other = Event("acquire", 1.2, 2, "other", "b", 2, 1, 1.1, TTL)
        assert found([acquire(1, "a", 1), other]) == []


class TestDataLoss:
    def test_who_was_granted_before_is_excused(self) -> None:
        report = check([acquire(1, "a", 1), loss(1.2, 1.3), acquire(1.5, "b", 2, pid=2)])
        assert report.violations == []
        assert report.figures["overlaps after the store forgot"] == 1

    def test_who_was_granted_afterwards_is_not(self) -> None:
        assert found([loss(0.5, 0.9), acquire(1, "a", 1), acquire(1.5, "b", 2, pid=2)]) == ["overlap"]

    def test_who_was_confirmed_afterwards_is_not(self) -> None:
        assert found([acquire(1, "a", 1), loss(1.2, 1.3), renew(1.6, "a"), acquire(2, "b", 2, pid=2)]) == ["overlap"]

    def test_a_loss_to_come_excuses_nothing(self) -> None:
        assert found([acquire(1, "a", 1), acquire(1.5, "b", 2, pid=2), loss(1.7, 1.8)]) == ["overlap"]

    def test_the_one_before_may_not_be_renewed_during_the_one_after(self) -> None:
        events = [acquire(1, "a", 1), loss(1.2, 1.3), acquire(1.5, "b", 2, pid=2), renew(1.7, "a")]
        assert found(events) == ["overlap"]

    def test_two_after_it_are_found_with_one_before(self) -> None:
        newcomers = [acquire(1.5, "b", 2, pid=2), acquire(1.6, "c", 3, pid=3)]
        assert found([acquire(1, "a", 1), loss(1.2, 1.3), *newcomers]) == ["overlap"]


class TestFences:
    def test_one_that_does_not_grow_is_found(self) -> None:
        assert found([acquire(1, "a", 5), over(1.1, "a"), acquire(2, "b", 5, pid=2)]) == ["fence", "fence"]
        assert found([acquire(1, "a", 5), over(1.1, "a"), acquire(2, "b", 4, pid=2)]) == ["fence"]

    def test_data_loss_is_no_excuse(self) -> None:
        assert found([acquire(1, "a", 5), loss(1.1, 1.2), acquire(2, "b", 1, pid=2)]) == ["fence"]

    def test_answers_may_overtake_each_other(self) -> None:
        late = acquire(2, "a", 1, sent=1, limit=2)
        assert found([late, acquire(1.5, "b", 2, pid=2, sent=1.2, limit=2)]) == []


class TestRegister:
    def test_an_older_token_that_is_accepted_is_found(self) -> None:
        assert found([write(1, "b", 2, 1), write(2, "a", 1, 2)]) == ["register"]
        assert found([write(1, "b", 2, 1), write(2, "a", 1, 2, accepted=False), write(3, "b", 2, 3)]) == []

    def test_its_own_count_is_its_order(self) -> None:
        assert found([write(2, "b", 2, 1), write(1, "a", 1, 2)]) == ["register"]

    def test_a_rightful_holder_that_is_refused_is_found(self) -> None:
        held = [acquire(1, "a", 1)]
        assert found([*held, write(1.5, "a", 1, 2, accepted=False)]) == ["refused"]
        assert found([*held, write(3.5, "a", 1, 2, accepted=False)]) == []
        assert found([*held, over(1.2, "a", "lost"), write(1.5, "a", 1, 2, accepted=False)]) == []
        assert found([*held, loss(1.2, 1.3), write(1.5, "a", 1, 2, accepted=False)]) == []

    def test_the_real_one_refuses_what_is_older_and_writes_down_all(self, tmp_path: Path) -> None:
        register = Register(tmp_path, History(tmp_path))
        answers = [register.write("key", fence, token="t") for fence in (5, 5, 4, 6, 5)]
        assert answers == [True, True, False, True, False]
        written = [(event.number, event.fence, event.accepted) for event in read(tmp_path)]
        assert written == [(1, 5, True), (2, 5, True), (3, 4, False), (4, 6, True), (5, 5, False)]


class TestTasks:
    def test_all_that_was_sent_has_ended(self) -> None:
        assert found([task(1, "sent"), task(2, "success")]) == []
        assert found([task(1, "sent"), task(1.5, "failed", reason="KeyError()")]) == ["lost task"]

    def test_a_call_that_failed_is_the_callers(self) -> None:
        assert found([task(1, "sent"), task(1.1, "unsent")]) == []

    def test_the_existing_one_is_to_end_as_well(self) -> None:
        told = [task(1, "sent", "b"), task(1.1, "unsent", "b"), task(1.2, "existing", "a")]
        assert found(told) == ["lost task"]
        assert found([*told, task(2, "success", "a")]) == []

    def test_a_broker_that_may_lose_is_excused_after_a_death(self) -> None:
        events = [task(1, "sent"), Event("killed", 2, 7)]
        assert found(events) == ["lost task"]
        assert found(events, broker_may_lose=True) == []
        assert found([*events, task(3, "begin")], broker_may_lose=True) == ["leaseless", "lost task"]

    def test_a_body_without_a_lease_is_found(self) -> None:
        assert found([acquire(1, "a", 1), Event("begin", 1.1, 1, "key", "a")]) == []
        assert found([Event("begin", 1.1, 1, "key", "a")]) == ["leaseless"]

    def test_a_body_between_the_record_of_a_kill_and_the_kill_is_no_finding(self) -> None:
        killed, begin = Event("killed", 0.5, 1), Event("begin", 1.1, 1, "key", "a")
        assert found([killed, acquire(1, "a", 1), begin]) == []
        assert found([killed, begin]) == ["leaseless"]


class TestHistory:
    def test_a_line_that_is_not_whole_waits(self, tmp_path: Path) -> None:
        History(tmp_path).write("sent", task_id="a")
        (path,) = tmp_path.glob("*.jsonl")
        reader = Reader(tmp_path)
        assert [event.task_id for event in reader.news()] == ["a"]
        line = Event("sent", 1.0, task_id="b").line()
        with path.open("ab", buffering=0) as file:
            file.write(line[:5])
            assert reader.news() == []
            file.write(line[5:])
        assert [event.task_id for event in reader.news()] == ["b"]


class TestSchedule:
    def test_a_seed_gives_the_same_each_time(self) -> None:
        assert schedule(3, 60) == schedule(3, 60)
        assert schedule(3, 60) != schedule(4, 60)

    def test_a_longer_run_begins_as_a_shorter_one(self) -> None:
        for lane in LANES:
            short = [step for step in schedule(3, 60) if step.lane == lane]
            assert [step for step in schedule(3, 90) if step.lane == lane][: len(short)] == short

    def test_all_kinds_come_in_the_shortest_run(self) -> None:
        assert sorted(step.kind for step in schedule(3, 0)) == sorted(KINDS)
        assert len(KINDS) >= 20
        assert set(FAULTS) == set(KINDS)
