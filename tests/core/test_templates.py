"""Key templates: what they name, what they refuse, and that no value can forge another's key."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_locks.errors import LockKeyError
from celery_locks.keys.maker import KeyMaker
from celery_locks.keys.scalars import joined_surrogates
from celery_locks.keys.template import Template
from tests.core import values as v
from tests.core.values import sent
from tests.support.examples import examples


@dataclass
class Seen:
    by: object


def three(a: Any = None, b: Any = None, c: Any = None) -> None: ...


def key(template: str, *args: Any, **kwargs: Any) -> str:
    return KeyMaker(template, inspect.signature(three)).key(args, kwargs)


# No value forges another's key --------------------------------------------------------------------------------------

TEMPLATES = [
    "<a>:<b>:<c>",
    "x<a>-<b>.<c>",
    "<a>_<b>@<c>y",
    "<a>-:<b>+-<c>",
    "<a>~<b> 1a<c>",
    "<a>%-<b><<<c>",
    "é<a>é/<b>/3A<c>",
]
BITS = [
    "a",
    "1",
    "3A",
    ":",
    "-",
    ".",
    "_",
    "@",
    "+",
    "%",
    "%3A",
    "~",
    " ",
    "<",
    "/",
    "é",
    "é/",
    "-:",
    "+-",
    " 1a",
    "%-",
    "/3A",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_promise_14_no_bit_forges_a_separator(template: str) -> None:
    made = KeyMaker(template, inspect.signature(three))
    values = list(itertools.product(BITS, repeat=3))
    assert len({made.key(args, {}) for args in values}) == len(values)


@st.composite
def splits(draw: st.DrawFn) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Two ways to cut one text into three: what would forge a key if anything did."""
    bits = draw(st.lists(st.sampled_from(BITS), min_size=4, max_size=9))
    cuts = st.lists(st.integers(0, len(bits) - 1), min_size=2, max_size=2, unique=True).map(sorted)

    def cut(first: int, second: int) -> tuple[str, ...]:
        return "".join(bits[:first]), "".join(bits[first + 1 : second]), "".join(bits[second + 1 :])

    return cut(*draw(cuts)), cut(*draw(cuts))


@examples(100)
@given(st.sampled_from(TEMPLATES), splits())
def test_promise_14_no_value_forges_a_separator(template: str, pair: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    one, other = pair
    assert (key(template, *one) == key(template, *other)) == (one == other)


ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=6)


@examples(100)
@given(st.sampled_from(TEMPLATES), *[st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT)] * 2)
def test_promise_14_distinct_texts_have_distinct_keys(
    template: str, one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    same = [joined_surrogates(text) for text in one] == [joined_surrogates(text) for text in other]
    assert (key(template, *one) == key(template, *other)) == same
    assert key(template, *one).encode()


def test_promise_14_no_value_forges_a_hash() -> None:
    long = key("<a>~<b>", "x" * 500, "y")
    start, digest = long.split("~")
    assert key("<a>~<b>", start, digest) != long
    assert len(key("<a>~<b>", start, digest).encode()) <= 200


# What a placeholder makes of a value --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("7", "7"),
        (7, "7"),
        (True, "True"),
        (None, "None"),
        ("a:b", "a%3Ab"),
        ("a b\n\x00~%<>", "a%20b%0A%00%7E%25%3C%3E"),
        ("Jürgen-1_2.3@x+y", "Jürgen-1_2.3@x+y"),
        ("e\u0301", "e%CC%81"),
        ("😀", "%F0%9F%98%80"),
        ("\ud800", "%ED%A0%80"),
        ("", ""),
        ([1, "a"], "%5B1%2C%22a%22%5D"),
        (datetime(2024, 5, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2024-04-30T23%3A00%3A00Z"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (v.Size.S, "s"),
        (b"a b", "a%20b"),
    ],
)
def test_a_value_is_its_text_escaped(value: Any, text: str) -> None:
    assert key("user:<a>!", value) == f"user:{text}!"


def test_a_separator_that_values_may_show_is_escaped_in_them() -> None:
    assert key("<a>-<b>", "x-y", "z.z") == "x%2Dy-z.z"
    assert key("<a>_<b>", "x_y", "z-z") == "x%5Fy_z-z"
    assert key("<a>-:<b>", "x-y", "z") == "x-y-:z"


def test_two_less_than_signs_are_one() -> None:
    assert key("<<a><<<a>") == "<a><None"


def test_a_template_without_placeholders_is_a_constant() -> None:
    assert key("nightly") == key("nightly", 7) == "nightly"


ORDER = v.Order(7, [{"sku": "a b", "tags": ("x", "y")}])
SENT_ORDER = {"id": 7, "lines": [{"sku": "a b", "tags": ["x", "y"]}]}


@pytest.mark.parametrize("order", [ORDER, SENT_ORDER, MappingProxyType(SENT_ORDER), SimpleNamespace(**SENT_ORDER)])
@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("<a.id>", "7"),
        ("<a[id]>", "7"),
        ("<a.lines[0].sku>", "a%20b"),
        ("<a[lines][0][sku]>", "a%20b"),
        ("<a.lines[-1].tags[1]>", "y"),
        ("<a.id>/<a.lines[0].tags>", "7/%5B%22x%22%2C%22y%22%5D"),
    ],
)
def test_parts_are_found_before_and_after_the_broker(order: Any, template: str, text: str) -> None:
    assert key(template, order) == text


