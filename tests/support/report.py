"""What the tests ran on, and what they had to do without: told in pytest's closing lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_used: set[str] = set()
_missing: dict[str, str] = {}


def ran_on(server: str) -> None:
    """Notes that tests run on this server, say ``"Redis 7.0.15"``."""
    _used.add(server)


def could_not_have(server: str, why: str) -> None:
    """Notes that a server could not be had, and why or what would bring it."""
    _missing[server] = why


def as_data() -> dict[str, object]:
    """All notes of this process, for the process that reports."""
    return {"used": sorted(_used), "missing": dict(_missing)}


def add_data(used: Iterable[str], missing: Mapping[str, str]) -> None:
    """Takes over the notes of another process."""
    _used.update(used)
    _missing.update(missing)


def lines() -> list[str]:
    """The report, a line for each thing to say."""
    told = [f"Servers: the tests ran on {', '.join(sorted(_used))}."] if _used else []
    return told + [f"Servers: WITHOUT {server}: {why}" for server, why in sorted(_missing.items())]
