"""Locks in Django's admin: the list of keys, the page of a key, and the release of a lease by hand.

A page takes at most two reads of the store, for any number of locks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

from celery import current_app
from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_http_methods, require_safe

from celery_locks import LockConfigError, LockKeyError, Locks, StoreUnavailable
from celery_locks._logging import logger
from celery_locks._validation import DEFAULT_STORE
from celery_locks.contrib.django import contexts
from celery_locks.contrib.django.escaping import cut, escape_text, folded
from celery_locks.contrib.django.lease_reference import LeaseReference
from celery_locks.contrib.django.models import Lock
from celery_locks.keys.names import described
from celery_locks.keys.text import MAX_BYTES
from celery_locks.locks import store_names
from celery_locks.stores.types import Holder
from celery_locks.tasks.options import locks_for
from celery_locks.views import NEAR_SECONDS, read_key, release_by_fencing_token

log = logger(__name__)

#: The rows of a page of the list.
PAGE_ROWS = 100


@admin.register(Lock)
class LockAdmin(admin.ModelAdmin):
    """The pages of locks. They need the permission to view locks, and the release needs the permission to release."""

    def get_urls(self) -> list[Any]:
        """Return the addresses. Keys are in their queries, since a key may be any text."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.changelist_view), name="celery_locks_lock_changelist"),
            path("key/", view(self.key_view), name="celery_locks_lock_key"),
            path("release/", view(self.release_view), name="celery_locks_lock_release"),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return that no user adds locks."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return that no user changes locks."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return that no user deletes locks. They are released; see `has_release_permission`."""
        return False

    def has_release_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may release a lease."""
        return bool(self.has_view_permission(request) and request.user.has_perm("celery_locks.release_lock"))

    @method_decorator(require_safe)
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show a page of keys, and figures over all keys: ``?prefix=…&after=…&store=…``."""

        def read() -> dict[str, Any]:
            query = _query(request)
            prefix, after = query.get("prefix", ""), query.get("after") or None
            locks = _locks(query.get("store", ""))
            page, stats = locks.list(prefix, after, PAGE_ROWS), locks.stats(NEAR_SECONDS)
            return {
                **contexts.search_context(prefix, locks.store_name, store_names(_app().conf)),
                **contexts.page_context(page, prefix, after, locks.store_name),
                "stats": contexts.stats_context(stats),
                "store": folded(locks.url),
            }

        return self._answer(request, "locks", "Locks", read, extra_context or {})

    @method_decorator(require_safe)
    def key_view(self, request: HttpRequest) -> HttpResponse:
        """Show the holders and waiters of a key, or of a part of it: ``?key=…&part=…&store=…``."""

        def read() -> dict[str, Any]:
            query = _query(request)
            asked, part = query.get("key", ""), query.get("part", "")
            info, parts = read_key(_locks(query.get("store", "")), asked, part)
            return {
                "lock": contexts.lock_context(info, parts, self.has_release_permission(request)),
                "crumb": contexts.key_html(info.key, part),
                "longest": None if info.key == asked else MAX_BYTES,
            }

        return self._answer(request, "lock", "Lock", read, {"crumb": cut(request.GET.get("key", ""))})

    @method_decorator(require_http_methods(["GET", "HEAD", "POST"]))
    def release_view(self, request: HttpRequest) -> HttpResponse:
        """Ask whether to release the lease of the reference ``lease`` (GET), and release it (POST).

        Raises:
            PermissionDenied: The user may not release leases.
        """
        if not self.has_release_permission(request):
            raise PermissionDenied
        asked = request.POST if request.method == "POST" else request.GET
        try:
            lease = LeaseReference.read(asked.get("lease", ""))
        except BadRequest as failed:
            return self._page(request, "release", "Release a lock?", {"error": folded(str(failed))}, 400)
        query = contexts.key_query(lease.key, lease.part, lease.store)

        def work() -> dict[str, Any]:
            if request.method == "POST":
                self._release(request, lease)
                return {}
            return contexts.question_context(_locks(lease.store).info(lease.key, lease.part), lease)

        crumb = contexts.key_html(lease.key, lease.part)
        page = self._answer(request, "release", "Release a lock?", work, {"crumb": crumb, "crumb_link": query})
        if request.method != "POST" or page.status_code != 200:
            return page
        key_page = reverse("admin:celery_locks_lock_key", current_app=self.admin_site.name)
        return HttpResponseRedirect(f"{key_page}?{query}")

    def _release(self, request: HttpRequest, lease: LeaseReference) -> None:
        """Release a lease, record who did it, and report the outcome to the user."""
        key = contexts.key_html(lease.key, lease.part)
        try:
            holder = release_by_fencing_token(_locks(lease.store), lease.key, lease.fencing_token, lease.part)
        except StoreUnavailable as failed:
            message = f"{failed.message.rstrip('.')}. It may have been released all the same: look at the key again."
            raise StoreUnavailable(message, lease.key) from failed
        if holder is None:
            text = "The lease of {} had ended before: nothing was released. {}"
            messages.warning(request, format_html(text, key, _state_now(lease)))
            return
        user = escape_text(str(request.user.get_username()))
        name = described(lease.key, lease.part) + _in_store(lease)
        log.warning("%s, held by %s, was released in the admin by %s", name, escape_text(holder.owner), user)
        messages.success(request, format_html("{} was released, which was held by {}.", key, cut(holder.owner)))
        if not self._log_release(request, lease, holder):
            messages.warning(request, "It is missing in the admin's log of changes, which could not be written.")

    def _log_release(self, request: HttpRequest, lease: LeaseReference, holder: Holder) -> bool:
        """Add the release to the admin's log. The lease is released already, so no error of the database is raised.

        Returns:
            Whether the entry could be written.
        """
        name = contexts.key_text(lease.key, lease.part)
        message = f"Released it from {escape_text(holder.owner)}{_in_store(lease)}"
        using = router.db_for_write(LogEntry)
        for write in (str, _as_ascii):  # MySQL may refuse an emoji; no database refuses ASCII without a NUL
            try:
                with transaction.atomic(using=using):  # an error here leaves a transaction of the request usable
                    self.log_change(request, Lock(key=write(name)), write(message))
                return True
            except Exception as error:  # noqa: PERF203 - from the database, or from a receiver of its signals
                failed = error
        log.warning("the release of %r is missing in the admin's log", lease.key, exc_info=failed)
        return False

    def _answer(
        self,
        request: HttpRequest,
        template: str,
        title: str,
        read: Callable[[], dict[str, Any]],
        context: dict[str, Any],
    ) -> HttpResponse:
        """Return a page with the result of a read, or with its error."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            return self._page(request, template, title, {**context, **read()}, 200)
        except BadRequest as failed:
            status, error = 400, str(failed)
        except LockKeyError as failed:
            status, error = 400, failed.message
        except (StoreUnavailable, LockConfigError) as failed:
            status, error = 503, failed.message
        return self._page(request, template, title, {**context, "error": folded(error)}, status)

    def _page(
        self, request: HttpRequest, template: str, title: str, context: dict[str, Any], status: int
    ) -> HttpResponse:
        request.current_app = self.admin_site.name
        site = self.admin_site.each_context(request)
        whole = {**site, "opts": self.opts, "title": title, **context}
        return TemplateResponse(request, f"admin/celery_locks/{template}.html", whole, status=status)


