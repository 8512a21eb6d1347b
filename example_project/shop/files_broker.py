"""A broker made of files, for `files:////folder`: Celery without a server, on one machine.

kombu's own ``filesystem://`` has three faults, which are fixed here:

* A message can be read while it is being written. Here it is written to a temporary file, which is then renamed.
* A message is deleted when it is read, and lost if its reader dies. Here it is moved to a folder of its reader, and
  deleted when it is acknowledged. The next reader restores the messages of a dead one.
* Workers that start at the same time read incomplete bindings. Here each binding is an empty file.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any
from urllib.parse import quote, unquote

from kombu.transport import TRANSPORT_ALIASES, filesystem, virtual
from kombu.utils.json import dumps, loads

#: Seconds between two searches for dead readers.
RECLAIM_INTERVAL_SECONDS = 0.5


class QoS(virtual.QoS):
    """Deletes the file of a message when the message is acknowledged or rejected."""

    def ack(self, delivery_tag: str) -> None:
        super().ack(delivery_tag)
        self.channel.forget(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        super().reject(delivery_tag, requeue)
        self.channel.forget(delivery_tag)


class Channel(filesystem.Channel):
    """A folder ``new`` with the messages to be read, and a folder for each reader, named by its process id."""

    QoS = QoS
    #: kombu need not restore unacknowledged messages: they stay in the reader's folder, and `_reclaim` finds them.
    do_restore = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.folder = Path(self.connection.client.virtual_host)
        self.data_folder_in = self.data_folder_out = self.folder / "new"
        self.data_folder_in.mkdir(parents=True, exist_ok=True)
        self._read: dict[str, Path] = {}
        self._reclaimed_at = 0.0

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        folder = self.folder / "bindings" / quote(exchange, safe="")
        folder.mkdir(parents=True, exist_ok=True)
        parts = (routing_key or "", pattern or "", queue or "")
        (folder / "|".join(quote(part, safe="") for part in parts)).touch()

    def get_table(self, exchange: str) -> list[filesystem.exchange_queue_t]:
        folder = self.folder / "bindings" / quote(exchange, safe="")
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        return [filesystem.exchange_queue_t(*map(unquote, name.split("|"))) for name in names]

    def forget(self, delivery_tag: str) -> None:
        """Delete the file of a message that was read."""
        path = self._read.pop(delivery_tag, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:  # type: ignore[override]
        # Files are read in the order of their names. After the first dot kombu expects the name of the queue.
        name = f"{time.monotonic_ns():020d}-{payload['properties']['delivery_tag']}.{queue}.msg"
        temporary = self.data_folder_out / f"{name}.part"
        temporary.write_text(dumps(payload))
        temporary.rename(self.data_folder_out / name)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        self._reclaim()
        mine = self.folder / str(os.getpid())
        mine.mkdir(exist_ok=True)
        for name in sorted(os.listdir(self.data_folder_in)):
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            with suppress(FileNotFoundError):  # another reader was faster
                path = (self.data_folder_in / name).rename(mine / name)
                payload: dict[str, Any] = loads(path.read_text())
                self._read[payload["properties"]["delivery_tag"]] = path
                return payload
        raise Empty

    def _reclaim(self) -> None:
        if time.monotonic() < self._reclaimed_at + RECLAIM_INTERVAL_SECONDS:
            return
        self._reclaimed_at = time.monotonic()
        for reader in self.folder.iterdir():
            if reader.name.isdigit() and not _is_alive(int(reader.name)):
                for path in reader.iterdir():
                    with suppress(FileNotFoundError):  # another reader restored it
                        path.rename(self.data_folder_in / path.name)


class Transport(filesystem.Transport):
    """The transport of ``files://``."""

    Channel = Channel


def register() -> None:
    """Register ``files://`` with kombu."""
    TRANSPORT_ALIASES["files"] = f"{__name__}:Transport"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
