"""Ports for servers that may be stopped and come back on the same one."""

from __future__ import annotations

import random
import socket

# Below the range that systems take the ports of outgoing connections from. In there, a client that keeps trying to
# reach a stopped server can be given the server's port, and gets connected to itself.
_PORTS = range(12_000, 28_000)
_random = random.SystemRandom()  # hypothesis and others seed the global one: parallel runs would pick the same ports


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now. Another process may take it first: retry with a new one."""
    while True:
        port = _random.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