def _app() -> Any:
    return current_app._get_current_object()


def _locks(store: str) -> Locks:
    """Return the locks in a store, by default in the default store.

    Raises:
        BadRequest: There is no store of this name.
        LockConfigError: No store is set.
    """
    app, names = _app(), store_names(_app().conf)
    if store and store not in names:
        raise BadRequest(f"no store has the name {store!r}: the names are {', '.join(map(repr, names))}")
    return locks_for(app, store or DEFAULT_STORE)


def _in_store(lease: LeaseReference) -> str:
    return "" if lease.store == DEFAULT_STORE else f" in the store {escape_text(lease.store)}"


def _state_now(lease: LeaseReference) -> SafeString | str:
    try:
        return contexts.state_html(_locks(lease.store).info(lease.key, lease.part))
    except StoreUnavailable:
        return "Whether it is held now is unknown: the store can't be reached."


def _query(request: HttpRequest) -> QueryDict:
    """Return the query.

    Raises:
        BadRequest: It is not UTF-8. Django would replace the bytes by U+FFFD, and so read another key.
    """
    try:
        unquote_to_bytes(request.META.get("QUERY_STRING", "")).decode()
    except UnicodeDecodeError:
        raise BadRequest("the query of this address is not UTF-8 text: write keys in UTF-8, percent-encoded") from None
    return request.GET


def _as_ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