def test_an_entry_called_like_a_method_of_dict_is_the_entry() -> None:
    assert key("<a.items>:<a.keys>", {"items": 1, "keys": 2}) == "1:2"


@pytest.mark.parametrize(("entry", "name"), [(1, "1"), ("1", "1"), (True, "true"), (None, "null"), (0.5, "0.5")])
def test_promise_14_entries_are_named_as_json_names_them(entry: Any, name: str) -> None:
    value = {entry: "found"}
    assert key(f"<a[{name}]>", value) == key(f"<a[{name}]>", sent(value)) == "found"


def test_an_object_with_items_and_attributes() -> None:
    class Row:
        owner = "attribute"

        def __getitem__(self, name: str) -> str:
            return name.upper()

    assert key("<a.id>:<a[id]>", Row()) == "ID:ID"
    assert key("<a.owner>:<a[owner]>", Row()) == "attribute:OWNER"


# Bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "position", "hint"),
    [
        ("user:<a", 5, '"<<"'),
        ("user:<", 5, '"<<"'),
        ("<a<b>", 0, '"<<"'),
        ("user:<>", 5, "empty"),
        ("user:< a>", 6, "spaces"),
        ("user:<a .id>", 7, "spaces"),
        ("user:<a.>", 7, "<order.id>"),
        ("user:<a..id>", 7, "<order.id>"),
        ("user:<a.1>", 7, "<order.id>"),
        ("user:<1>", 6, "<user_id>"),
        ("user:<.id>", 6, "<user_id>"),
        ("user:<a[]>", 7, "<item[sku]>"),
        ("user:<a[x>", 7, "<item[sku]>"),
        ("user:<a[x]y>", 10, "<order.id>"),
        ("user:<a()>", 7, "<order.id>"),
        ("<a><b>", 3, "separator"),
        ("<a>x<b>", 4, "separator"),
        ("<a>%3A<b>", 6, "separator"),
        ("<a>:<b>é<c>", 8, "separator"),
        ("user:\ud800", 5, "surrogate"),
    ],
)
def test_a_malformed_template_is_refused_with_its_position(template: str, position: int, hint: str) -> None:
    with pytest.raises(LockKeyError) as caught:
        Template(template)
    assert f"position {position})" in caught.value.message
    assert hint in caught.value.message


def test_an_empty_template_is_refused() -> None:
    with pytest.raises(LockKeyError, match="empty"):
        Template("")


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("<a.customer_id>", {"id": 7}),
        ("<a[customer_id]>", ORDER),
        ("<a.customer_id>", None),
        ("<a.lines[1].sku>", ORDER),
        ("<a.lines[x].sku>", ORDER),
        ("<a.real>", 7),
        ("<a.value>", v.Size.S),
        ("<a.x>", v.Point(1, 2)),
    ],
)
def test_promise_15_a_missing_part_names_the_placeholder(template: str, value: Any) -> None:
    # The last three are there at the call and gone at the run: better refused before the message is sent.
    with pytest.raises(LockKeyError) as caught:
        key(template, value)
    assert template in caught.value.message


def test_promise_15_a_part_that_raises() -> None:
    class Row:
        @property
        def owner(self) -> str:
            raise RuntimeError

    with pytest.raises(LockKeyError, match=r"<a\.owner> .* \(it raised RuntimeError\)"):
        key("<a.owner>", Row())


def test_promise_15_a_part_without_stable_text() -> None:
    with pytest.raises(LockKeyError, match=r"<a\.lines> makes no key: its part \[0\]\.by is of type builtins\.object"):
        key("<a.lines>", v.Order(7, [Seen(object())]))
    with pytest.raises(LockKeyError, match=r"<a> makes no key: it is of type builtins\.object"):
        key("<a>", object())
