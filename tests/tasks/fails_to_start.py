"""An app whose workers fail when their pool runs already, and before they are ready."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, bootsteps

from celery_locks import LockedTask
from celery_locks.tasks.worker.bootsteps import LocksStep

app = Celery("fails_to_start", broker="memory://", task_cls=LockedTask, set_as_current=False)
app.conf.update(locks_folder=os.environ["FOLDER"], locks_url=f"sqlite:///{os.environ['FOLDER']}/locks.db")


class Fails(bootsteps.StartStopStep):
    """Fails after the step of the locks was created, and before it starts."""

    requires = ("celery.worker.components:Pool",)

    def start(self, worker: Any) -> None:
        raise RuntimeError("this worker fails")


LocksStep.requires = (Fails,)
app.steps["worker"].add(Fails)
