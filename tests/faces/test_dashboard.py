"""Each metric that the docs, the alerts and the dashboard name is told by a worker or of a store."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from celery_locks import Locks
from celery_locks.telemetry.prometheus import Held, Metrics
from celery_locks.telemetry.reports import Report
from celery_locks.telemetry.store import StoreWatch
from tests.support.celery_worker import ROOT
from tests.support.waiting import eventually

DASHBOARD, PAGE = ROOT / "docs" / "assets" / "grafana.json", ROOT / "docs" / "how-to" / "metrics.md"
#: The module of that name is no metric.
NO_METRICS = {"celery_locks_total"}


@pytest.fixture(scope="module")
def told() -> set[str]:
    """The names of all samples."""
    registry, locks = CollectorRegistry(), Locks("memory://")
    registry.register(Held(lambda: ["task"]))
    registry.register(StoreWatch(locks, every=0))
    counted = Metrics(registry)
    for kind in ("acquired", "contended", "timed_out", "released", "lost"):
        reason = "expired" if kind == "lost" else None
        counted.count(Report(kind, "k", "task", None, None, 1, reason, 1.0, 1.0))

    def names() -> set[str]:
        text = generate_latest(registry).decode()
        return set(re.findall(r"^(celery_locks_\w+)", text, re.MULTILINE))

    with locks.lock("k"):
        eventually(lambda: "celery_locks_store_held" in names(), 30)
        return names()


def names_in(path: Path) -> set[str]:
    return set(re.findall(r"\bcelery_locks_[a-z_]+", path.read_text())) - NO_METRICS


def test_the_dashboard_is_json_with_names_that_exist(told: set[str]) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    used = names_in(DASHBOARD)
    assert len(used) > 10
    assert used - told == set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 10
    for panel in dashboard["panels"]:
        assert all(target["expr"].count("(") == target["expr"].count(")") for target in panel["targets"])


def test_the_page_names_all_metrics_and_no_others(told: set[str]) -> None:
    histograms = {name.removesuffix("_bucket") for name in told if name.endswith("_bucket")}
    assert names_in(PAGE) - told - histograms == set()
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in told if not name.endswith("_created")}
    assert plain - names_in(PAGE) == set()
