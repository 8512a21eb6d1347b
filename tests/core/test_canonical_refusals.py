"""What has no stable text is refused, and the message names the part and its type."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from celery_locks.keys.canonical import MAX_DEPTH, NoStableText, canonical, plain
from tests.core.values import Item, Order, sent


def problem_of(value: Any) -> NoStableText:
    with pytest.raises(NoStableText) as caught:
        canonical(value)
    return caught.value


@pytest.mark.parametrize(
    "value", [object(), 1j, range(3), len, Order, SimpleNamespace(a=1), memoryview(b"a"), iter([]), sys, Ellipsis]
)
def test_promise_15_other_types_are_named(value: Any) -> None:
    problem = problem_of(value)
    assert type(value).__qualname__ in problem.problem
    assert hex(id(value))[2:] not in problem.problem


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([1, object()], "[1]"),
        ({"a": {2: 1j}}, "[a][2]"),
        (Order(7, [0, 1, object()]), ".lines[2]"),
        (Item.model_construct(sku=1j), ".sku"),
        ({1j}, "{}"),
        ({(1, 1j): 0}, "{}[1]"),
    ],
)
def test_promise_15_the_part_is_named(value: Any, path: str) -> None:
    assert problem_of(value).path == path


def test_promise_15_a_value_that_contains_itself() -> None:
    endless: list[Any] = []
    endless.append(endless)
    problem = problem_of(endless)
    assert "contains itself" in problem.problem
    assert len(problem.path) < 100


def test_promise_15_a_dict_that_contains_itself() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = Order(1, [endless])
    assert "contains itself" in problem_of(endless).problem


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


def test_values_may_be_nested_up_to_the_limit() -> None:
    assert canonical(nested(MAX_DEPTH)) == "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)
    assert "deep" in problem_of(nested(MAX_DEPTH + 1)).problem


def test_promise_15_keys_that_json_makes_one_are_refused() -> None:
    # One of the two values would be gone after the broker, and which one depends on their order.
    assert "JSON makes one" in problem_of({1: "a", "1": "b"}).problem


def test_promise_15_a_dict_that_kombu_takes_for_a_value_is_refused() -> None:
    forged = {"__type__": "uuid", "__value__": {"hex": UUID(int=1).hex}}
    assert sent(forged) == UUID(int=1)
    assert "__type__" in problem_of(forged).problem
    assert canonical({**forged, "more": 1})


def test_promise_15_a_json_hook_that_fails() -> None:
    class Broken:
        def __json__(self) -> Any:
            raise RuntimeError

    class Endless:
        def __json__(self) -> Any:
            return self

    assert "RuntimeError" in problem_of(Broken()).problem
    assert "__json__" in problem_of(Endless()).problem
    with pytest.raises(NoStableText):
        plain(Endless())


def test_promise_15_a_dataclass_that_lacks_a_field() -> None:
    order = Order(7)
    del order.id
    assert "lacks its field id" in problem_of(order).problem


def test_a_lazy_proxy_is_not_what_it_claims_to_be() -> None:
    class Proxy:
        __class__ = str  # type: ignore[assignment]

    assert "Proxy" in problem_of(Proxy()).problem


def test_without_pydantic_there_are_no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pydantic.main")
    assert "Item" in problem_of(Item(sku="a")).problem
