"""The verdict on the promises, by the records in the shop's journal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from example_project.shop import database, journal
from example_project.shop.journal import Run

if TYPE_CHECKING:
    from example_project.demo.story import Story


@dataclass
class Verdict:
    """The lines of the summary.

    Attributes:
        lines: A label, a value, and whether a promise was kept (``None`` if there is no promise).
        broken: A sentence for each broken promise.
    """

    lines: list[tuple[str, str, bool | None]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def fact(self, what: str, value: object) -> None:
        self.lines.append((what, str(value), None))

    def promise(self, what: str, value: object, kept: bool, otherwise: str) -> None:
        self.lines.append((what, str(value), kept))
        if not kept:
            self.broken.append(otherwise)


def judge(story: Story, kill: bool, wall: float) -> Verdict:
    """Return the verdict on a story."""
    runs, verdict = journal.runs(), Verdict()
    _tasks(verdict, story, runs)
    _keys(verdict, story, runs)
    accounts, payments = (f"{cents / 100:,.2f}" for cents in database.money())
    verdict.promise(
        "Charged to accounts",
        f"{accounts} of {payments} paid",
        accounts == payments,
        f"customers paid {payments}, but the accounts show {accounts}: charges were overwritten",
    )
    if kill:
        _take_over(verdict, story)
    verdict.fact("Time", f"{wall:.1f} s")
    return verdict


def most_overlapping(runs: Iterable[Run], deaths: Mapping[str, float]) -> int:
    """Return the most runs at the same time. A run without an end ended when its worker died."""
    changes = []
    for run in runs:
        ended = deaths.get(run.worker, float("inf")) if run.ended is None else run.ended
        changes += [(run.began, 1), (ended, -1)]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


def tokens_grow(runs: Iterable[Run]) -> bool:
    """Return whether each run has a greater fencing token than the run that began before it."""
    last = 0
    for run in sorted(runs, key=lambda run: run.began):
        if run.fencing_token is None or run.fencing_token <= last:
            return False
        last = run.fencing_token
    return True


def _tasks(verdict: Verdict, story: Story, runs: list[Run]) -> None:
    ends = Counter(run.job for run in runs if run.outcome == "done")
    done = [job for job in story.sent if ends[job]]
    cut = [run for run in runs if run.ended is None]
    verdict.fact("Tasks sent", len(story.sent))
    verdict.fact("Tasks done", len(done))
    more = {
        "cut off by the kill": len(cut),
        "ended by an error": sum(run.outcome not in ("done", None) for run in runs),
        "delivered twice": sum(ends.values()) - len(ends),
    }
    details = ", ".join(f"{count} {what}" for what, count in more.items() if count)
    verdict.fact("Runs", f"{len(runs)} ({details})" if details else len(runs))
    if cut:
        again = sum(run.job in ends for run in cut)
        verdict.promise(
            "Cut off, then run again",
            f"{again} of {len(cut)}",
            again == len(cut),
            "a task that was cut off by the kill never ran again",
        )
    if story.sent_again:
        verdict.fact("Sent again by the shop", f"{len(story.sent_again)} (lost by the broker)")
    lost = len(story.sent) - len(done)
    verdict.promise("Tasks lost", lost, lost == 0, f"{lost} tasks were sent but never done")


def _keys(verdict: Verdict, story: Story, runs: list[Run]) -> None:
    by_key = defaultdict(list)
    for run in runs:
        by_key[run.key].append(run)
    most = {key: most_overlapping(runs, story.crew.deaths) for key, runs in by_key.items()}
    worst = max(most, key=lambda key: most[key], default="")
    verdict.promise(
        "Most overlapping runs",
        most.get(worst, 0),
        most.get(worst, 0) <= 1,
        f"{most.get(worst, 0)} tasks for {worst} ran at the same time",
    )
    stuck = sorted(key for key, runs in by_key.items() if not tokens_grow(runs))
    more = f" and {len(stuck) - 3} more" if len(stuck) > 3 else ""
    verdict.promise(
        "Fencing tokens",
        f"rose with each run, {len(by_key) - len(stuck)} of {len(by_key)} keys",
        not stuck,
        f"the fencing tokens of {len(stuck)} keys did not rise with each run: {', '.join(stuck[:3])}{more}",
    )


def _take_over(verdict: Verdict, story: Story) -> None:
    accident = story.accident
    if not accident.held:
        what = "no worker was killed while it held a key"
        verdict.promise("Taken over", "not tested", False, f"{what}, so no take-over was seen")
        return
    held, label = accident.held[0], f"Taken over from {accident.victim}"
    seen = accident.take_overs.get(held.key)
    if seen is None:
        what = f"no worker took over {held.key} after {accident.victim} was killed"
        verdict.promise(label, "never", False, what)
        return
    # Usually the lease has not expired by then: the workers of one machine notice that its holder is dead.
    verdict.promise(label, f"{held.key}, by {seen.worker} in {seen.after:.1f} s", True, "")
