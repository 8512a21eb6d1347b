"""Tests of the tasks whose key is held. The tasks run eagerly, with real locks."""

from __future__ import annotations

import os
import threading

import pytest

from celery_locks import LockContended
from example_project.shop import database, journal
from example_project.shop.tasks.catalogue import publish_page
from example_project.shop.tasks.customers import send_mail, send_newsletter, sync_customer
from example_project.shop.tasks.payments import charge_order
from example_project.shop.tasks.reports import close_day, count_sales
from example_project.shop.tasks.stock import print_label, take_from_stock


def run(task, *args, **kwargs):
    return task.apply(args, {"seconds": 0, **kwargs}, throw=True).get()


def test_syncs_of_a_customer_are_kept_apart(held_lock, lock_history) -> None:
    with held_lock("customer:7"):
        with pytest.raises(LockContended, match="another holder"):
            run(sync_customer, 7)
        run(sync_customer, 8)
    run(sync_customer, 7)
    assert lock_history.holders("customer:7") == ["another holder", sync_customer.name]


def test_tasks_about_one_thing_have_one_key() -> None:
    assert send_mail.lock_key_for(7) == send_newsletter.lock_key_for(1) == "mail-server"
    assert sync_customer.lock_key_for(7) == sync_customer.lock_key_for(customer_id=7, seconds=3) == "customer:7"


def test_a_mail_fits_alongside_a_newsletter_and_a_newsletter_does_not(celery_locks) -> None:
    mail_server = celery_locks.semaphore("mail-server", limit=3)
    lease = mail_server.try_acquire(permits=send_newsletter.lock_options.permits)
    assert mail_server.try_acquire(permits=send_newsletter.lock_options.permits) is None
    run(send_mail, 7)
    lease.release()
    run(send_newsletter, 1)


def test_a_label_waits_for_the_printer(held_lock) -> None:
    with held_lock("printer:1") as printing:
        threading.Timer(0.2, printing.release).start()
        run(print_label, 1)
    assert [each.key for each in journal.runs()] == ["printer:1"]


@pytest.mark.parametrize("task", [close_day, count_sales])
def test_a_scheduled_task_is_skipped_while_it_runs(task, held_lock) -> None:
    with held_lock(task.lock_key_for()):
        run(task)
    assert journal.runs() == []
    run(task)
    assert [each.task for each in journal.runs()] == [task.name.rpartition(".")[2]]


def test_a_newer_text_replaces_an_older_one(held_lock, lock_history) -> None:
    with held_lock("page:7", by="an older text") as older:
        run(publish_page, 7, text="newer")
        assert not older.release()
    assert lock_history.holders("page:7") == ["an older text", publish_page.name]


def test_a_run_that_loses_its_lease_is_retried(lock_lost_after, lock_history) -> None:
    lock_lost_after(seconds=0.05)
    take_from_stock.apply((7,), {"seconds": 0.5}).get()
    assert lock_history.kinds("stock:7") == ["acquired", "lost", "acquired", "released"]


def test_a_stale_charge_is_refused() -> None:
    database.charge(1, 7, 500, 500, fencing_token=2)
    with pytest.raises(database.StaleWriteError):
        database.charge(2, 7, 300, 300, fencing_token=1)
    assert database.balance(7) == 500


def test_a_charge_counts_once() -> None:
    for order in (1, 2, 2):
        run(charge_order, order, 7, cents=100)
    assert database.balance(7) == 200
    assert database.money() == (200, 200)


def test_an_interrupted_creation_of_the_tables_leaves_no_file(monkeypatch, tmp_path) -> None:
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", interrupt)
    with pytest.raises(KeyboardInterrupt):
        database.balance(7)
    monkeypatch.undo()
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.db"))
    assert list(tmp_path.iterdir()) == []
    assert database.balance(7) == 0
