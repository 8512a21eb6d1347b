"""The text of a value: one for equal values, another for all others, the same after a trip through kombu's JSON."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_locks.keys.canonical import NoStableText, canonical, plain
from tests.core import values as v
from tests.core.values import CET, NOON, PAIR, folded, sent
from tests.support.examples import examples


@pytest.mark.parametrize("one", v.LEAVES, ids=repr)
def test_promise_14_leaves_have_the_same_text_exactly_when_equal(one: Any) -> None:
    for other in v.LEAVES:
        assert (canonical(one) == canonical(other)) == (folded(one) == folded(other)), other


@examples(100)
@given(v.VALUES, v.VALUES)
def test_promise_14_the_same_text_exactly_for_equal_values(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (folded(one) == folded(other))


@examples(50)
@given(v.ANYTHING)
def test_promise_14_the_same_text_for_an_equal_value_that_looks_different(value: Any) -> None:
    assert canonical(v.disguised(value)) == canonical(value)


@examples(50)
@given(v.ANYTHING)
def test_promise_14_the_same_text_after_the_broker(value: Any) -> None:
    assert canonical(sent(value)) == canonical(value)


@examples(50)
@given(v.ANYTHING)
def test_promise_14_the_same_plain_text_after_the_broker(value: Any) -> None:
    assert plain(sent(value)) == plain(value)


@examples(50)
@given(v.ANYTHING)
def test_promise_14_every_text_can_be_encoded(value: Any) -> None:
    assert canonical(value).encode()


@examples(50)
@given(st.decimals(allow_nan=False), st.decimals(allow_nan=False))
def test_promise_14_decimals_are_compared_exactly(one: Decimal, other: Decimal) -> None:
    with localcontext() as context:
        context.prec = 1
        assert (canonical(one) == canonical(other)) == (one == other)


@examples(50)
@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(0, 50))
def test_promise_14_trailing_zeros_of_a_decimal_do_not_count(number: Decimal, zeros: int) -> None:
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    assert canonical(Decimal((sign, digits + (0,) * zeros, exponent - zeros))) == canonical(number)


# Every type ---------------------------------------------------------------------------------------------------------

HERE = v.__name__
ODD = Enum("ODD", {"a,b": "a,b", "LIST": (1, 2)}, module="m")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (7, "7"),
        (v.Whole(7), "7"),
        (10**600, hex(10**600)),
        (-0.0, "0.0"),
        (1e22, "1e+22"),
        (v.Number(1.5), "1.5"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ('a"\n\x00é😀', '"a\\"\\n\\u0000é😀"'),
        (v.Text("a"), '"a"'),
        ("\ud800", '"\\ud800"'),
        (PAIR, '"😀"'),
        (b"a\xff", "bytes(61ff)"),
        (bytearray(b"a"), "bytes(61)"),
        ((1, [2]), "[1,[2]]"),
        (v.Point(1, 2), "[1,2]"),
        ({"b": 1, 2: None, True: 0}, '{"2":null,"b":1,"true":0}'),
        ({math.inf: 1, -0.0: 2}, '{"-0.0":2,"Infinity":1}'),
        ({(1, 2): 3}, "{[1,2]:3}"),
        ({9, 10}, "set(10,9)"),
        (frozenset({"a"}), 'set("a")'),
        (UUID(int=7), "uuid(00000000-0000-0000-0000-000000000007)"),
        (NOON, "datetime(2024-05-01T12:00:00)"),
        (NOON.replace(tzinfo=CET), "datetime(2024-05-01T11:00:00Z)"),
        (datetime.min.replace(tzinfo=CET), "datetime(-1d82800sZ)"),
        (date(2024, 5, 1), "date(2024-05-01)"),
        (time(12), "time(12:00:00)"),
        (time(12, tzinfo=CET), "time(11:00:00Z)"),
        (time(0, 30, tzinfo=CET), "time(-1d84600sZ)"),
        (timedelta(days=1, microseconds=5), "timedelta(1d0.000005s)"),
        (timedelta(seconds=-1), "timedelta(-1d86399s)"),
        (Decimal("1.500"), "decimal(1.5)"),
        (Decimal("1E+2"), "decimal(100)"),
        (Decimal("-1.50"), "decimal(-1.5)"),
        (Decimal("1E-41"), "decimal(1E-41)"),
        (Decimal("1E+999999"), "decimal(1E999999)"),
        (Decimal("-0.00"), "decimal(0)"),
        (Decimal("sNaN"), "decimal(sNaN)"),
        (v.Colour.RED, f"{HERE}.Colour.RED"),
        (ODD("a,b"), 'm.ODD."a,b"'),
        (v.Perm.READ | v.Perm.WRITE, f"{HERE}.Perm(3)"),
        (v.Mode.READ | v.Mode.WRITE, "3"),
        (v.Size.S, '"s"'),
        (v.Level.LOW, "1"),
        (v.Ratio.HALF, "0.5"),
        (v.Day.FIRST, "date(2024-01-01)"),
        (v.Order(7, ["a"], seen=object()), f'{HERE}.Order(id=7,lines=["a"])'),
        (v.Item(sku="a"), f'{HERE}.Item(sku="a",count=1)'),
        (v.Loose(sku="a", b=1), f'{HERE}.Loose(sku="a")+{{"b":1}}'),  # type: ignore[call-arg]
        (v.Money(5), '{"cents":5}'),
    ],
)
def test_promise_15_text(value: Any, text: str) -> None:
    assert canonical(value) == text


DISTINCT: list[Any] = [
    *(None, False, True, 0, 1, 0.0, 1.0, "", "1", "null", "nan", math.nan, [], {}, set(), [[]], [1], {"1": 1}, {1}),
    *(b"1", Decimal(1), UUID(int=1), NOON, NOON.replace(tzinfo=timezone.utc), NOON.date(), NOON.time(), timedelta(1)),
    *(v.Colour.RED, v.Colour.BLUE, "Colour.RED", v.Perm.READ, v.Order(1), v.Parcel(1), {"id": 1, "lines": []}),
    *(v.Item(sku="a"), {"sku": "a", "count": 1}, v.Loose(sku="a"), "\ud800", "\\ud800", "a", "é", "e\u0301"),
    *(["a", "b"], ["a,b"], '["a"]'),
]


@pytest.mark.parametrize("value", DISTINCT, ids=repr)
def test_promise_14_values_that_are_alike_have_texts_of_their_own(value: Any) -> None:
    assert [canonical(other) for other in DISTINCT].count(canonical(value)) == 1


@pytest.mark.parametrize(
    "value",
    [
        v.Size.S,
        v.Level.LOW,
        v.Ratio.HALF,
        v.Day.FIRST,
        v.Mode.READ,
        v.Money(5),
        [v.Money(v.Size.S)],
        v.Point(1, 2),
        {v.Size.S: 1},
    ],
)
def test_promise_14_mixins_and_objects_with_json_are_what_they_come_back_as(value: Any) -> None:
    assert canonical(sent(value)) == canonical(value)
    assert plain(sent(value)) == plain(value)


def test_a_huge_number_needs_no_decimal_text() -> None:
    assert canonical(10**5000) != canonical(10**5000 + 1)


# Plain text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a b", "a b"),
        (PAIR, "😀"),
        (v.Size.S, "s"),
        (7, "7"),
        (v.Level.LOW, "1"),
        (-0.0, "0.0"),
        (True, "True"),
        (None, "None"),
        (UUID(int=7), str(UUID(int=7))),
        (Decimal("7.50"), "7.5"),
        (NOON, "2024-05-01T12:00:00"),
        (NOON.replace(tzinfo=CET), "2024-05-01T11:00:00Z"),
        (date(2024, 5, 1), "2024-05-01"),
        (time(12, tzinfo=CET), "11:00:00Z"),
        (timedelta(1), "1d0s"),
        (v.Colour.RED, "1"),
        (v.Colour.BLUE, "blue"),
        (ODD((1, 2)), "LIST"),
        ("é".encode(), "é"),
        (b"\xff", "ff"),
        ([1, "a"], '[1,"a"]'),
        ({"a": 1}, '{"a":1}'),
        (v.Order(7), f"{HERE}.Order(id=7,lines=[])"),
    ],
)
def test_plain_text(value: Any, text: str) -> None:
    assert plain(value) == text


def test_plain_text_of_other_types() -> None:
    with pytest.raises(NoStableText):
        plain(object())
