"""What a lock can't be faster than: the least that a server does for one, by three ways to talk to it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import redis

#: The least a lock is: a value that nobody else has, set where there is none and deleted by who knows it.
ACQUIRE = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])"
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

Pair = Callable[[], None]


def through_client(url: str, key: str) -> Pair:
    """Two EVALSHA by ``execute_command`` of redis-py."""
    client = redis.Redis.from_url(url)
    acquire, release = client.script_load(ACQUIRE), client.script_load(RELEASE)

    def pair() -> None:
        assert client.evalsha(acquire, 1, key, "token", 60_000)
        assert client.evalsha(release, 1, key, "token")

    return pair


def raw_socket(url: str, key: str) -> Pair:
    """Two EVALSHA that were packed beforehand, on a bare socket."""
    client = redis.Redis.from_url(url)
    acquire, release = client.script_load(ACQUIRE), client.script_load(RELEASE)
    packer = redis.Connection()
    commands = [
        b"".join(packer.pack_command("EVALSHA", acquire, 1, key, "token", 60_000)),
        b"".join(packer.pack_command("EVALSHA", release, 1, key, "token")),
    ]
    arguments: dict[str, Any] = client.connection_pool.connection_kwargs
    wire = socket.create_connection((arguments["host"], arguments["port"]))
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire.sendall(b"".join(packer.pack_command("SELECT", arguments.get("db", 0))))
    wire.recv(100)

    def pair() -> None:
        for command in commands:
            wire.sendall(command)
            wire.recv(100)

    return pair
