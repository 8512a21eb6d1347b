"""Values of all kinds for the tests of keys, and what makes two of them equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag
from typing import Any, NamedTuple
from uuid import UUID

import kombu.utils.json
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

#: Typed here, because kombu's are not.
dumps: Callable[[Any], str] = kombu.utils.json.dumps
loads: Callable[[str], Any] = kombu.utils.json.loads


def sent(value: Any) -> Any:
    """Return what the worker gets."""
    return loads(dumps(value))


CET = timezone(timedelta(hours=1))
NOON = datetime(2024, 5, 1, 12)
PAIR = "\ud83d" + "\ude00"


class Colour(Enum):
    RED = 1
    BLUE = "blue"


class Size(str, Enum):
    S = "s"


class Level(IntEnum):
    LOW = 1


class Ratio(float, Enum):
    HALF = 0.5


class Day(date, Enum):
    FIRST = (2024, 1, 1)


class Perm(Flag):
    READ = 1
    WRITE = 2


class Mode(IntFlag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Order:
    id: int
    lines: list[Any] = field(default_factory=list)
    seen: object = field(default=None, compare=False)


@dataclass
class Parcel:
    id: int
    lines: list[Any] = field(default_factory=list)


class Item(BaseModel):
    sku: str
    count: int = 1


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    sku: str


class Money:
    def __init__(self, cents: Any) -> None:
        self.cents = cents

    def __json__(self) -> Any:
        return {"cents": self.cents}


class Text(str):
    __slots__ = ()


class Number(float):
    def __repr__(self) -> str:
        return "a number"


class Whole(int):
    def __repr__(self) -> str:
        return "whole"


def folded(value: Any) -> Any:
    """What a value is, as nested tuples that compare equal exactly when two values are to share a key."""
    if isinstance(value, (list, tuple)):
        return "list", tuple(folded(item) for item in value)
    if isinstance(value, dict):
        return "dict", frozenset((loaded_key(key), folded(item)) for key, item in value.items())
    if isinstance(value, float):
        return "float", "nan" if math.isnan(value) else float(value)
    if isinstance(value, datetime):
        return "datetime", value.tzinfo is None, value.timestamp() if value.tzinfo else value
    return "bool" if isinstance(value, bool) else type(value).__mro__[-2].__name__, value


def loaded_key(key: Any) -> str:
    (text,) = sent({key: 0})
    assert isinstance(text, str)
    return text


def disguised(value: Any) -> Any:
    """Return an equal value that looks as different as it can."""
    if isinstance(value, (list, tuple)):
        items = [disguised(item) for item in value]
        return tuple(items) if isinstance(value, list) else items
    if isinstance(value, dict):
        return {loaded_key(key): disguised(item) for key, item in reversed(value.items())}
    if isinstance(value, datetime) and value.tzinfo and 1 < value.year < 9999:
        return value.astimezone(timezone(timedelta(hours=-9, seconds=7)))
    if isinstance(value, Decimal) and value.is_finite():
        sign, digits, exponent = value.as_tuple()
        return Decimal((sign, (*digits, 0), int(exponent) - 1))
    disguise = {str: Text, int: Whole, float: Number, bytes: bytearray}.get(type(value))
    return disguise(value) if disguise else value


TEXTS = [
    "",
    "1",
    "null",
    "true",
    "nan",
    "a,b",
    "[1]",
    '"',
    "\\",
    "\n",
    "\x00",
    "é",
    "e\u0301",
    "😀",
    "\ud800",
    "\\ud800",
]
NUMBERS = [
    True,
    False,
    0,
    1,
    7,
    10**30,
    0.0,
    -0.0,
    1.0,
    math.inf,
    math.nan,
    Decimal("1"),
    Decimal("1.0"),
    Decimal("-0"),
]
MOMENTS = [NOON, NOON.replace(fold=1), NOON.replace(tzinfo=timezone.utc), datetime(2024, 5, 1, 13, tzinfo=CET)]
MOMENTS += [datetime.min.replace(tzinfo=CET), datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))]
OTHERS = [None, b"", b"1", b"\xff", UUID(int=1), UUID(int=2), date(2024, 5, 1), time(12), time(12, tzinfo=CET)]
LEAVES = [*TEXTS, *NUMBERS, *MOMENTS, *OTHERS]

KEYS = st.sampled_from(["a", "b", "1", "null", 1, 2, 1.0, 0.5, True, False, None, "true", "é", "\ud800"])


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    items = st.lists(children, max_size=3)
    pairs = st.lists(st.tuples(KEYS, children), max_size=3, unique_by=lambda pair: loaded_key(pair[0]))
    return items | items.map(tuple) | pairs.map(dict)


#: Few leaves that are easily mistaken for each other, so that equal and nearly equal values meet.
VALUES = st.recursive(st.sampled_from([True, 1, 1.0, "1", Decimal(1), None, "null"]), containers, max_leaves=4)

#: All that kombu's JSON can send.
ANYTHING = st.recursive(
    st.sampled_from(LEAVES)
    | st.text(st.characters(exclude_categories=[]))
    | st.integers()
    | st.floats()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.uuids(),
    containers,
    max_leaves=8,
)
