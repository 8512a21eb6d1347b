"""Requests of several processes about one owner token: none is taken for a copy of another process's request."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from celery_locks.stores.redis.store import RedisStore
from tests.support.celery_worker import ROOT

#: Acquires and writes a value, as often as a process does it at its beginning. The write of the first process was
#: repeated, and its first copy never came.
SCRIPT = """
import os, sys
from celery_locks.stores.redis import scripts
from celery_locks.stores.redis.store import RedisStore
from celery_locks.stores.redis.wire.protocol import repeated
from celery_locks.stores.types import Claim

class Repeating(RedisStore):
    def _call(self, script, key, command, *args):
        return super()._call(script, key, repeated(command) if script is scripts.WRITE else command, *args)

how, url = sys.argv[1:]

def write(kind, text):
    assert kind(url).write("p:{k}", "token", text, 60)

RedisStore(url).acquire(Claim("p:{k}", "token", "owner", 60))
if how == "fork":
    child = os.fork()
    if child == 0:
        write(Repeating, "first")
        os._exit(0)
    os.waitpid(child, 0)
    write(RedisStore, "second")
else:
    write(Repeating if how == "first" else RedisStore, how)
"""


def run(how: str, url: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", SCRIPT, how, url], env=environment, check=True, timeout=60)


@pytest.mark.parametrize("processes", [("first", "second"), ("fork",)], ids=["two processes", "a forked child"])
def test_promise_35_processes_that_share_an_owner_token(redis_url: str, processes: tuple[str, ...]) -> None:
    for how in processes:
        run(how, redis_url)
    assert RedisStore(redis_url).value("p:{k}") == "second"
