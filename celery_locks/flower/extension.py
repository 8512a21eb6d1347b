"""Where the panel is put into Flower: routes, navigation, options, events."""

from __future__ import annotations

from typing import Any

from flower import events, urls
from tornado.options import define, options
from tornado.web import url

from celery_locks import LockConfigError, _logging, metrics
from celery_locks._validation import DEFAULT_STORE
from celery_locks.flower import api, navigation, pages
from celery_locks.flower.access import host_name
from celery_locks.flower.panel import DEFAULT_POLL, panel_of, stores_of

logger = _logging.logger(__name__)

#: ``url`` with a name: Flower's ``--url_prefix`` keeps only those whole, and templates find them by it.
ROUTES = [
    url(r"/locks", pages.IndexPage, name="locks"),
    url(r"/locks/data", pages.IndexData, name="locks-data"),
    url(r"/locks/key", pages.KeyPage, name="locks-key"),
    url(r"/locks/key/data", pages.KeyData, name="locks-key-data"),
    url(r"/locks/release", pages.Release, name="locks-release"),
    url(r"/locks/static/(.+)", pages.StaticFile, name="locks-static"),
    url(r"/api/locks", api.Index, name="api-locks"),
    url(r"/api/locks/key", api.Key, name="api-locks-key"),
    url(r"/api/locks/release", api.Release, name="api-locks-release"),
    url(r"/api/locks/release-owned", api.ReleaseOwned, name="api-locks-release-owned"),
]


def install() -> None:
    """See `celery_locks.flower.install`."""
    if any(getattr(route, "name", None) == "locks" for route in urls.handlers):
        return
    define_options()
    hear_events()
    navigation.install(urls.settings)
    urls.handlers[0:0] = ROUTES  # the list that every Flower is made of


def define_options() -> None:
    """Command line (``--locks_url=…``), environment (``FLOWER_LOCKS_URL``) and flowerconfig.py take them all."""
    known = options.as_dict()
    for name, default, kind, text in (
        ("locks_url", None, str, "lock store to show; those of the Celery app if not given"),
        ("locks_prefix", None, str, "what the names of the locks begin with; that of the Celery app if not given"),
        ("locks_poll", DEFAULT_POLL, float, "seconds between two looks for the history of locks; 0 for none"),
    ):
        if name not in known:
            define(name, default=default, type=kind, help=text)
    if "locks_hosts" not in known:
        text = "host names, besides its own, under which a Flower without a login releases locks"
        define("locks_hosts", default=[], type=str, multiple=True, help=text)


def hear_events() -> None:
    """Starts the watch with Flower's receiver of events, and takes from it those of locks."""
    # The class of the thread that receives, and not that of its state: the state is pickled by --persistent.
    start, on_event = events.Events.start, events.Events.on_event

    def start_with_watch(self: Any) -> None:
        check_hosts()
        serve_metrics(self.capp)
        for store in stores_of(self.capp):
            self.io_loop.add_callback(panel_of(self.capp, store).watch)
        start(self)

    def hear(self: Any, event: dict[str, Any]) -> None:
        try:
            if str(event.get("type")).startswith("lock-"):
                panel_of(self.capp, event.get("store", DEFAULT_STORE)).history.hear(event)
        except LookupError:  # a store that this Flower does not show
            pass
        except Exception:  # Flower goes on without
            logger.exception("an event of locks could not be read")
        on_event(self, event)

    events.Events.start, events.Events.on_event = start_with_watch, hear


def check_hosts() -> None:
    """Warns of what ``--locks_hosts`` names that is no host, since a release under it would be refused."""
    for given in options.locks_hosts:
        if host_name(given) is None:
            logger.warning("--locks_hosts: %s is no host name: give names such as flower.example.org", given)


def serve_metrics(app: Any) -> None:
    """Have Flower's own ``/metrics`` report on the stores: it serves what prometheus_client's default registry has."""
    panels = {store: panel_of(app, store) for store in stores_of(app)}
    try:
        panels[DEFAULT_STORE].locks()
        metrics.watch({store: panel.locks for store, panel in panels.items()})
    except LockConfigError as error:  # the page says it too
        logger.info("no metrics of locks: %s", error)
    except ValueError:  # another Flower in this process tells already
        logger.info("the metrics of locks are those of the first Flower of this process")
