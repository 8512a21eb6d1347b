"""What there is to do in the shop: the same jobs for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from celery_locks import LockedTask
from example_project.shop.tasks.catalogue import rebuild_catalogue
from example_project.shop.tasks.customers import sync_customer
from example_project.shop.tasks.payments import charge_order

#: Jobs that are sent each second, and the shortest time in seconds that all of them take to be sent.
RATE, SHORTEST = 11.0, 3.0
CUSTOMERS = (1, 2, 3, 4, 5)
#: How often each of them is met: the first is everybody's favourite.
DEMAND = (9, 5, 3, 2, 1)
SHOPS = (1, 2)
#: So many jobs are a long run.
LONG = 100
#: Seconds that a full rebuild takes: longer than a lease lives without renewal.
FULL = 3.5


@dataclass(frozen=True)
class Job:
    """A task to be sent.

    Attributes:
        at: When, in seconds after the start.
        task: The task.
        arguments: Of its call.
        key: The key that it will hold.
    """

    at: float
    task: LockedTask
    arguments: dict[str, Any] = field(hash=False)

    @property
    def key(self) -> str:
        return self.task.lock_key_for(**self.arguments)


def plan(count: int, seed: int) -> list[Job]:
    """So many jobs, in the order in which they are sent."""
    chance = random.Random(seed)
    # Catalogues are rebuilt in full early on, in long runs once more later; others that ask for them have to wait.
    full = {count // 5, count // 5 + 1} | ({count // 2} if count >= LONG else set())
    jobs, rate = [], min(RATE, count / SHORTEST)
    for number in range(count):
        at = number / rate
        jobs.append(_full_rebuild(at, number) if number in full else _job(at, number, chance))
    return jobs


def keys(jobs: list[Job]) -> list[str]:
    """All keys that the jobs will hold, in the order of the alphabet."""
    return sorted({job.key for job in jobs})


def _full_rebuild(at: float, number: int) -> Job:
    return Job(at, rebuild_catalogue, {"shop_id": SHOPS[number % 2], "seconds": FULL, "full": True})


def _job(at: float, number: int, chance: random.Random) -> Job:
    customer, kind = chance.choices(CUSTOMERS, DEMAND)[0], chance.random()
    if kind < 0.45:
        return Job(at, sync_customer, {"customer_id": customer, "seconds": chance.uniform(0.1, 0.7)})
    if kind < 0.6:
        return Job(at, rebuild_catalogue, {"shop_id": chance.choice(SHOPS), "seconds": chance.uniform(0.2, 0.6)})
    charge = {"order_id": number, "customer_id": customer, "cents": chance.randrange(500, 20000)}
    return Job(at, charge_order, {**charge, "seconds": chance.uniform(0.05, 0.3)})
