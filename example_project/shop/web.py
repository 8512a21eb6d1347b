"""The shop's web page, which calls tasks, and shows the holders of keys.

The HTTP status of a call is 202 if the task was sent, and 200 if it was queued before or is not needed. It is 409 if
the call was refused, and 503 if the lock store can't be reached. To try the page:
``flask --app example_project.shop.web run``.
"""

from __future__ import annotations

import time
from typing import Any

from celery import uuid
from celery.result import EagerResult
from flask import Flask, abort, jsonify, render_template, request
from flask.typing import ResponseReturnValue

from celery_locks import LockContended, LockedTask, LockInfo, LockKeyError, Locks, StoreUnavailable
from example_project.shop import journal
from example_project.shop.app import app
from example_project.shop.tasks import catalogue, customers, payments, reports, stock

#: The tasks on the page, each with the argument that makes its key.
OFFERED: dict[str, tuple[LockedTask, str]] = {
    task.name.rpartition(".")[2]: (task, argument)
    for task, argument in (
        (customers.sync_customer, "customer_id"),
        (customers.remind_customer, "customer_id"),
        (customers.send_mail, "customer_id"),
        (customers.send_newsletter, "edition"),
        (catalogue.rebuild_catalogue, "shop_id"),
        (catalogue.index_for_search, "shop_id"),
        (catalogue.refresh_prices, "shop_id"),
        (catalogue.publish_page, "page_id"),
        (stock.take_from_stock, "product_id"),
        (stock.count_stock, "warehouse_id"),
        (stock.print_label, "printer_id"),
        (payments.pay_supplier, "supplier_id"),
        (payments.refund_order, "order_id"),
        (reports.count_sales, ""),
        (reports.close_day, ""),
    )
}


def create_app() -> Flask:
    """Return the application. Flask calls it."""
    web, locks = Flask(__name__), Locks.from_app(app)

    @web.get("/")
    def page() -> ResponseReturnValue:
        return render_template("shop.html", offered={name: argument for name, (_, argument) in OFFERED.items()})

    # Accepts only JSON, which a form of another site can't send in a visitor's name.
    @web.post("/tasks/<name>")
    def call(name: str) -> ResponseReturnValue:
        if name not in OFFERED:
            abort(404, f"There is no task {name!r}; there are {', '.join(OFFERED)}.")
        task, arguments = OFFERED[name][0], request.get_json()
        try:
            return _answer(task, arguments, task.apply_async(kwargs=arguments, task_id=(task_id := uuid())), task_id)
        except (TypeError, LockKeyError) as error:  # wrong arguments, or arguments without a key
            abort(400, str(error))

    @web.get("/locks")
    def held() -> ResponseReturnValue:
        """Answer with a page of the held keys. This takes one read of the store, for any number of locks."""
        found = locks.list(prefix=request.args.get("prefix", ""), after=request.args.get("after"), count=100)
        return jsonify(locks=[_lock_as_data(item) for item in found.items], next=found.next)

    @web.get("/runs")
    def runs() -> ResponseReturnValue:
        now = time.monotonic()
        return jsonify(
            [{"task": r.task, "key": r.key, "ago": now - r.began, "end": r.outcome} for r in journal.latest(12)]
        )

    @web.errorhandler(LockContended)
    def contended(error: LockContended) -> ResponseReturnValue:
        return jsonify(outcome="refused", key=error.key, holders=error.holders), 409

    @web.errorhandler(StoreUnavailable)
    def away(error: StoreUnavailable) -> ResponseReturnValue:
        web.logger.error("%s", error)
        return jsonify(
            outcome="away", message="The lock store can't be reached: nothing was sent. Try again later."
        ), 503

    return web


def _answer(task: LockedTask, arguments: dict[str, Any], result: Any, task_id: str) -> ResponseReturnValue:
    key = task.lock_key_for(**arguments)
    if isinstance(result, EagerResult):  # "skip" at the call: a `Skipped`, and nothing was sent
        return jsonify(outcome="skipped", key=key, holders=result.result["holders"]), 200
    if result.id != task_id:  # "existing": the call got the task that has the lease
        return jsonify(outcome="existing", key=key, task_id=result.id), 200
    return jsonify(outcome="sent", key=key, task_id=result.id), 202


def _lock_as_data(item: LockInfo) -> dict[str, Any]:
    """Return a key without the tokens of its holders, since a token is a right to release."""
    holders = [
        {
            "owner": holder.owner,
            "for": holder.held_for,
            "left": holder.expires_in,
            "fencing_token": holder.fencing_token,
        }
        for holder in item.holders
    ]
    return {"key": item.key, "permits": item.permits, "limit": item.limit, "waiting": item.waiting, "holders": holders}
