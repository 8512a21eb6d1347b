"""A task's message as text, which any process can publish later, also one that does not know the task.

All messages that are published once more go through here: parked ones, deferred ones, safety copies. What is published
is the message that came, with all its headers, links, chord and group, to the exchange and routing key that it came by.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import Any
from weakref import WeakKeyDictionary

from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.exceptions import EncodeError
from kombu.serialization import dumps, registry
from kombu.transport.virtual import Channel as VirtualChannel
from kombu.utils import json as kombu_json

from celery_locks._runtime.clock import wall_time
from celery_locks.stores.parking import Parking, Push
from celery_locks.tasks.messages.header import with_fields
from celery_locks.tasks.messages.rabbitmq import address_of, without_deaths

#: Headers of Celery's message protocol 2 that a request keeps as attributes.
_HEADERS = (
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
)
#: Properties that brokers of AMQP give with a message, sent on as they came. Not ``user_id``, which the broker compares
#: with the user who sends.
_PROPERTIES = ("delivery_mode", "message_id", "timestamp", "type", "app_id", "expiration")
#: Delivery mode of brokers that have one: kept over a restart.
_PERSISTENT = 2


def pack(task: Any, ours: Mapping[str, Any], **headers: Any) -> str:
    """Return the message of the task's present request.

    Args:
        task: The task.
        ours: The fields to add to our own header.
        **headers: Other headers to set, such as ``eta``.

    Raises:
        EncodeError: The arguments can't be encoded by any serializer that the app accepts.
    """
    request = task.request
    came = request.properties or {}
    content_type, encoding, body = _encoded(task, _body(request), came.get("content_type"))
    all_headers = {
        **{name: request.__dict__.get(name) for name in _HEADERS},
        **(request.as_execution_options()["headers"] or {}),
        "compression": request.__dict__.get("compression"),
        "lang": "py",
        "task": request.__dict__.get("task") or task.name,
        "id": request.id,
        **headers,
    }
    delivery = request.delivery_info or {}
    properties = {
        **{name: came.get(name) for name in _PROPERTIES},
        "correlation_id": request.correlation_id or request.id,
        "reply_to": request.reply_to or "",
        "priority": delivery.get("priority"),
    }
    return _packed(
        task.app,
        (body, content_type, encoding),
        with_fields(all_headers, **{**ours, "id": request.id}),
        properties,
        delivery,
    )


def pack_message(app: Any, message: Any, ours: Mapping[str, Any]) -> str:
    """Return a task's message of protocol 2 as it came.

    Args:
        app: The app.
        message: kombu's ``Message``.
        ours: The fields to add to our own header.
    """
    body = bytes(message.body) if isinstance(message.body, memoryview) else message.body
    if isinstance(body, bytes) and message.content_encoding == "utf-8":
        body = body.decode()
    encoded = (body, message.content_type, message.content_encoding)
    names = (*_PROPERTIES, "correlation_id", "reply_to", "priority")
    properties = {name: message.properties.get(name) for name in names}
    headers = with_fields(message.headers, **{**ours, "id": message.headers["id"]})
    return _packed(app, encoded, headers, properties, message.delivery_info)


def _packed(
    app: Any,
    encoded: tuple[str | bytes, str, str],
    headers: Mapping[str, Any],
    properties: Mapping[str, Any],
    delivery: Mapping[str, Any],
) -> str:
    body, content_type, encoding = encoded
    exchange, routing_key = address_of(delivery)
    packed = {
        "body": body if isinstance(body, str) else b64encode(body).decode(),
        "binary": not isinstance(body, str),
        "content_type": content_type,
        "content_encoding": encoding,
        # kombu has decompressed the body.
        "compression": headers.get("compression"),
        "headers": {name: value for name, value in without_deaths(headers).items() if name != "compression"},
        "expires_at": _expires_at(app, headers.get("expires")),
        "properties": properties,
        "exchange": exchange,
        "routing_key": routing_key,
    }
    return str(kombu_json.dumps(packed))  # type: ignore[no-untyped-call]


def publish(
    producer: Any, text: str, to: tuple[str, str] | None = None, *, count: int | None = None, **policy: Any
) -> None:
    """Publish a message that was packed.

    Args:
        producer: A kombu ``Producer``.
        text: The message.
        to: Exchange and routing key; those that it came by, by default.
        count: The dispatch of its ticket that publishes it, for our header.
        **policy: Options of ``Producer.publish``, such as ``retry``.
    """
    packed = kombu_json.loads(text)  # type: ignore[no-untyped-call]
    body = b64decode(packed["body"]) if packed["binary"] else packed["body"]
    properties = {name: value for name, value in packed["properties"].items() if value is not None}
    properties.setdefault("delivery_mode", _PERSISTENT)
    properties["expiration"] = _expiration(properties.get("expiration"), packed.get("expires_at"))
    exchange, routing_key = to or (packed["exchange"], packed["routing_key"])
    headers = packed["headers"]
    if count is not None:
        headers = with_fields(headers, id=headers["id"], count=count)
    producer.publish(
        body,
        exchange=exchange,
        routing_key=routing_key,
        content_type=packed["content_type"],
        content_encoding=packed["content_encoding"],
        compression=packed.get("compression"),
        headers=headers,
        **properties,
        **policy,
    )


def pushed(app: Any, producer: Any, text: str, parking: Parking, within: float) -> Push | None:
    """Return what `publish` would push to which list, ``None`` unless the broker is the Redis that the store is.

    kombu prepares all of it. Only its last step, the push, is left to the store.
    """
    channel = producer.channel
    if not isinstance(channel, VirtualChannel) or not hasattr(channel, "conn_or_acquire"):
        return None  # not kombu's Redis
    if app not in _is_broker:
        with channel.conn_or_acquire() as client:
            _is_broker[app] = parking.is_broker(client.connection_pool.connection_kwargs)
    if not _is_broker[app]:
        return None
    recorder = _Recorder(channel.conn_or_acquire)
    channel.conn_or_acquire = lambda client=None: nullcontext(recorder)
    try:
        publish(producer, text)
    except _OtherwisePushedError:
        return None
    finally:
        del channel.conn_or_acquire
    if len(recorder.pushed) != 1:
        return None
    queue, element = recorder.pushed[0]
    prefix: str = getattr(channel, "global_keyprefix", "")
    return Push(prefix + queue, element, within)


#: Whether the broker of an app is its lock store too: looked at once.
_is_broker: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


class _OtherwisePushedError(Exception):
    """kombu pushes messages in a way that is not known here."""


class _Recorder:
    """A client that pushes nothing; what it is asked to read it reads."""

    def __init__(self, acquire: Any) -> None:
        self._acquire = acquire
        self.pushed: list[tuple[str, str]] = []

    def lpush(self, queue: str, element: str) -> None:
        self.pushed.append((queue, element))

    def smembers(self, name: str) -> Any:  # an exchange's queues
        with self._acquire() as client:
            return client.smembers(name)

    def __getattr__(self, name: str) -> Any:
        raise _OtherwisePushedError(name)


def _expires_at(app: Any, expires: Any) -> float | None:
    """When a task expires, by the machines' clocks."""
    return maybe_make_aware(maybe_iso8601(expires), app.timezone).timestamp() if expires else None


