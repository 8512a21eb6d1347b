"""A broker that is nothing but files, for `files:////folder`: Celery with no server at all, on one machine.

kombu's own ``filesystem://`` fails in three ways, all mended here:

* A message can be read while it is still being written. Here it is written aside and renamed.
* A message is deleted when it is read, and dies with its reader. Here it is moved to a folder of its reader and
  deleted when it is acknowledged; what a dead reader leaves is put back by the next one to look.
* Workers that start together read each other's half-written bindings. Here each binding is a file that is just there.
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

#: Seconds between two looks for dead readers.
LOOK_EVERY = 0.5


class QoS(virtual.QoS):
    """Deletes a message's file when the message is acknowledged or given back."""

    def ack(self, delivery_tag: str) -> None:
        super().ack(delivery_tag)
        self.channel.forget(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        super().reject(delivery_tag, requeue)
        self.channel.forget(delivery_tag)


class Channel(filesystem.Channel):
    """A folder ``new`` of messages to be had, and one for each reader, named by its process id."""

    QoS = QoS
    #: What a reader has not acknowledged when it ends stays in its folder, and is put back from there.
    do_restore = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.folder = Path(self.connection.client.virtual_host)
        self.data_folder_in = self.data_folder_out = self.folder / "new"
        self.data_folder_in.mkdir(parents=True, exist_ok=True)
        self._read: dict[str, Path] = {}
        self._looked = 0.0

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
        """Deletes the file of a message that was read."""
        path = self._read.pop(delivery_tag, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:  # type: ignore[override]
        # Read in the order of their names; what follows the first dot is what kombu knows a queue's messages by.
        name = f"{time.monotonic_ns():020d}-{payload['properties']['delivery_tag']}.{queue}.msg"
        aside = self.data_folder_out / f"{name}.part"
        aside.write_text(dumps(payload))
        aside.rename(self.data_folder_out / name)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        self._put_back()
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

    def _put_back(self) -> None:
        if time.monotonic() < self._looked + LOOK_EVERY:
            return
        self._looked = time.monotonic()
        for reader in self.folder.iterdir():
            if reader.name.isdigit() and not _runs(int(reader.name)):
                for path in reader.iterdir():
                    with suppress(FileNotFoundError):  # two may find it at once; one of them moves it
                        path.rename(self.data_folder_in / path.name)


class Transport(filesystem.Transport):
    """The transport of ``files://``."""

    Channel = Channel


def register() -> None:
    """Makes ``files://`` known to kombu."""
    TRANSPORT_ALIASES["files"] = f"{__name__}:Transport"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
