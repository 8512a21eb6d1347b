"""Key templates, such as ``shop:<shop_id>`` or ``order:<order.customer_id>:<order[lines][0]>``."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from celery_locks.errors import LockKeyError
from celery_locks.keys.canonical import NoStableText, class_name, plain
from celery_locks.keys.scalars import json_key_text

_NAME = r"[^\W\d]\w*"
_STEP = rf"\.{_NAME}|\[[^\s\[\]<>]+\]"
_PLACE = re.compile(rf"({_NAME})((?:{_STEP})*)")
_STEPS = re.compile(rf"\.({_NAME})|\[([^\]]+)\]")

#: Placeholders of ``str.format``, ``%`` and ``string.Template``, with the argument's name if they have one.
_FOREIGN = re.compile(
    rf"\{{\s*({_NAME})?(?:\d+)?(?:{_STEP})*(?:![rsa])?(?::[^{{}}]*)?\s*\}}|%\(({_NAME})\)|%[sdr](?!\w)|\$({_NAME})"
)

#: Characters of values that are not escaped, in addition to letters and digits.
_UNESCAPED = "-_.@+"


@dataclass(frozen=True)
class Placeholder:
    """One ``<…>`` of a template: a parameter, and the path to a part of it."""

    source: str
    position: int
    name: str
    steps: tuple[tuple[str, bool], ...]

    def text(self, value: Any) -> str:
        """Return the text of the part of an argument.

        Raises:
            LockKeyError: The argument lacks the part, or the part has no stable text.
        """
        for step, is_item in self.steps:
            value = self._part(value, step, is_item)
        try:
            return plain(value)
        except NoStableText as problem:
            part = f"its part {problem.path}" if problem.path else "it"
            raise LockKeyError(
                f"{self.source} makes no key: {part} {problem.problem}. Name a plain part of it, such as <order.id>."
            ) from problem

    def _part(self, value: Any, step: str, is_item: bool) -> Any:
        try:
            return _part_of(value, step, is_item)
        except Exception as error:
            missing = isinstance(error, (AttributeError, LookupError))
            why = "" if missing else f" (it raised {type(error).__name__})"
            raise LockKeyError(
                f"{self.source} makes no key: the {class_name(type(value))} there has no part {step!r}{why}."
            ) from error


class Template:
    """Text with placeholders, parsed and checked.

    Args:
        source: The text. ``<<`` is a literal ``<``.

    Raises:
        LockKeyError: The text is malformed, or it lacks a separator between two placeholders.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._literals = [""]
        self.placeholders: list[Placeholder] = []
        self._parse()
        self._check_text()
        self._escape = _escape_for(self._separators())
        self._pairs = list(zip(self.placeholders, self._literals[1:], strict=True))
        #: Whether a key could end like a hashed one, because the template itself has a ``~``.
        self.may_look_hashed = bool(self.placeholders) and any("~" in literal for literal in self._literals)

    def text(self, argument: Callable[[str], Any]) -> str:
        """Return the key of a call.

        Args:
            argument: Returns an argument by its name.

        Raises:
            LockKeyError: An argument is missing, lacks a part, or has no stable text.
        """
        key = self._literals[0]
        for placeholder, literal in self._pairs:
            value = placeholder.text(argument(placeholder.name))
            key += (value if value.isalnum() else self._escape(value)) + literal
        return key

    def foreign(self, names: Collection[str], any_name: bool) -> tuple[int, str, str] | None:
        """Return the first placeholder in another syntax that stands for an argument.

        Args:
            names: The names of the arguments.
            any_name: Whether the task also accepts other names.

        Returns:
            Its position, its text, and the argument's name, which is empty for ``{}`` and ``%s``.
        """
        for match in _FOREIGN.finditer(self._source) if names else ():
            name = match[1] or match[2] or match[3] or ""
            if name in names or not name or (any_name and not match[3]):
                return match.start(), match[0], name
        return None

    def error(self, problem: str, position: int) -> LockKeyError:
        """Return the error for a problem at a position of the template."""
        return LockKeyError(f"The key template {self._source!r} {problem} (at position {position}).")

    def _parse(self) -> None:
        source, at = self._source, 0
        while (opening := source.find("<", at)) >= 0:
            self._literals[-1] += source[at:opening]
            if source.startswith("<<", opening):
                self._literals[-1] += "<"
                at = opening + 2
                continue
            at = source.find(">", opening) + 1
            if not at or "<" in source[opening + 1 : at]:
                raise self.error('has a "<" without its ">"; write "<<" for a literal "<"', opening)
            self.placeholders.append(self._placeholder(opening, source[opening:at]))
            self._literals.append("")
        self._literals[-1] += source[at:]

    def _placeholder(self, position: int, source: str) -> Placeholder:
        inner = source[1:-1]
        if not inner:
            raise self.error('has an empty "<>"; name an argument in it, such as <user_id>', position)
        match = _PLACE.match(inner)
        end = match.end() if match else 0
        if not match or end < len(inner):
            spaced = inner[end].isspace()
            hint = "write it without spaces" if spaced else "write it like <user_id>, <order.id> or <item[sku]>"
            raise self.error(f"has the bad placeholder {source}; {hint}", position + 1 + end)
        steps = tuple((name or item, bool(item)) for name, item in _STEPS.findall(match[2]))
        return Placeholder(source, position, match[1], steps)

    def _check_text(self) -> None:
        if not self._source:
            raise LockKeyError("A key template can't be empty; leave key= out to lock by all arguments.")
        try:
            self._source.encode()
        except UnicodeEncodeError as error:
            raise self.error("has a lone surrogate, which is no character", error.start) from None

    def _separators(self) -> set[str]:
        """Return the characters that values must escape because they separate values.

        A separator needs a character that no escaped value contains. Values contain letters, digits and ``%``, so these
        do not separate. A dot or a dash separates if the values of this template escape it.
        """
        taken: set[str] = set()
        for literal, after in zip(self._literals[1:-1], self.placeholders[1:], strict=True):
            marks = {char for char in literal if not char.isalnum() and char != "%"}
            if not marks:
                problem = (
                    f'needs a separator such as ":" before {after.source}, so that no two values make the same key'
                )
                raise self.error(problem, after.position)
            if marks <= set(_UNESCAPED):
                taken |= marks
        return taken


