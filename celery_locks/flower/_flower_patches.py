"""Everything that the pages of locks replace in Flower, and everything internal that they rely on.

Flower has no interface for plug-ins. `PATCHES` lists what `install` replaces. `RELIED_ON` lists what our handlers
override or read although Flower and Tornado don't document it. The tests check both against the installed versions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from flower import events, urls
from tornado.escape import to_unicode, utf8
from tornado.options import define, options
from tornado.web import TemplateModule, url

from celery_locks import LockConfigError, metrics
from celery_locks._logging import logger
from celery_locks._validation import DEFAULT_STORE
from celery_locks.flower import api, pages
from celery_locks.flower.access import host_name
from celery_locks.flower.navigation import with_entry
from celery_locks.flower.panel import DEFAULT_POLL_SECONDS, panel_of, stores_of

log = logger(__name__)

#: Our addresses. Flower's ``--url_prefix`` needs `url` objects: it drops the names and arguments of plain tuples.
ROUTES = [
    url(r"/locks", pages.ListPage, name="locks"),
    url(r"/locks/data", pages.ListData, name="locks-data"),
    url(r"/locks/key", pages.KeyPage, name="locks-key"),
    url(r"/locks/key/data", pages.KeyData, name="locks-key-data"),
    url(r"/locks/release", pages.Release, name="locks-release"),
    url(r"/locks/release-owned", pages.ReleaseOwned, name="locks-release-owned"),
    url(r"/locks/static/(.+)", pages.StaticFile, name="locks-static"),
    url(r"/api/locks", api.List, name="api-locks"),
    url(r"/api/locks/key", api.Key, name="api-locks-key"),
    url(r"/api/locks/release", api.Release, name="api-locks-release"),
    url(r"/api/locks/release-owned", api.ReleaseOwned, name="api-locks-release-owned"),
]


class Patch(NamedTuple):
    """A place in Flower that `install` replaces or extends.

    Attributes:
        target: The place, as a dotted path.
        why: The reason.
        versions: The versions of Flower on which it was tried.
        parameters: The parameters of the function that is replaced; empty for data.
        apply: Replaces it.
    """

    target: str
    why: str
    versions: str
    parameters: tuple[str, ...]
    apply: Callable[[], None]


# --- Replacements ---


def _add_routes() -> None:
    urls.handlers[0:0] = ROUTES


def _add_options() -> None:
    known = options.as_dict()
    for name, default, kind, text in (
        ("locks_url", None, str, "address of the lock store to show; by default the stores of the Celery app"),
        ("locks_prefix", None, str, "prefix of the locks; by default the prefix of the Celery app"),
        ("locks_poll", DEFAULT_POLL_SECONDS, float, "seconds between two reads for the history of locks; 0 for none"),
    ):
        if name not in known:
            define(name, default=default, type=kind, help=text)
    if "locks_hosts" not in known:
        text = "more host names under which a Flower without a login releases locks"
        define("locks_hosts", default=[], type=str, multiple=True, help=text)


def _add_navigation_entry() -> None:
    modules = urls.settings.setdefault("ui_modules", {})
    base = modules.get("Template", TemplateModule)  # another extension may have replaced it before

    class Template(base):  # type: ignore[misc,valid-type]
        """Renders Flower's templates within templates, and adds our entry to its navigation."""

        def render(self, path: str, **named: Any) -> Any:
            html = super().render(path, **named)
            if path != "navbar.html":
                return html
            hrefs = self.handler.reverse_url("broker"), self.handler.reverse_url("locks")
            return utf8(with_entry(to_unicode(html), *hrefs, named.get("active_tab") == "locks"))

    modules["Template"] = Template


def _wrap_start() -> None:
    start = events.Events.start

    def start_with_locks(self: Any) -> None:
        check_hosts()
        serve_metrics(self.capp)
        for store in stores_of(self.capp):
            self.io_loop.add_callback(panel_of(self.capp, store).watch)
        start(self)

    events.Events.start = start_with_locks


