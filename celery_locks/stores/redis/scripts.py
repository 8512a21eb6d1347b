"""The Lua scripts: each after the prelude that all of them share, with what it includes where it says so."""

from __future__ import annotations

import functools
import hashlib
import re
from importlib.resources import files

from celery_locks._runtime.tokens import PROCESS_DIGITS
from celery_locks.stores.loss_feed import MOST_NOTICES
from celery_locks.stores.parking import FIRST_DISPATCH, RETENTION, STORE_GRACE, TOMBSTONE, TRIAL, TRIAL_RETENTION
from celery_locks.stores.redis.wire.protocol import arguments
from celery_locks.stores.types import MOST_TAKEN, TAKEN_KNOWN_SECONDS, TICKET

#: The last fencing token is remembered for so long after the last deadline, in seconds. While it is, it grows even
#: when the server's clock is set back; afterwards it grows because the clock does. So a clock may go back an hour.
FENCE_KEPT = 3_900
#: The longest that a sweeper blocks on the server, in seconds: it need not be woken for what is due later.
LONGEST_SLEEP = 5.0
#: How many requests and owner tokens of a lock are remembered at most of which copies may still be under way.
MOST_VOID = 1_000
#: Seconds until a sweeper looks again at a lock that it could not read.
TROUBLE_PAUSE = 60.0


class Script:
    """A script as the server gets it, and the digest that it is known by afterwards.

    Args:
        text: What the server runs.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        # SHA-1 is the name that EVALSHA asks for; nothing here relies on its strength.
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        #: How a command begins that calls it with one key.
        self.called = arguments("EVALSHA", self.sha, 1)


#: What the scripts share with the other stores; times in microseconds.
_CONSTANTS = {
    "RETENTION": round(RETENTION * 1e6),
    "RETENTION_MS": f"'{RETENTION * 1e3:.0f}'",
    "FENCE_KEPT": round(FENCE_KEPT * 1e6),
    "TOMBSTONE": round(TOMBSTONE * 1e6),
    "FIRST_DISPATCH": round(FIRST_DISPATCH * 1e6),
    "STORE_GRACE": round(STORE_GRACE * 1e6),
    "LONGEST_SLEEP": round(LONGEST_SLEEP * 1e6),
    "TICKET": f"'{TICKET}'",
    "MOST_TAKEN": MOST_TAKEN,
    "MOST_NOTICES": MOST_NOTICES,
    "MOST_VOID": MOST_VOID,
    "TROUBLE_PAUSE": round(TROUBLE_PAUSE * 1e6),
    "PROCESS_DIGITS": PROCESS_DIGITS,
    "TAKEN_KNOWN": round(TAKEN_KNOWN_SECONDS * 1e6),
    "TRIAL": f"'{TRIAL}'",
    "TRIAL_RETENTION": round(TRIAL_RETENTION * 1e6),
}
_INCLUDE = re.compile(r"-- include (\w+)")
_NAME = re.compile(r"[A-Z][A-Z_]+")


@functools.cache
def _read(name: str) -> str:
    return (files(__package__) / "lua" / f"{name}.lua").read_text(encoding="utf-8")


def _load(name: str) -> Script:
    # Functions may be made within a block: a ``local`` of Lua lives as long as its block does.
    text = _include(_read("prelude")) + "\n" + _include(_read(name))
    return _with_constants(text)


def _of_no_lock(name: str) -> Script:
    return _with_constants(_include(_read(name)))


def _with_constants(text: str) -> Script:
    """The script, with those constants that it uses where it asks for them."""
    return Script(text.replace("-- constants", _constants(text)))


def _constants(text: str) -> str:
    used = set(_NAME.findall(text))
    return "\n".join(f"local {name} = {value}" for name, value in _CONSTANTS.items() if name in used)


def _include(text: str) -> str:
    return _INCLUDE.sub(lambda included: _include(_read(included[1])), text)


ACQUIRE = _load("acquire")
TAKE = _load("take")
RENEW = _load("renew")
CONFIRM = _load("confirm")
SETTLE = _load("settle")
RELEASE = _load("release")
SHRINK = _load("shrink")
LEAVE = _load("leave")
FORCE_RELEASE = _load("force_release")
HOLDERS = _load("holders")
HELD = _load("held")
INFO = _load("info")
WRITE = _load("write")
ENTER = _load("enter")
PARK = _load("park")
END_RUN = _load("end_run")
PUBLISHED = _load("published")
FINISH = _load("finish")
SWEEP = _load("sweep")
WITHDRAW = _load("withdraw")
WAITING = _load("waiting")
#: Without the prelude: of no single lock, or of nothing but its value.
DUE = _of_no_lock("due")
DELETE = Script(_read("delete"))
LIST = _of_no_lock("list")
RENEW_MANY = _of_no_lock("renew_many")
STATS = _of_no_lock("stats")