def _escape_for(taken: set[str]) -> Callable[[str], str]:
    unescaped = re.escape("".join(char for char in _UNESCAPED if char not in taken and char != "_"))
    # \w matches the characters of str.isalnum(), and the underscore.
    pattern = rf"(?:[^\w{unescaped}]|_)+" if "_" in taken else rf"[^\w{unescaped}]+"
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(_percent, text)


def _percent(match: re.Match[str]) -> str:
    # A lone surrogate has bytes that no other text has.
    return "%" + match[0].encode("utf-8", "surrogatepass").hex("%").upper()


# --- Parts of values ---


def _part_of(value: Any, step: str, is_item: bool) -> Any:
    """Return a part of a value: the same part that the value has after a trip through JSON."""
    if isinstance(value, Mapping):
        return _item(value, step)
    if isinstance(value, (list, tuple)):
        return value[_index(step)]
    if isinstance(value, (str, int, float)):
        # The attributes of a subclass, such as an Enum's .value, are gone after the trip.
        raise LookupError(step)
    if hasattr(type(value), "__getitem__") and (is_item or not hasattr(value, step)):
        return value[step]
    return getattr(value, step)


def _item(mapping: Mapping[Any, Any], step: str) -> Any:
    if step in mapping:
        return mapping[step]
    # As keys, JSON turns numbers, true, false and null into text.
    for key, item in mapping.items():
        if json_key_text(key) == step:
            return item
    raise LookupError(step)


def _index(step: str) -> int:
    try:
        return int(step)
    except ValueError:
        raise LookupError(step) from None
