"""Parked tasks while workers are stopped cold, killed, and cut off from their broker: each ends, none twice at once.

``CHAOS_SEED`` chooses the tasks and the faults. ``CHAOS_TASKS`` makes it larger: 2000 tasks share 20 keys, and take
some minutes. ``CHAOS_FAULTS`` sets the number of faults apart.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.chaos.parked_run import KINDS, ParkedRun, schedule
from tests.chaos.parked_verdict import Verdict
from tests.support import report
from tests.support.rabbitmq import RabbitServer
from tests.support.servers import RedisServer

SEED = int(os.environ.get("CHAOS_SEED", "1"))
TASKS = int(os.environ.get("CHAOS_TASKS", "300"))
KEYS = max(6, TASKS // 100)
PROCESS_KINDS = [kind for kind in KINDS if kind != "cut broker"]
FAULTS = int(os.environ.get("CHAOS_FAULTS", str(max(8, TASKS // 50))))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + TASKS)]


def rabbit_address(port: int) -> str:
    return f"amqp://guest:guest@127.0.0.1:{port}//"


@pytest.mark.parametrize("late", [True, False], ids=["acks-late", "acks-early"])
def test_each_parked_task_ends_and_no_two_runs_overlap_by_redis(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, late: bool
) -> None:
    database = int(redis_url.rpartition("/")[2])
    run = partial(ParkedRun, broker=lambda port: redis_server.url(database, port=port), broker_port=redis_server.port)
    assert_all_end(run, late, tmp_path, f"Redis {'late' if late else 'early'}")


@pytest.mark.parametrize("late", [True, False], ids=["acks-late", "acks-early"])
def test_each_parked_task_ends_and_no_two_runs_overlap_by_rabbitmq(
    rabbit_server: RabbitServer, tmp_path: Path, late: bool
) -> None:
    run = partial(ParkedRun, broker=rabbit_address, broker_port=rabbit_server.container.port)
    assert_all_end(run, late, tmp_path, f"RabbitMQ {'late' if late else 'early'}")


def test_each_parked_task_ends_where_the_store_is_the_broker(tmp_path: Path) -> None:
    """The store itself pushes a message when its turn comes. No connection is cut: leases would be lost by that."""
    assert_all_end(partial(ParkedRun), True, tmp_path, "the store as the broker, late", PROCESS_KINDS)


def assert_all_end(
    make: partial[ParkedRun], late: bool, tmp_path: Path, name: str, kinds: Sequence[str] = KINDS
) -> None:
    steps = schedule(SEED, FAULTS, kinds)
    print(f"CHAOS_SEED={SEED} CHAOS_TASKS={TASKS} CHAOS_FAULTS={FAULTS}", *steps, sep="\n")
    folder = folder_of(tmp_path, name)
    run = make(steps, tasks=TASKS, keys=KEYS, late=late, seed=SEED, folder=folder)
    begin = time.monotonic()
    verdict = run.go()
    summary = told(verdict, run, name, time.monotonic() - begin, folder)
    report.say(summary)
    (folder / "report.txt").write_text("\n".join([summary, *verdict.violations, ""]))
    assert not verdict.violations, "\n".join([summary, *verdict.violations[:20]])
    assert set(run.faults) == set(kinds)
    assert run.in_body, "no fault met a body: nothing was shown"
    assert sum(verdict.ends.values()) == TASKS
    assert verdict.ends["SUCCESS"] > TASKS / 2, "hardly any task ran: nothing was shown"


def folder_of(tmp_path: Path, name: str) -> Path:
    kept = os.environ.get("CHAOS_FOLDER")
    folder = (
        Path(kept) / f"{time.strftime('%Y%m%d-%H%M%S')}-parked-{name.replace(' ', '-').replace(',', '')}"
        if kept
        else tmp_path
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def told(verdict: Verdict, run: ParkedRun, name: str, seconds: float, folder: Path) -> str:
    def counted(counts: dict[str, int]) -> str:
        return ", ".join(f"{number} {what}" for what, number in sorted(counts.items()) if number)

    return (
        f"Parked chaos, {name}: CHAOS_SEED={SEED} CHAOS_TASKS={TASKS} CHAOS_FAULTS={FAULTS}: {TASKS} tasks over {KEYS} "
        f"keys in {seconds:.0f} s; faults: {counted(run.faults)} ({run.in_body} in a body); "
        f"ends: {counted(verdict.ends)}; {counted(verdict.figures)}; "
        f"{len(verdict.violations)} violations. History: {folder}"
    )
