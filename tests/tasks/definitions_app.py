"""An app with a locked task for each way to define one; its workers run this module."""

import os
from typing import Any

from celery import Celery, Task, current_task
from pydantic import BaseModel

from celery_locks import LockedTask, single_instance
from tests.tasks.bodies import work
from tests.tasks.shop import QUICK

url = os.environ.get("SHOP_URL", "")
app = Celery("ways", broker=url, backend=url)
app.conf.update(
    shop_journal=url,
    locks_url=url,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    worker_pool_start_method=os.environ.get("SHOP_START_METHOD", "fork"),
    locks_backoff={"base": 0.05, "cap": 0.2},
    locks_ttl=5,
)
app.autodiscover_tasks(["tests.tasks.discovered"])


@app.task(base=LockedTask, lock_key="<key>")
def base(key: str, seconds: float = 0.0) -> str:
    return work(current_task, key, seconds)


@app.task(base=LockedTask, bind=True, lock_key="<key>")
def base_bound(self: Any, key: str, seconds: float = 0.0) -> str:
    assert self.lease.key == key
    return work(self, key, seconds)


@app.task
@single_instance(key="<key>", backoff=QUICK)
def below(key: str, seconds: float = 0.0) -> str:
    return work(current_task, key, seconds)


@app.task(bind=True)
@single_instance(key="<key>")
def below_bound(self: Any, key: str, seconds: float = 0.0) -> str:
    assert self.lease.key == key
    return work(self, key, seconds)


@single_instance(key="<key>")
@app.task
def above(key: str, seconds: float = 0.0) -> str:
    return work(current_task, key, seconds)


@single_instance(key="<key>")
@app.task(bind=True)
def above_bound(self: Any, key: str, seconds: float = 0.0) -> str:
    assert self.lease.key == key
    return work(self, key, seconds)


@app.task
@single_instance
def bare(key: str, seconds: float = 0.0) -> str:
    return work(current_task, key, seconds)


@single_instance
@app.task(autoretry_for=(ZeroDivisionError,), retry_kwargs={"countdown": 0, "max_retries": 1})
def bare_autoretry(key: str, seconds: float = 0.0) -> str:
    return work(current_task, key, seconds)


class ClassBased(LockedTask):
    name = "class_based"
    lock_key = "<key>"

    def run(self, key: str, seconds: float = 0.0) -> str:
        return work(self, key, seconds)


class Child(ClassBased):
    """Calls its parent's wrapped body from its own."""

    name = "class_child"

    def run(self, key: str, seconds: float = 0.0) -> str:
        return super().run(key, seconds)


@single_instance(key="<key>")
class Decorated(Task):  # type: ignore[misc]
    name = "class_decorated"

    def run(self, key: str, seconds: float = 0.0) -> str:
        return work(self, key, seconds)


class_based = app.register_task(ClassBased())
class_child = app.register_task(Child())
class_decorated = app.register_task(Decorated())


class Order(BaseModel):
    key: str
    seconds: float = 0.0


@app.task(pydantic=True, base=LockedTask)
def pydantic_base(order: Order) -> str:
    return work(current_task, order.key, order.seconds)


@app.task(pydantic=True)
@single_instance
def pydantic_below(order: Order) -> str:
    return work(current_task, order.key, order.seconds)


@single_instance(key="<order.key>")
@app.task(pydantic=True)
def pydantic_above(order: Order) -> str:
    return work(current_task, order.key, order.seconds)


PLAIN = (
    "tests.tasks.definitions_app.base",
    "tests.tasks.definitions_app.base_bound",
    "tests.tasks.definitions_app.below",
    "tests.tasks.definitions_app.below_bound",
    "tests.tasks.definitions_app.above",
    "tests.tasks.definitions_app.above_bound",
    "tests.tasks.definitions_app.bare",
    "tests.tasks.definitions_app.bare_autoretry",
    "tests.tasks.discovered.tasks.shared_above",
    "tests.tasks.discovered.tasks.shared_below",
    "tests.tasks.discovered.tasks.shared_base",
)
CLASSES = ("class_based", "class_child", "class_decorated")
PYDANTIC = (
    "tests.tasks.definitions_app.pydantic_base",
    "tests.tasks.definitions_app.pydantic_below",
    "tests.tasks.definitions_app.pydantic_above",
)
