"""Which servers the tests ran on, and which were missing: pytest's closing lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_used: set[str] = set()
_missing: dict[str, str] = {}
_said: list[str] = []


def ran_on(server: str) -> None:
    """Notes that tests run on this server, say ``"Redis 7.0.15"``."""
    _used.add(server)


def could_not_have(server: str, why: str) -> None:
    """Notes that a server could not be had, and why or what would bring it."""
    _missing[server] = why


def say(line: str) -> None:
    """Has a line of its own said."""
    _said.append(line)


def as_data() -> dict[str, object]:
    """All notes of this process, for the process that reports."""
    return {"used": sorted(_used), "missing": dict(_missing), "said": list(_said)}


def add_data(used: Iterable[str] = (), missing: Mapping[str, str] | None = None, said: Iterable[str] = ()) -> None:
    """Takes over the notes of another process."""
    _used.update(used)
    _missing.update(missing or {})
    _said.extend(said)


def lines() -> list[str]:
    """The report, a line for each thing to say."""
    used = [f"Servers: the tests ran on {', '.join(sorted(_used))}."] if _used else []
    without = [f"Servers: WITHOUT {server}: {why}" for server, why in sorted(_missing.items())]
    return used + without + _said
