"""The Lua scripts of the Redis store: how they are documented and composed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.scripts import Script

LUA = Path(scripts.__file__).parent / "lua"
FILES = sorted(LUA.glob("*.lua"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_script_begins_with_its_keys_and_what_a_repeat_does(path: Path) -> None:
    head = re.split(r"^(?!--)", path.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)[0]
    assert "KEYS" in head
    assert "Repeats: " in head or "Changes nothing." in head


def test_each_file_is_loaded_and_each_part_is_included() -> None:
    loaded = {name.lower() for name, value in vars(scripts).items() if isinstance(value, Script)}
    assert loaded == {path.stem for path in FILES}
    included = set(re.findall(r"-- include (\w+)", "".join(path.read_text() for path in LUA.rglob("*.lua"))))
    assert included == {path.stem for path in (LUA / "parts").glob("*.lua")}


def test_servers_get_neither_comments_nor_directives() -> None:
    for script in (value for value in vars(scripts).values() if isinstance(value, Script)):
        assert not re.search(r"^\s*--", script.text, re.MULTILINE)
