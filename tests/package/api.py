"""The public API: what the pages of the reference are made from, with signatures. ``make api`` writes it down.

``docs/reference/*.md`` name it (``::: celery_locks.Lock``); what they don't show may change at any time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
WRITTEN = Path(__file__).with_name("public_api.txt")
_ENTRY = re.compile(r"^::: (?P<name>[\w.]+)\n(?P<options>(?: {4}.*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """What a page shows.

    Attributes:
        name: Its full name.
        members: Those of a class that are shown; ``None`` for all that are public.
        constructor: Whether its users make it themselves.
        page: The page's name.
    """

    name: str
    members: tuple[str, ...] | None
    constructor: bool
    page: str


def entries() -> list[Entry]:
    """All that the reference shows."""
    pages = sorted(REFERENCE.glob("*.md"))
    return [_entry(match, page.name) for page in pages for match in _ENTRY.finditer(page.read_text())]


def _entry(match: re.Match[str], page: str) -> Entry:
    options = match["options"]
    listed = re.search(r"members: (?:\[(.*)\]|(false))", options)
    members = None if listed is None else tuple(filter(None, (listed[1] or "").split(", ")))
    return Entry(match["name"], members, "merge_init_into_class: true" in options, page)


@cache
def package(name: str) -> griffe.Module:
    """A package, read from its source; nothing is imported."""
    loader = griffe.GriffeLoader(search_paths=[ROOT], docstring_parser=griffe.Parser.google)
    module = loader.load(name)
    assert isinstance(module, griffe.Module)
    loader.resolve_aliases(implicit=True)
    return module


def found(name: str) -> griffe.Object:
    """What a full name stands for.

    Raises:
        KeyError: There is no such thing.
    """
    top, _, rest = name.partition(".")
    thing = package(top)[rest] if rest else package(top)
    return thing.final_target if isinstance(thing, griffe.Alias) else thing


def members(entry: Entry) -> dict[str, griffe.Object]:
    """The members of a class that are public, by name."""
    shown = found(entry.name)
    if not isinstance(shown, griffe.Class):
        return {}
    if entry.members is not None:
        return {name: _final(shown.all_members[name]) for name in entry.members}
    own = {name: _final(member) for name, member in shown.members.items() if not name.startswith("_")}
    return {name: member for name, member in own.items() if not _is_data(member) or member.docstring}


def is_documented(thing: griffe.Object) -> bool:
    """Whether it has a docstring, or overrides something that has one."""
    if thing.docstring is not None or not isinstance(thing.parent, griffe.Class):
        return thing.docstring is not None
    bases = (base.members.get(thing.name) for base in thing.parent.mro())
    return any(base is not None and base.docstring for base in bases)


def _is_data(thing: griffe.Object) -> bool:
    """Whether it is a plain attribute: the docstring of its class tells of those."""
    return isinstance(thing, griffe.Attribute) and "property" not in thing.labels


def _final(thing: griffe.Object | griffe.Alias) -> griffe.Object:
    return thing.final_target if isinstance(thing, griffe.Alias) else thing


def described() -> Iterator[str]:
    """A line for each public name, with its signature."""
    for entry in sorted(entries(), key=lambda entry: entry.name):
        thing = found(entry.name)
        if isinstance(thing, griffe.Class):
            yield f"class {entry.name}{_arguments(thing) if entry.constructor else ''}"
            yield from (f"    {line}" for line in attributes(thing))
            yield from (f"    {_line(name, member)}" for name, member in sorted(members(entry).items()))
        else:
            yield _line(entry.name, thing)


def _arguments(thing: griffe.Class) -> str:
    if "NamedTuple" in map(str, thing.bases):
        fields = [_final(member) for member in thing.members.values() if "instance-attribute" in member.labels]
        return f"({', '.join(map(_field, fields))})"
    made = _final(thing.all_members["__init__"]) if "__init__" in thing.all_members else None
    text = (made if isinstance(made, griffe.Function) else thing).signature()
    return re.sub(r"^[^(]*\((self(, )?)?", "(", text).removesuffix(" -> None") if "(" in text else "()"


def _field(thing: griffe.Object) -> str:
    assert isinstance(thing, griffe.Attribute)
    return f"{thing.name}: {thing.annotation}" + (f" = {thing.value}" if thing.value is not None else "")


def attributes(thing: griffe.Class) -> Iterator[str]:
    """Those that the docstring tells of."""
    for section in thing.docstring.parsed if thing.docstring else ():
        if isinstance(section, griffe.DocstringSectionAttributes):
            yield from sorted(attribute.name for attribute in section.value)


def _line(name: str, thing: griffe.Object) -> str:
    if isinstance(thing, griffe.Function):
        signature = thing.signature(name=name)
        return f"async {signature}" if "async" in thing.labels else signature
    annotation = getattr(thing, "annotation", None)
    return f"{name}: {annotation}" if annotation else name


def settings() -> list[str]:
    """The settings of an app, by the table of them."""
    page = (REFERENCE / "options.md").read_text()
    return sorted(re.findall(r"^\| `(locks_\w+)` \|", page, re.MULTILINE))


def commands() -> Iterator[str]:
    """The commands below ``celery locks``, with their arguments and options."""
    import click

    from celery_locks.cli import locks

    context = click.Context(locks)
    for name in sorted(locks.list_commands(context)):
        command = locks.get_command(context, name)
        assert command is not None
        parameters = (parameter.opts[-1] for parameter in command.params)
        yield " ".join([f"celery locks {name}", *sorted(parameters)])


def text() -> str:
    """The public API as the file has it."""
    return "\n".join([*described(), "", *(f"setting {name}" for name in settings()), "", *commands(), ""])


if __name__ == "__main__":
    WRITTEN.write_text(text())
    print(f"Written: {WRITTEN.relative_to(ROOT)}", file=sys.stderr)
