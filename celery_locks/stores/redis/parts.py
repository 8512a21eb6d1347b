"""The parts of the names in a Redis Cluster.

A script may touch the keys of one slot only; and besides the keys of its lock each of ours keeps up what is over all
locks: the list of what is held, and what is due. So the names are dealt out to parts, each with a tag that lies before
all of its names and decides on their slot (``{tag}prefix:{key}``), and what is over all locks is there once for each
part. So the scripts are the same as for one server: one round trip, one atomic step.
"""

from __future__ import annotations

import zlib
from binascii import crc_hqx
from itertools import count

#: How many slots a Redis Cluster has.
SLOTS = 16384
#: More would spread the load more evenly over many masters, and move faster from one to another; but who looks at all
#: locks (a page, figures, the sweeper) has to ask as often. Names would be lost to their locks if this changed.
PARTS = 128


def _tags() -> tuple[tuple[str, int], ...]:
    """Tags and slots: the smallest numbers that lie in each of as many equal ranges of slots.

    Masters mostly have ranges of slots, so each has its share of the parts.
    """
    found: dict[int, tuple[str, int]] = {}
    numbers = count()
    while len(found) < PARTS:
        tag = str(next(numbers))
        # The CRC16 of the cluster's specification is the one of CCITT that begins with 0.
        slot = crc_hqx(tag.encode(), 0) % SLOTS
        found.setdefault(slot * PARTS // SLOTS, (f"{{{tag}}}", slot))
    return tuple(found[part] for part in range(PARTS))


_ALL = _tags()
#: What the names of each part begin with.
TAGS = tuple(tag for tag, _ in _ALL)
#: Tag → the slot of all names that begin with it.
SLOT_OF = dict(_ALL)


def tag_of(name: str) -> str:
    """The tag of a lock's full name."""
    return TAGS[zlib.crc32(name.encode()) % PARTS]


def never(lists: str) -> str:
    """The key of a part that never exists: while the part's slot moves, no script runs that declares it.

    Of a slot that moves, some keys are here and some there. A server runs no script of which it lacks a key then; it
    answers ``TRYAGAIN`` until the move is over. Not all keys that a script touches can be declared, since some are only
    found on the way, such as the wake-up of the first in line. With this one a script runs in full or not at all.

    Args:
        lists: What the names of the lists over all locks of a part begin with: its tag, the prefix and a colon.
    """
    return f"{lists}never"


def lock_keys(tag: str, name: str, prefix: str) -> tuple[str, ...]:
    """The keys that a script of a lock declares: the lock itself, its records, and the lists over all locks of a part.

    Args:
        tag: The part's.
        name: The lock's full name.
        prefix: What the names of all locks begin with, the colon included.
    """
    lock, lists = tag + name, tag + prefix
    records = (lock, *(f"{lock}:{record}" for record in ("until", "line", "alive", "void", "value", "due")))
    return (*records, *(f"{lists}{record}" for record in ("locks", "lines", "parked", "sweep")), never(lists))


def untagged(name: str) -> str:
    """A name as it was before its tag was put before it."""
    return name.partition("}")[2]


def slot_of(key: str) -> int:
    """The slot of a key that begins with a tag."""
    return SLOT_OF[key[: key.index("}") + 1]]
