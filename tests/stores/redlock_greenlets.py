"""A lease by a majority in a process of greenlets: ``python redlock_greenlets.py gevent|eventlet <url>``.

It is renewed by a real thread meanwhile, and other greenlets go on while a server is asked.
"""

from __future__ import annotations

import sys

if sys.argv[1] == "gevent":
    from gevent import monkey

    monkey.patch_all()
else:
    import eventlet

    eventlet.monkey_patch()

import time

from celery_locks import Locks

TTL = 2.0


def main(url: str) -> None:
    locks, until = Locks(url), time.monotonic() + 60
    with locks.lock("k", ttl=TTL) as lease:
        first = lease._confirmed
        while lease._confirmed <= first + TTL:  # renewed past the deadline that it began with
            assert time.monotonic() < until, "it was not renewed"
            lease.check()
            time.sleep(0.01)
    assert not locks.lock("k").locked()


main(sys.argv[2])
print("held and released")
