"""Tests of the page: the answers to calls whose key is held. The broker is in memory, so no worker gets a task."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from celery_locks import Locks
from example_project.shop.app import app
from example_project.shop.web import OFFERED, create_app


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    monkeypatch.setitem(app.conf, "broker_url", "memory://")
    return create_app().test_client()


def call(page: FlaskClient, task: str, **arguments: object):
    answer = page.post(f"/tasks/{task}", json=arguments)
    return answer.status_code, answer.get_json()


def test_a_call_is_sent(page: FlaskClient) -> None:
    status, answer = call(page, "sync_customer", customer_id=7)
    assert (status, answer["outcome"], answer["key"]) == (202, "sent", "customer:7")
    assert page.get("/locks").get_json()["locks"] == []  # the run acquires its key


def test_a_call_gets_the_task_that_is_queued_already(page: FlaskClient) -> None:
    _, first = call(page, "index_for_search", shop_id=7)
    status, second = call(page, "index_for_search", shop_id=7)
    assert (status, second["outcome"], second["task_id"]) == (200, "existing", first["task_id"])
    held = page.get("/locks?prefix=search:").get_json()["locks"]
    assert [each["key"] for each in held] == ["search:7"]
    assert first["task_id"] in held[0]["holders"][0]["owner"]


def test_a_call_that_is_not_needed_is_skipped(page: FlaskClient) -> None:
    assert call(page, "remind_customer", customer_id=7)[0] == 202
    status, answer = call(page, "remind_customer", customer_id=7)
    assert (status, answer["outcome"]) == (200, "skipped")
    assert call(page, "remind_customer", customer_id=8)[0] == 202


def test_a_call_that_is_refused_is_a_conflict(page: FlaskClient) -> None:
    _, first = call(page, "pay_supplier", supplier_id=7)
    status, answer = call(page, "pay_supplier", supplier_id=7)
    assert (status, answer["outcome"], answer["key"]) == (409, "refused", "payout:7")
    assert first["task_id"] in answer["holders"][0]


def test_wrong_calls_are_explained(page: FlaskClient) -> None:
    assert page.post("/tasks/nothing", json={}).status_code == 404
    assert "customer_id" in page.post("/tasks/sync_customer", json={}).get_data(as_text=True)
    assert page.post("/tasks/sync_customer", json={"customer": 7}).status_code == 400
    assert page.post("/tasks/sync_customer", data="customer_id=7").status_code == 415  # a form of another site


def test_a_store_that_can_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Locks("redis://:secret@127.0.0.1:1/0")
    monkeypatch.setattr(Locks, "from_app", classmethod(lambda cls, app, *_: away))
    answer = create_app().test_client().get("/locks")
    assert answer.status_code == 503
    assert "secret" not in answer.get_data(as_text=True)


def test_no_right_to_release_is_shown(page: FlaskClient, celery_locks: Locks) -> None:
    lease = celery_locks.lock("customer:7").acquire()
    text = page.get("/locks").get_data(as_text=True)
    assert "customer:7" in text
    assert lease.token not in text


def test_the_page_offers_all_tasks(page: FlaskClient) -> None:
    text = page.get("/").get_data(as_text=True)
    for name in OFFERED:
        assert f'data-task="{name}"' in text
