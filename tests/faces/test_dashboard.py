"""The metrics that the docs, the alert rules and the dashboard name are those of a real page, with their labels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from celery_locks import Locks
from celery_locks.telemetry.prometheus import Held, Metrics
from celery_locks.telemetry.store import StoreWatch
from tests.support import report
from tests.support.celery_worker import ROOT
from tests.support.waiting import eventually

ASSETS, PAGE = ROOT / "docs" / "assets", ROOT / "docs" / "how-to" / "metrics.md"
DASHBOARD, RULES, RULE_TESTS = (
    ASSETS / "grafana.json",
    ASSETS / "alerts.yml",
    Path(__file__).with_name("alerts.test.yml"),
)
#: The module of that name is no metric.
NO_METRICS = {"celery_locks_total"}
#: A metric with the matchers that select some of its series.
SELECTOR = re.compile(r"\b(celery_locks_[a-z_]+)(?:\{([^}]*)\})?")


@pytest.fixture(scope="module")
def labels() -> dict[str, set[str]]:
    """The names of all samples of a page, and their labels."""
    registry, locks = CollectorRegistry(), Locks("memory://")
    registry.register(Held(lambda: ["task"]))
    registry.register(StoreWatch(locks, every=0))
    Metrics(registry, lambda: ["task"])

    def seen() -> dict[str, set[str]]:
        families = text_string_to_metric_families(generate_latest(registry).decode())
        return {sample.name: set(sample.labels) for family in families for sample in family.samples}

    eventually(lambda: "celery_locks_store_held" in seen(), 30)
    return seen()


def expressions() -> dict[str, str]:
    """All that Prometheus is asked, by where it is asked."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = {
        panel["title"]: " + ".join(target["expr"] for target in panel["targets"]) for panel in dashboard["panels"]
    }
    alerts = dict(re.findall(r"- alert: (\w+).*\n    expr: (.*)", RULES.read_text()))
    variables = {entry["name"]: entry["query"] for entry in dashboard["templating"]["list"] if entry["type"] == "query"}
    return panels | alerts | variables


def names_in(path: Path) -> set[str]:
    return set(re.findall(r"\bcelery_locks_[a-z_]+", path.read_text())) - NO_METRICS


def test_every_expression_names_metrics_and_labels_that_exist(labels: dict[str, set[str]]) -> None:
    asked = expressions()
    assert len(asked) > 20
    for where, expression in asked.items():
        there = {"instance", "job"}
        for name, matchers in SELECTOR.findall(expression):
            assert name in labels, where
            assert set(re.findall(r"(\w+)\s*[=!]", matchers)) <= labels[name], where
            there |= labels[name]
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            assert set(re.findall(r"\w+", grouped)) <= there, where


def test_the_dashboard_can_be_imported() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids)) > 10
    for panel in panels:
        assert all(target["expr"].count("(") == target["expr"].count(")") for target in panel["targets"])


def test_the_page_names_all_metrics_with_their_labels_and_no_others(labels: dict[str, set[str]]) -> None:
    rows = re.findall(r"^\| `(celery_locks_\w+)` \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    named = {name: set(re.findall(r"`(\w+)`", column)) for name, column in rows}
    plain = {
        re.sub(r"_(bucket|sum|count)$", "", name): of - {"le"}
        for name, of in labels.items()
        if not name.endswith("_created")
    }
    assert named == plain
    assert names_in(PAGE) - set(labels) - set(plain) == set()


# ---------------------------------------------------------------------- the alert rules


def test_the_page_shows_the_rules_that_are_tested() -> None:
    assert '--8<-- "docs/assets/alerts.yml"' in PAGE.read_text()


def test_each_rule_has_a_test_in_which_it_fires() -> None:
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    fired = set(re.findall(r'ALERTS\{alertname="(\w+)", alertstate="firing"', RULE_TESTS.read_text()))
    assert alerts == fired
    assert RULES.read_text().count("summary:") == RULES.read_text().count("description:") == len(alerts)


@pytest.mark.parametrize("command", [("check", "rules", RULES), ("test", "rules", RULE_TESTS)], ids=["valid", "fire"])
def test_the_rules(command: tuple[str | Path, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        report.could_not_have("promtool", "the alert rules were not tested; Debian's package prometheus has it")
        pytest.skip("there is no promtool: see the closing lines")
    done = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