def _wrap_on_event() -> None:
    on_event = events.Events.on_event

    def on_event_of_locks(self: Any, event: dict[str, Any]) -> None:
        try:
            if str(event.get("type")).startswith("lock-"):
                panel_of(self.capp, event.get("store", DEFAULT_STORE)).history.record_event(event)
        except LookupError:  # Flower doesn't show this store
            pass
        except Exception:  # Flower must still get the event
            log.exception("an event of locks could not be read")
        on_event(self, event)

    events.Events.on_event = on_event_of_locks


#: In the order of `install`. The routes come last, since they mark that all of it is installed.
PATCHES = (
    Patch(
        "tornado.options.options",
        "Flower reads its options from here: command line, FLOWER_… variables and flowerconfig.py",
        "1.2 to 2.2",
        (),
        _add_options,
    ),
    Patch(
        "flower.urls.settings",
        "all pages render their navigation by the UI module Template",
        "1.2 to 2.2",
        (),
        _add_navigation_entry,
    ),
    Patch(
        "flower.events.Events.start",
        "Flower calls it once, when its options are read and its I/O loop exists",
        "1.2 to 2.2",
        ("self",),
        _wrap_start,
    ),
    Patch(
        "flower.events.Events.on_event",
        "it receives all Celery events. The state behind it can't be replaced, since --persistent pickles it",
        "1.2 to 2.2",
        ("self", "event"),
        _wrap_on_event,
    ),
    Patch(
        "flower.urls.handlers",
        "every Flower application is made with this list of routes",
        "1.2 to 2.2",
        (),
        _add_routes,
    ),
)

#: Undocumented names, with the parameters of functions, and the reason why we override or read them.
RELIED_ON: dict[str, tuple[tuple[str, ...], str]] = {
    "flower.views.BaseHandler.write_error": (
        ("self", "status_code", "kwargs"),
        "we answer errors of scripts with JSON",
    ),
    "flower.views.BaseHandler.check_xsrf_cookie": (("self",), "it skips the check without a login; ours never does"),
    "flower.views.BaseHandler.set_default_headers": (("self",), "we remove the header that opens the API to all sites"),
    "flower.views.BaseHandler.get_current_user": (("self",), "it authenticates the user for tornado.web.authenticated"),
    "flower.api.BaseApiHandler.prepare": (("self",), "it answers 401 without a login, as for all of Flower's API"),
    "flower.utils.strtobool": (("val",), "it reads FLOWER_UNAUTHENTICATED_API"),
    "tornado.template.Loader._create_template": (("self", "name"), "our templates extend those of Flower"),
    "tornado.web.RequestHandler.check_xsrf_cookie": (("self",), "we call it in place of Flower's"),
}


def install() -> None:
    """Apply all patches, once per process.

    Raises:
        AttributeError: This Flower lacks one of the places. Nothing was replaced.
    """
    if any(getattr(route, "name", None) == "locks" for route in urls.handlers):
        return
    _ = events.Events.start, events.Events.on_event
    for patch in PATCHES:
        patch.apply()


# --- At the start of Flower ---


def check_hosts() -> None:
    """Warn of values in ``--locks_hosts`` that are not host names: a release under them would be refused."""
    for given in options.locks_hosts:
        if host_name(given) is None:
            log.warning("--locks_hosts: %s is not a host name: give names such as flower.example.org", given)


def serve_metrics(app: Any) -> None:
    """Add the stores to prometheus_client's default registry, which Flower serves as ``/metrics``."""
    stores = {}
    for name in stores_of(app):
        panel = panel_of(app, name)
        try:
            panel.locks()
        except LockConfigError as error:  # its page shows the error, too
            log.info("no metrics of the lock store %s: %s", name, error)
        else:
            stores[name] = panel.locks
    try:
        if stores:
            metrics.watch(stores)
    except ValueError:  # the registry has them already
        log.info("the metrics of locks are those of the first Flower of this process")
