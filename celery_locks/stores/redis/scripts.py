"""The Lua scripts, composed of the files in ``lua/``.

Each file in ``lua/`` is one script. Its name is that of the store's method that calls it. The files in ``lua/parts/``
are shared: the line ``-- include NAME`` is replaced by the text of ``lua/parts/NAME.lua``. A part that is included
within a block is local to the block. So a script only creates the functions that its path through the code needs:
creating all of them takes longer than most requests.

The line ``-- constants`` is replaced by those constants of Python that the script uses. The server gets no comments.
"""

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

#: Seconds for which the last fencing token is kept after the last deadline. Until then the next token is greater even
#: if the server's clock is set back. Afterwards tokens grow because the clock does. So a clock may go back an hour.
FENCE_KEPT = 3_900
#: The longest that a sweeper blocks on the server, in seconds: it need not be woken for what is due later.
LONGEST_SLEEP = 5.0
#: How many voided requests of a lock are kept at most; see ``voided_requests.lua``.
MOST_VOID = 1_000
#: Seconds until a sweeper looks again at a lock that it could not read.
TROUBLE_PAUSE = 60.0


class Script:
    """A script, and the digest by which the server knows it once it is loaded.

    Args:
        text: What the server runs.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        # EVALSHA asks for SHA-1; nothing here relies on its strength.
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        #: The beginning of a command that calls the script with one key.
        self.call_with_one_key = arguments("EVALSHA", self.sha, 1)


#: Times are in microseconds.
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
_COMMENT = re.compile(r"^ *--(?! include | constants$).*\n|\n(?=\n)", re.M)
_NAME = re.compile(r"[A-Z][A-Z_]+")


@functools.cache
def _read(path: str) -> str:
    text = files(__package__).joinpath("lua", *path.split("/")).read_text(encoding="utf-8")
    return _COMMENT.sub("", text)


def _include(text: str) -> str:
    return _INCLUDE.sub(lambda part: _include(_read(f"parts/{part[1]}.lua")), text)


def _load(name: str) -> Script:
    text = _include(_read(f"{name}.lua"))
    used = set(_NAME.findall(text))
    constants = "\n".join(f"local {constant} = {value}" for constant, value in _CONSTANTS.items() if constant in used)
    return Script(text.replace("-- constants", constants))


ACQUIRE = _load("acquire")
TAKE = _load("take")
RENEW = _load("renew")
RENEW_MANY = _load("renew_many")
CONFIRM = _load("confirm")
SETTLE = _load("settle")
RELEASE = _load("release")
SHRINK = _load("shrink")
LEAVE = _load("leave")
FORCE_RELEASE = _load("force_release")
HOLDERS = _load("holders")
HELD = _load("held")
INFO = _load("info")
PAGE = _load("page")
STATS = _load("stats")
WRITE = _load("write")
DELETE = _load("delete")
ENTER = _load("enter")
PARK = _load("park")
END_RUN = _load("end_run")
PUBLISHED = _load("published")
FINISH = _load("finish")
SWEEP = _load("sweep")
WITHDRAW = _load("withdraw")
WAITING = _load("waiting")
DUE = _load("due")
