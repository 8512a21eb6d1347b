"""The Lua scripts: each after the prelude that all of them share, with the library where it says ``-- include``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files


@dataclass(frozen=True)
class Script:
    """A script as the server gets it, and the digest that it is known by afterwards."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # SHA-1 is the name that EVALSHA asks for; nothing here relies on its strength.
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


def _read(name: str) -> str:
    return (files(__package__) / f"{name}.lua").read_text(encoding="utf-8")


def _load(name: str) -> Script:
    # Functions may be made within a block: a ``local`` of Lua lives as long as its block does.
    return Script("\n".join((_read("prelude"), _read(name).replace("-- include library", _read("library")))))


ACQUIRE = _load("acquire")
RENEW = _load("renew")
RELEASE = _load("release")
LEAVE = _load("leave")
FORCE_RELEASE = _load("force_release")
HOLDERS = _load("holders")
HELD = _load("held")
