"""What becomes of a canvas whose member finds its key held: the table that the docs show and the tests hold true.

``python -m tests.tasks.canvas_table`` writes it into the docs. A policy is a line of `POLICIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import celery
from celery import chain, chord, group
from celery.exceptions import Reject

from celery_locks import LockContended, LockTimeout, Skipped
from tests.tasks.shop import skip_by_function

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "canvas.md"
BEGIN, END = "<!-- the table: begin -->\n", "<!-- the table: end -->\n"

# --- The policies ---

MAX_WAIT = 1.0
SKIPPED = "its `Skipped`"
AT_CALL = ", at the call"
UNTIL_EXECUTED = {"scope": "until_executed"}


@dataclass(frozen=True)
class Policy:
    """A policy, and how a run that meets a held key ends under it.

    Attributes:
        name: As the docs call it.
        options: Those of the task.
        ends: ``runs``: when the key is free. ``takes``: it runs at once. ``value``: it succeeds with something else.
            ``fails``. ``rejected``: as ``fails`` with Celery 5.7, and before that without any end.
        local: The same for an item of ``map`` or ``chunks``, for which no message can be sent again.
        error: What a failing one raises.
        value: What the others give, as the docs call it.
        waits: The seconds after which it fails.
        elsewhere: How it ends in a canvas where that is something else still.
    """

    name: str
    options: Mapping[str, Any]
    ends: str
    local: str
    error: type[Exception] = LockContended
    value: str = "its result"
    waits: float = 0.0
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def result(self, key: str, holders: list[str]) -> Any:
        """The member's result when its key is, or was, held."""
        if self.value == SKIPPED:
            return dict(Skipped(key, holders))
        return key


POLICIES = (
    Policy("retry", {}, ends="runs", local="fails"),
    Policy("retry, max_wait over", {"max_wait": MAX_WAIT}, "fails", "fails", LockTimeout, waits=MAX_WAIT),
    Policy("wait", {"on_contention": "wait"}, ends="runs", local="fails"),
    Policy(
        "wait, max_wait over",
        {"on_contention": "wait", "max_wait": MAX_WAIT},
        "fails",
        "fails",
        LockTimeout,
        waits=MAX_WAIT,
    ),
    Policy("park", {"on_contention": "park"}, ends="runs", local="fails"),
    Policy(
        "park, max_wait over",
        {"on_contention": "park", "max_wait": MAX_WAIT},
        "fails",
        "fails",
        LockTimeout,
        waits=MAX_WAIT,
    ),
    Policy("skip", {"on_contention": "skip"}, ends="value", local="value", value=SKIPPED),
    Policy("raise", {"on_contention": "raise"}, ends="fails", local="fails"),
    Policy("replace", {"on_contention": "replace"}, ends="takes", local="takes"),
    Policy("reject", {"on_contention": "reject", "acks_late": True}, ends="rejected", local="fails", error=Reject),
    Policy("a callable that skips", {"on_contention": skip_by_function}, "value", "value", value=SKIPPED),
    Policy("existing" + AT_CALL, {**UNTIL_EXECUTED, "on_contention": "existing"}, "value", "fails", value=SKIPPED),
    Policy("skip" + AT_CALL, {**UNTIL_EXECUTED, "on_contention": "skip"}, "value", "fails", value=SKIPPED),
    Policy("raise" + AT_CALL, {**UNTIL_EXECUTED, "on_contention": "raise"}, "fails", "fails"),
    Policy("replace" + AT_CALL, {**UNTIL_EXECUTED, "on_contention": "replace"}, "takes", "fails"),
)

# --- The canvases ---

#: Steps that come after others, within ten seconds.
FOLLOWERS = ("then", "body", "callback", "errback")
#: In a canvas' result: the result of the locked member, and of the item before it.
MEMBER, ITEM = "<member>", "<item>"
#: Instead of a result.
RAISES, RAISES_CHORD_ERROR, NEVER = "<raises>", "<raises ChordError>", "<never>"
#: Whether a task that is rejected for good ends as a failure (https://github.com/celery/celery/issues/4222). Before, no
#: result was stored, and who waited for one waited in vain.
REJECTED_FAILS = celery.VERSION >= (5, 7)


@dataclass(frozen=True)
class Canvas:
    """A canvas with a locked member.

    Attributes:
        code: As the docs show it.
        send: Makes and sends it, of: a function that makes signatures of steps, the locked task, the held key, a
            free one.
        rows: By how the member ends: the steps that run, in any order; and the result.
        local: Whether the member is an item of ``map`` or ``chunks``.
    """

    code: str
    send: Callable[[Callable[..., Any], Any, str, str], Any]
    rows: Mapping[str, tuple[tuple[str, ...], Any]]
    local: bool = False

    def row(self, name: str, policy: Policy) -> Row:
        ends = policy.elsewhere.get(name, policy.local if self.local else policy.ends)
        return Row(policy, ends, *self.rows[{"rejected": "fails", "takes": "runs"}.get(ends, ends)])

    def row_here(self, name: str, policy: Policy) -> Row:
        """The row, as it is with the Celery that is installed."""
        row = self.row(name, policy)
        if row.ends != "rejected" or REJECTED_FAILS:
            return row
        return replace(row, runs=tuple(step for step in row.runs if step != "errback"), result=NEVER)


