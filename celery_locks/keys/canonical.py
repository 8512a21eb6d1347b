"""The canonical text of a value, for default keys, and for containers in key templates.

Two values have the same text exactly if they are equal in type and value. The exceptions are values that a trip through
Celery's JSON makes equal:

- A tuple is returned as a list.
- A value of a subclass of a JSON type is returned as one of its base: a ``str`` or ``int`` Enum as its value.
- ``int``, ``float``, ``bool`` and ``None`` keys of a dict are returned as text.
- The two halves of a surrogate pair are returned as one character.

``repr()`` of a value of an unknown type is never part of the text.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from typing import Any
from uuid import UUID

from celery_locks.keys.scalars import (
    bytes_text,
    clock,
    decimal,
    duration,
    floating,
    integer,
    joined_surrogates,
    json_key_text,
    moment,
    quote,
    string,
)

#: How deep values may be nested: far deeper than in messages, and far less than the interpreter's stack allows.
MAX_DEPTH = 100

_Writer = Callable[[Any, int], str]


class NoStableText(Exception):
    """A value, or a part of one, has no stable text.

    Attributes:
        problem: The problem, as the end of a sentence that begins with the name of the part.
        path: The path from the value to the part, such as ``.lines[2]``.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self._steps: list[str] = []

    def inside(self, step: str) -> None:
        """Note that the current value is the part ``step`` of a larger value."""
        self._steps.append(step)

    @property
    def path(self) -> str:
        """The path from the value to the part, at most 80 characters of it."""
        path = "".join(reversed(self._steps))
        return path if len(path) <= 80 else path[:80] + "…"


def canonical(value: Any, depth: int = 0) -> str:
    """Return the text of a value, which includes its type.

    Args:
        value: A value of a type that keys can be made of.
        depth: The number of containers that it is in.

    Raises:
        NoStableText: The value, or a part of it, is of another type, or it contains itself.
    """
    return _WRITERS[_kind_of(value)](value, depth)


def plain(value: Any) -> str:
    """Return the text of a value as people write it: 7 and ``"7"`` have the same text.

    Raises:
        NoStableText: The value, or a part of it, is of a type that keys can't be made of.
    """
    kind = _kind_of(value)
    bare = _BARE.get(kind)
    return bare(value) if bare is not None else _WRITERS[kind](value, 0)


def model_base() -> type | None:
    """Return Pydantic's ``BaseModel``, or ``None`` while Pydantic is not imported: then there are no models."""
    base = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    return base if hasattr(base, "model_validate") else None


