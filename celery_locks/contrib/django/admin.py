"""Locks in Django's admin: what is held, one key, and its release by hand.

A page costs two reads of the store at most, however many locks there are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from celery import current_app
from django.contrib import admin, messages
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from celery_locks import LockConfigError, LockKeyError, Locks, StoreUnavailable
from celery_locks.contrib.django import shown
from celery_locks.contrib.django.models import Lock
from celery_locks.tasks.freeing import free_one
from celery_locks.tasks.options import locks_for

logger = logging.getLogger(__name__)

#: Rows of a page.
ROWS = 100


@admin.register(Lock)
class LockAdmin(admin.ModelAdmin):
    """The pages. Whoever may view locks sees them, and whoever may release locks too, frees them."""

    def get_urls(self) -> list[Any]:
        """Addresses; keys are in their queries, since a key may be any text."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.changelist_view), name="celery_locks_lock_changelist"),
            path("key/", view(self.key_view), name="celery_locks_lock_key"),
            path("release/", view(self.release_view), name="celery_locks_lock_release"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds locks."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes them."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """They are released: see `has_release_permission`."""
        return False

    def has_release_permission(self, request: HttpRequest) -> bool:
        """Whether the user may free a key."""
        return bool(self.has_view_permission(request) and request.user.has_perm("celery_locks.release_lock"))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """A page of keys in the order of their text, and figures over all: ``?prefix=…&after=…``."""
        prefix, after = request.GET.get("prefix", ""), request.GET.get("after") or None

        def read() -> dict[str, Any]:
            locks = _locks()
            page, stats = locks.list(prefix, after, ROWS), locks.stats(shown.NEAR)
            return {**shown.page_of(page, prefix, after), "stats": shown.stats_of(stats), "store": locks.url}

        return self._answer(request, "locks", "Locks", read, {"prefix": prefix, **(extra_context or {})})

    def key_view(self, request: HttpRequest) -> HttpResponse:
        """Who holds a key and who waits for it: ``?key=…``."""
        key = request.GET.get("key", "")
        may_release = self.has_release_permission(request)
        return self._answer(
            request,
            "lock",
            "Lock",
            lambda: {"lock": shown.lock_of(_locks().info(key))},
            {"key": key, "may_release": may_release},
        )

    def release_view(self, request: HttpRequest) -> HttpResponse:
        """Asks whether to end a lease (GET), and ends it (POST): that with this fencing token, and no other.

        Raises:
            PermissionDenied: The user may not.
            BadRequest: There is no such number.
        """
        if not self.has_release_permission(request):
            raise PermissionDenied
        if request.method not in ("GET", "POST"):
            return HttpResponseNotAllowed(["GET", "POST"])
        asked = request.POST if request.method == "POST" else request.GET
        key, fencing_token = asked.get("key", ""), _number(asked.get("fencing_token", ""))
        note = "It may have been released all the same." if request.method == "POST" else ""
        context = {"key": key, "fencing_token": fencing_token, "note": note}
        freed: list[str | None] = []

        def work() -> dict[str, Any]:
            if request.method == "POST":
                freed.append(self._free(request, key, fencing_token))
                return {}
            return {"holder": shown.named(_locks().lock(key).holders(), fencing_token)}

        page = self._answer(request, "release", "Release a lock?", work, context)
        if not freed:
            return page
        (owner,) = freed
        if owner is None:
            messages.warning(request, f"{key} was given back meanwhile: nothing was released.")
        else:
            messages.success(request, f"{key} was released, which was held by {owner}.")
        return HttpResponseRedirect(
            f"{reverse('admin:celery_locks_lock_key', current_app=self.admin_site.name)}?{urlencode({'key': key})}"
        )

    def _free(self, request: HttpRequest, key: str, fencing_token: int) -> str | None:
        app = current_app._get_current_object()
        holder = free_one(locks_for(app), app, key, fencing_token)
        if holder is None:
            return None
        logger.warning("%r, held by %s, was released in the admin by %s", key, holder.owner, request.user)
        self.log_change(request, Lock(key=key), f"Released it from {holder.owner}")
        return holder.owner

    def _answer(
        self,
        request: HttpRequest,
        template: str,
        title: str,
        read: Callable[[], dict[str, Any]],
        context: dict[str, Any],
    ) -> HttpResponse:
        """A page with what is read, or with why it could not be: never an empty list where nothing is known."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        status, error = 200, None
        try:
            found = read()
        except LockKeyError as failed:
            found, status, error = {}, 400, failed.message
        except (StoreUnavailable, LockConfigError) as failed:
            found, status, error = {}, 503, failed.message
        request.current_app = self.admin_site.name
        site = self.admin_site.each_context(request)
        shown_here = {**site, "opts": self.opts, "title": title, "error": error, **context, **found}
        return TemplateResponse(request, f"admin/celery_locks/{template}.html", shown_here, status=status)


def _locks() -> Locks:
    return locks_for(current_app._get_current_object())


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadRequest("fencing_token is a number")
    return int(text)
