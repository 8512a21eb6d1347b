"""Hash tags: how the names of locks are distributed over a Redis Cluster.

A script may touch the keys of one slot only. But a script of a lock also updates records about all locks: the list of
held locks, and the times when tickets are due. So each lock belongs to one of 128 partitions. A partition has a hash
tag, which comes before all of its names (``{tag}prefix:{key}``) and decides their slot. Each partition has its own
records about its locks. So the scripts are the same as for one server: one round trip, one atomic step.
"""

from __future__ import annotations

import zlib
from binascii import crc_hqx
from itertools import count

#: The number of slots of a Redis Cluster.
SLOTS = 16384
#: With more partitions, the load would be more even over many masters. But a page, statistics and a sweep ask each
#: partition. This number can't change: locks would no longer be found under their names.
PARTITIONS = 128


def _make_tags() -> tuple[tuple[str, int], ...]:
    """Return the tag and the slot of each partition.

    The slots are divided into equal ranges, one for each partition, since masters mostly serve ranges of slots. A tag
    is the smallest number whose slot is in the range.
    """
    found: dict[int, tuple[str, int]] = {}
    numbers = count()
    while len(found) < PARTITIONS:
        tag = str(next(numbers))
        # The CRC16 of the cluster's specification is CCITT's with the initial value 0.
        slot = crc_hqx(tag.encode(), 0) % SLOTS
        found.setdefault(slot * PARTITIONS // SLOTS, (f"{{{tag}}}", slot))
    return tuple(found[partition] for partition in range(PARTITIONS))


#: The tag of each partition → the slot of all names that begin with it.
SLOT_OF = dict(_make_tags())
TAGS = tuple(SLOT_OF)


def tag_of(name: str) -> str:
    """Return the tag of a lock's full name."""
    return TAGS[zlib.crc32(name.encode()) % PARTITIONS]


def guard_key(lists: str) -> str:
    """Return a key that never exists. A script that declares it does not run while its slot moves.

    While a slot moves, some of its keys are on one server and some on another. A server that lacks a declared key
    answers ``TRYAGAIN`` until the move is over. Not all keys of a script can be declared: some are only known while it
    runs, such as the wake-up of the first waiter. With this key a script runs in full or not at all.

    Args:
        lists: The tag of a partition, the prefix and a colon.
    """
    return f"{lists}never"


def lock_keys(tag: str, name: str, prefix: str) -> tuple[str, ...]:
    """Return the keys that a script of a lock declares: those of the lock, and the lists of its partition.

    Args:
        tag: The tag of the partition.
        name: The lock's full name.
        prefix: The prefix of the names of all locks, with its colon.
    """
    lock, lists = tag + name, tag + prefix
    records = (lock, *(f"{lock}:{record}" for record in ("until", "line", "alive", "void", "value", "due")))
    return (*records, *(f"{lists}{record}" for record in ("locks", "lines", "parked", "sweep")), guard_key(lists))


def without_tag(name: str) -> str:
    """Return a lock's full name, given its key."""
    return name.partition("}")[2]


def slot_of(key: str) -> int:
    """Return the slot of a key that begins with a tag."""
    return SLOT_OF[key[: key.index("}") + 1]]