def class_name(cls: type) -> str:
    """Return the full name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


# --- Kinds of values ---


class _Reducible:
    """Stands for all types with a ``__json__`` method, whose result kombu sends in place of the value."""


class _Dataclass:
    """Stands for all dataclasses."""


class _Model:
    """Stands for all Pydantic models."""


def _kind_of(value: Any) -> type:
    # Not ``__class__``: a lazy proxy returns another type there, and JSON does not use it either.
    cls = type(value)
    return cls if cls in _WRITERS else _kind_of_class(cls)


def _kind_of_class(cls: type) -> type:
    # In kombu's order: a value of two kinds gets the kind that a trip through JSON returns.
    for base in _JSON_TYPES:
        if issubclass(cls, base):
            return base
    if hasattr(cls, "__json__"):
        return _Reducible
    for base in _OTHER_TYPES:
        if issubclass(cls, base):
            return base
    if dataclasses.is_dataclass(cls):
        return _Dataclass
    model = model_base()
    if model is not None and issubclass(cls, model):
        return _Model
    raise NoStableText(f"is of type {class_name(cls)}, which has no stable text")


def _enum(value: Enum, depth: int = 0) -> str:
    # A combination of flags has no name of its own, so its value is used.
    if isinstance(value, Flag):
        return f"{class_name(type(value))}({value.value})"
    name = value.name if value.name.isidentifier() else quote(value.name)
    return f"{class_name(type(value))}.{name}"


def _bare_enum(value: Enum) -> str:
    return plain(value.value) if isinstance(value.value, (str, int)) else value.name


def _tagged(tag: str, bare: Callable[[Any], str]) -> _Writer:
    return lambda value, depth: f"{tag}({bare(value)})"


# --- Values that contain others ---


def _part(value: Any, depth: int, step: str) -> str:
    if depth >= MAX_DEPTH:
        raise NoStableText(f"is nested more than {MAX_DEPTH} deep, or contains itself, so it has no stable text")
    try:
        return canonical(value, depth + 1)
    except NoStableText as problem:
        problem.inside(step)
        raise


def _list(value: list[Any] | tuple[Any, ...], depth: int) -> str:
    return f"[{','.join([_part(item, depth, f'[{index}]') for index, item in enumerate(value)])}]"


def _set(value: set[Any] | frozenset[Any], depth: int) -> str:
    return f"set({','.join(sorted([_part(item, depth, '{}') for item in value]))})"


def _dict(value: dict[Any, Any], depth: int) -> str:
    if len(value) == 2 and "__type__" in value and "__value__" in value:
        raise NoStableText("has just the keys __type__ and __value__, which kombu takes for a value of another type")
    texts = {}
    for key, item in value.items():
        text = _key(key, depth)
        if text in texts:
            raise NoStableText(f"has two keys that JSON makes one, {text}")
        step = text[1:-1] if text.startswith('"') else text
        texts[text] = _part(item, depth, f"[{step}]")
    return f"{{{','.join([f'{text}:{texts[text]}' for text in sorted(texts)])}}}"


def _key(key: Any, depth: int) -> str:
    if type(key) is str:
        return string(key)
    text = json_key_text(key)
    return string(text) if text is not None else _part(key, depth, "{}")


def _reduced(value: Any) -> Any:
    name = class_name(type(value))
    try:
        reduced = value.__json__()
    except Exception as error:
        raise NoStableText(f"is of type {name}, whose __json__ raised {type(error).__name__}") from error
    if _kind_of(reduced) is _Reducible:
        raise NoStableText(f"is of type {name}, whose __json__ returns an object with a __json__ of its own")
    return reduced


def _dataclass(value: Any, depth: int) -> str:
    # Fields that a comparison of two instances ignores are ignored here, too.
    names = [field.name for field in dataclasses.fields(value) if field.compare]
    return f"{class_name(type(value))}({_fields(value, names, depth)})"


def _model(value: Any, depth: int) -> str:
    fields = _fields(value, type(value).model_fields, depth)
    extra = f"+{_dict(value.model_extra, depth)}" if value.model_extra else ""
    return f"{class_name(type(value))}({fields}){extra}"


def _fields(value: Any, names: Iterable[str], depth: int) -> str:
    return ",".join([f"{name}={_part(_field(value, name), depth, f'.{name}')}" for name in names])


def _field(value: Any, name: str) -> Any:
    try:
        return getattr(value, name)
    except AttributeError:
        raise NoStableText(f"is of type {class_name(type(value))} and lacks its field {name}") from None


# --- Tables ---

_WRITERS: dict[type, _Writer] = {
    type(None): lambda value, depth: "null",
    bool: lambda value, depth: "true" if value else "false",
    str: string,
    int: integer,
    float: floating,
    list: _list,
    tuple: _list,
    dict: _dict,
    _Reducible: lambda value, depth: _part(_reduced(value), depth, ""),
    datetime: _tagged("datetime", moment),
    date: _tagged("date", date.isoformat),
    time: _tagged("time", clock),
    timedelta: _tagged("timedelta", duration),
    Decimal: _tagged("decimal", decimal),
    UUID: _tagged("uuid", UUID.__str__),
    bytes: _tagged("bytes", bytes.hex),
    bytearray: _tagged("bytes", bytearray.hex),
    set: _set,
    frozenset: _set,
    Enum: _enum,
    _Dataclass: _dataclass,
    _Model: _model,
}

#: The plain text of the kinds whose canonical text has more than people would write.
_BARE: dict[type, Callable[[Any], str]] = {
    type(None): str,
    bool: str,
    str: lambda value: joined_surrogates(str.__str__(value)),
    _Reducible: lambda value: plain(_reduced(value)),
    datetime: moment,
    date: date.isoformat,
    time: clock,
    timedelta: duration,
    Decimal: decimal,
    UUID: UUID.__str__,
    bytes: bytes_text,
    bytearray: bytes_text,
    Enum: _bare_enum,
}

_JSON_TYPES: tuple[type, ...] = (str, int, float, list, tuple, dict)
_OTHER_TYPES = (datetime, date, time, timedelta, Decimal, UUID, bytes, bytearray, set, frozenset, Enum)