@dataclass(frozen=True)
class Row:
    policy: Policy
    ends: str
    runs: tuple[str, ...]
    result: Any

    @property
    def followers(self) -> list[str]:
        return [step for step in self.runs if step in FOLLOWERS]

    def cells(self) -> Iterator[str]:
        name, _, rest = self.policy.name.partition(", ")
        name = f'`"{name}"`' if name != "a callable that skips" else name
        yield ", ".join(filter(None, (name, rest.replace("max_wait", "`max_wait`"))))
        yield ", ".join(step if " " in step else f"`{step}`" for step in self.runs) or "nothing"
        yield self._gives()
        yield self._when()

    @property
    def error(self) -> type[Exception]:
        """What ``.get()`` raises: an item of ``map`` or ``chunks`` is never rejected."""
        return LockContended if self.policy.error is Reject and self.ends == "fails" else self.policy.error

    def _gives(self) -> str:
        error = self.error.__name__
        if self.result == RAISES:
            return f"raises `{error}`"
        if self.result == RAISES_CHORD_ERROR:
            return f"raises `{error}`, or a `ChordError` that names it"
        value = self.policy.value if self.ends == "value" else "its result"
        return _as_text(self.result).replace(f"`{MEMBER}`", value).replace(f"`{ITEM}`", "the other's result")

    def _when(self) -> str:
        if not self.followers:
            return "nothing"
        since = {"runs": "the release, and the member's run", "takes": "the member's run"}.get(self.ends, "the call")
        since = "`max_wait`" if self.policy.waits else since
        return ", ".join(f"`{step}`" for step in self.followers) + f": at most 10 s after {since}"


def _as_text(result: Any) -> str:
    if not isinstance(result, list):
        return f"`{result}`"
    if result and result[0] in FOLLOWERS:
        return f"the result of `{result[0]}`, given {' and '.join(map(_as_text, result[1:]))}"
    return f"[{', '.join(map(_as_text, result))}]"


CANVASES = {
    "chain": Canvas(
        "chain(first, member, then).apply_async(link_error=errback)",
        lambda step, member, key, free: chain(step("first"), member.si(key), step("then", mutable=True)).apply_async(
            link_error=step("errback")
        ),
        {
            "runs": (("first", "member", "then"), ["then", MEMBER]),
            "value": (("first", "then"), ["then", MEMBER]),
            "fails": (("first", "errback"), RAISES),
        },
    ),
    "group": Canvas(
        "group(member, other)",
        lambda step, member, key, free: group(member.si(key), step("other")).apply_async(),
        {
            "runs": (("member", "other"), [MEMBER, "other"]),
            "value": (("other",), [MEMBER, "other"]),
            "fails": (("other",), RAISES),
        },
    ),
    "chord header": Canvas(
        "chord([member, other], body.on_error(errback))",
        lambda step, member, key, free: chord(
            [member.si(key), step("other")], step("body", mutable=True).on_error(step("errback"))
        ).apply_async(),
        {
            "runs": (("member", "other", "body"), ["body", [MEMBER, "other"]]),
            "value": (("other", "body"), ["body", [MEMBER, "other"]]),
            "fails": (("other", "errback"), RAISES_CHORD_ERROR),
        },
    ),
    "chord body": Canvas(
        "chord([first, other], member.on_error(errback))",
        lambda step, member, key, free: chord(
            [step("first"), step("other")], member.si(key).on_error(step("errback"))
        ).apply_async(),
        {
            "runs": (("first", "other", "member"), MEMBER),
            "value": (("first", "other"), MEMBER),
            "fails": (("first", "other", "errback"), RAISES),
        },
    ),
    "link": Canvas(
        "member.apply_async(link=callback)",
        lambda step, member, key, free: member.si(key).apply_async(link=step("callback", mutable=True)),
        {
            "runs": (("member", "callback"), MEMBER),
            "value": (("callback",), MEMBER),
            "fails": ((), RAISES),
        },
    ),
    "link_error": Canvas(
        "member.apply_async(link_error=errback)",
        lambda step, member, key, free: member.si(key).apply_async(link_error=step("errback")),
        {
            "runs": (("member",), MEMBER),
            "value": ((), MEMBER),
            "fails": (("errback",), RAISES),
        },
    ),
    "chunks": Canvas(
        "member.chunks([(a free key,), (the held one,)], 2)",
        lambda step, member, key, free: member.chunks([(free,), (key,)], 2).apply_async(),
        {
            "runs": (("the item before", "member"), [[ITEM, MEMBER]]),
            "value": (("the item before",), [[ITEM, MEMBER]]),
            "fails": (("the item before",), RAISES),
        },
        local=True,
    ),
    "map": Canvas(
        "member.map([a free key, the held one])",
        lambda step, member, key, free: member.map([free, key]).apply_async(),
        {
            "runs": (("the item before", "member"), [ITEM, MEMBER]),
            "value": (("the item before",), [ITEM, MEMBER]),
            "fails": (("the item before",), RAISES),
        },
        local=True,
    ),
}

# --- The docs ---


def tables() -> str:
    """The table of each canvas, as Markdown."""
    lines = []
    for name, canvas in CANVASES.items():
        lines += ["", f"## {name}", "", "```text", canvas.code, "```", ""]
        lines += ["| `on_contention` | runs | `.get()` | what comes after |", "|---|---|---|---|"]
        lines += ["| " + " | ".join(canvas.row(name, policy).cells()) + " |" for policy in POLICIES]
    return "\n".join([*lines, "", ""])


def main() -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + tables() + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
