"""Every policy in every canvas, on a real worker: what runs, what ``.get()`` gives, when body and errback come."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from celery.exceptions import ChordError
from celery.exceptions import TimeoutError as NoResult

from celery_locks import LockContended
from tests.support.waiting import eventually
from tests.tasks.canvas_table import (
    BEGIN,
    CANVASES,
    END,
    ITEM,
    MAX_WAIT,
    MEMBER,
    NEVER,
    PAGE,
    POLICIES,
    RAISES,
    RAISES_CHORD_ERROR,
    Policy,
    Row,
    tables,
)
from tests.tasks.conftest import Shop

#: Promise 18: body or errback come at most so many seconds later.
PROMISED = 10.0
#: How long to wait for what must not come.
IN_VAIN = 1.0

POLICY = {policy.name: policy for policy in POLICIES}


@pytest.fixture
def shop(prefork_shop: Shop) -> Shop:
    return prefork_shop


@pytest.fixture(scope="module")
def ledger(prefork_shop: Shop) -> Iterator[list[tuple[str, str, Row]]]:
    """What ran, looked at once more when all is over: a step too many may come late."""
    made: list[tuple[str, str, Row]] = []
    yield made
    for what, key, row in made:
        assert ran(prefork_shop, key) == Counter(row.runs), what


def steps(shop: Shop, key: str) -> list[tuple[str, float]]:
    """The steps that ran of a canvas, and when."""
    found = [(entry["step"], entry["time"]) for entry in shop.journal.entries("step", mark=key)]
    found += [("member", entry["time"]) for entry in shop.journal.entries("begin", key=key)]
    return found + [("the item before", entry["time"]) for entry in shop.journal.entries("begin", key=f"{key}-free")]


def ran(shop: Shop, key: str) -> Counter[str]:
    return Counter(step for step, _ in steps(shop, key))


def send(shop: Shop, canvas: str, policy: Policy, key: str) -> Any:
    def step(name: str, mutable: bool = False) -> Any:
        if name == "errback":
            return shop.task("canvas_errback").s(key)
        return shop.task("canvas_step").signature(kwargs={"name": name, "mark": key}, immutable=not mutable)

    return CANVASES[canvas].send(step, shop.task(**policy.options), key, f"{key}-free")


def filled_in(result: Any, member: Any, item: Any) -> Any:
    if isinstance(result, list):
        return [filled_in(part, member, item) for part in result]
    return {MEMBER: member, ITEM: item}.get(result, result)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("canvas", CANVASES)
def test_promise_18_a_refused_member(shop: Shop, key: str, canvas: str, policy: Policy, ledger: Any) -> None:
    row = CANVASES[canvas].row_here(canvas, policy)
    ledger.append((f"{canvas}, {policy.name}", key, row))
    lease = shop.lock(key, ttl=6).acquire()  # renewed often, so it soon reports that it was replaced
    holders, since = [lease.owner], time.monotonic()
    try:
        sent = send(shop, canvas, policy, key)
        if row.ends == "runs":
            eventually(lambda: shop.journal.entries("contended", key=key), PROMISED, "the member found its key free")
            assert not {"member", *row.followers} & set(ran(shop, key))
            since = time.monotonic()
            lease.release()
        check_result(row, sent, filled_in(row.result, policy.result(key, holders), f"{key}-free"))
        eventually(lambda: ran(shop, key) == Counter(row.runs), PROMISED, f"it should be {row.runs}")
        late = {step: when - since for step, when in steps(shop, key) if step in row.followers}
        assert all(seconds <= PROMISED + policy.waits for seconds in late.values()), late
        if row.ends == "takes":
            eventually(lambda: lease.lost_reason == "replaced", PROMISED)
        elif row.ends != "runs":
            assert lease.held
            assert "member" not in ran(shop, key)
    finally:
        lease.release()


def check_result(row: Row, sent: Any, expected: Any) -> None:
    if expected == NEVER:  # Celery stores no result of a rejected task
        with pytest.raises(NoResult):
            sent.get(timeout=IN_VAIN)
    elif expected == RAISES:
        assert type(error_of(sent)) is row.error
    elif expected == RAISES_CHORD_ERROR:
        # Which of them is first to be seen: the member's own or that of the whole.
        error = error_of(sent)
        assert type(error) is row.error or (isinstance(error, ChordError) and row.error.__name__ in str(error))
    else:
        assert sent.get(timeout=PROMISED) == expected


def error_of(sent: Any) -> BaseException | None:
    """Return the error of a result.

    Celery takes a ``TimeoutError`` of an earlier member for one of its connection, and raises a timeout of its own.
    """
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the caller checks its type
        sent.get(timeout=PROMISED)
    return caught.value.__context__ if isinstance(caught.value, NoResult) else caught.value


@pytest.mark.parametrize("canvas", ["chunks", "map"])
def test_an_item_waits_within_max_wait(shop: Shop, key: str, canvas: str) -> None:
    """In an item no message can be sent again, so ``max_wait`` is waited in the slot, and the key may come free."""
    lease = shop.lock(key).acquire()
    sent = send(shop, canvas, POLICY["retry, max_wait over"], key)
    eventually(lambda: shop.journal.entries("contended", key=key), MAX_WAIT)
    lease.release()
    expected = [f"{key}-free", key]
    assert sent.get(timeout=PROMISED) == ([expected] if canvas == "chunks" else expected)


def test_a_locked_errback_of_three_arguments_runs_without_its_lock(shop: Shop, key: str) -> None:
    """Celery calls such an errback like a function, in the worker of the task that failed."""
    with shop.lock(key):
        failing = shop.task(on_contention="raise").si(key).on_error(shop.task("canvas_locked_errback").s(key))
        with pytest.raises(LockContended):
            failing.apply_async().get(timeout=PROMISED)
        eventually(lambda: shop.journal.entries("locked errback", mark=key), PROMISED)
    assert [entry["leased"] for entry in shop.journal.entries("locked errback", mark=key)] == [False]


def test_the_docs_show_this_table() -> None:
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert shown == tables(), "run python -m tests.tasks.canvas_table"
