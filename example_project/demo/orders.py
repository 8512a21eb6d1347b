"""The jobs of the shop: the same jobs for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from celery_locks import LockedTask
from example_project.shop.tasks.catalogue import rebuild_catalogue
from example_project.shop.tasks.customers import sync_customer
from example_project.shop.tasks.payments import charge_order

#: How many jobs are sent each second, and how long it takes at least to send all of them.
JOBS_PER_SECOND, SHORTEST_SECONDS = 11.0, 3.0
CUSTOMERS = (1, 2, 3, 4, 5)
#: The relative number of jobs of each customer.
DEMAND = (9, 5, 3, 2, 1)
SHOPS = (1, 2)
#: From this number of jobs on, a second full rebuild is sent.
LONG = 100
#: How long a full rebuild takes: longer than a lease lives without renewal.
FULL_REBUILD_SECONDS = 3.5


@dataclass(frozen=True)
class Job:
    """A task to be sent.

    Attributes:
        at: When it is sent, in seconds after the start.
        task: The task.
        arguments: The arguments of the call.
        key: The key that the run will hold.
    """

    at: float
    task: LockedTask
    arguments: dict[str, Any] = field(hash=False)

    @property
    def key(self) -> str:
        return self.task.lock_key_for(**self.arguments)


def plan(count: int, seed: int) -> list[Job]:
    """Return this many jobs, in the order in which they are sent."""
    chance = random.Random(seed)
    # Full rebuilds are sent early, and in long runs once more. Other rebuilds of the catalogue have to wait for them.
    full = {count // 5, count // 5 + 1} | ({count // 2} if count >= LONG else set())
    jobs, rate = [], min(JOBS_PER_SECOND, count / SHORTEST_SECONDS)
    for number in range(count):
        at = number / rate
        jobs.append(_full_rebuild(at, number) if number in full else _job(at, number, chance))
    return jobs


def keys(jobs: list[Job]) -> list[str]:
    """Return all keys that the jobs will hold, sorted."""
    return sorted({job.key for job in jobs})


def _full_rebuild(at: float, number: int) -> Job:
    return Job(at, rebuild_catalogue, {"shop_id": SHOPS[number % 2], "seconds": FULL_REBUILD_SECONDS, "full": True})


def _job(at: float, number: int, chance: random.Random) -> Job:
    customer, kind = chance.choices(CUSTOMERS, DEMAND)[0], chance.random()
    if kind < 0.45:
        return Job(at, sync_customer, {"customer_id": customer, "seconds": chance.uniform(0.1, 0.7)})
    if kind < 0.6:
        return Job(at, rebuild_catalogue, {"shop_id": chance.choice(SHOPS), "seconds": chance.uniform(0.2, 0.6)})
    charge = {"order_id": number, "customer_id": customer, "cents": chance.randrange(500, 20000)}
    return Job(at, charge_order, {**charge, "seconds": chance.uniform(0.05, 0.3)})