def _expiration(milliseconds: str | None, expires_at: float | None) -> float | None:
    """For how many seconds the broker is to keep a message that came with such a limit.

    Once the task has expired the message goes without one: a worker must get it, to end the task.
    """
    if milliseconds is None:
        return None
    if expires_at is None:
        return int(milliseconds) / 1000
    left = expires_at - wall_time()
    return left if left > 0 else None


def _body(request: Any) -> tuple[Any, ...]:
    embedded = {
        "callbacks": request.callbacks,
        "errbacks": request.errbacks,
        "chain": request.chain,
        "chord": request.chord,
    }
    return request.args, request.kwargs, embedded


def _encoded(task: Any, body: tuple[Any, ...], came_as: str | None) -> tuple[str, str, str | bytes]:
    """Content type, encoding, and the body as it travels: as it came if that is known, else as the app may send it."""
    conf = task.app.conf
    serializer = registry.type_to_name.get(came_as, task.serializer)
    first, *others = dict.fromkeys((serializer, task.serializer, conf.task_serializer, *conf.accept_content))
    try:
        return _dumps(body, first)
    except EncodeError:
        for serializer in others:
            with suppress(EncodeError):
                return _dumps(body, serializer)
        raise


def _dumps(body: Any, serializer: str) -> tuple[str, str, str | bytes]:
    encoded: tuple[str, str, str | bytes] = dumps(body, serializer=serializer)  # type: ignore[no-untyped-call]
    return encoded
