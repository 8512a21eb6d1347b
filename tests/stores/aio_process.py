"""Users of one key in a process of their own: ``python aio_process.py <store> <face> <users> <rounds> <file>``.

Each reads a number from the file, yields, and writes it back one higher: what others do meanwhile would be lost.
"""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from celery_locks import Locks
from celery_locks.aio import AsyncLocks


async def coroutines(store: str, users: int, rounds: int, file: Path) -> None:
    lock = AsyncLocks(store).lock("counter", ttl=20)

    async def use() -> None:
        for _ in range(rounds):
            async with lock:
                number = int(file.read_text())
                await asyncio.sleep(0.0005)
                file.write_text(str(number + 1))

    await asyncio.gather(*(use() for _ in range(users)))


def threads(store: str, users: int, rounds: int, file: Path) -> None:
    lock = Locks(store).lock("counter", ttl=20)

    def use(_: int) -> None:
        for _ in range(rounds):
            with lock:
                number = int(file.read_text())
                time.sleep(0.0005)
                file.write_text(str(number + 1))

    with ThreadPoolExecutor(users) as pool:
        list(pool.map(use, range(users)))


if __name__ == "__main__":
    store, face, users, rounds, file = sys.argv[1:]
    if face == "coroutines":
        asyncio.run(coroutines(store, int(users), int(rounds), Path(file)))
    else:
        threads(store, int(users), int(rounds), Path(file))
