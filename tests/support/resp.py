"""Enough of Redis' protocol to tell where a request or a reply ends."""

from __future__ import annotations

_AGGREGATES = b"*~>"
_MAPS = b"%|"
_BULKS = b"$=!"


class Frames:
    """Cuts a stream of bytes into whole requests or replies."""

    def __init__(self) -> None:
        self._waiting = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete with this data; what is left over waits for more.

        Raises:
            ValueError: This is not Redis' protocol.
        """
        self._waiting += data
        frames = []
        start = 0
        while (end := _end_of_frame(self._waiting, start)) is not None:
            frames.append(self._waiting[start:end])
            start = end
        self._waiting = self._waiting[start:]
        return frames


def command_name(request: bytes) -> str:
    """The command of a request, in upper case: ``EVALSHA``."""
    parts = request.split(b"\r\n", 3)
    word = parts[2] if request.startswith(b"*") else parts[0].split(b" ")[0]
    return word.decode(errors="replace").upper()


def _end_of_frame(data: bytes, start: int) -> int | None:
    """Where the frame that starts here ends, or None when there is more to come."""
    position, wanted = start, 1
    while wanted:
        end_of_line = data.find(b"\r\n", position)
        if end_of_line < 0:
            return None
        kind, rest = data[position : position + 1], data[position + 1 : end_of_line]
        position, wanted = end_of_line + 2, wanted - 1
        if kind in _BULKS and int(rest) >= 0:
            position += int(rest) + 2
        elif kind in _AGGREGATES:
            wanted += max(int(rest), 0)
        elif kind in _MAPS:
            wanted += 2 * int(rest) + (kind == b"|")  # attributes come before the reply that they are about
        if position > len(data):
            return None
    return position
