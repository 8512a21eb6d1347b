"""The one codec for messages that are published again: a task's message as text.

Any process can publish the text later, also one that does not know the task. Parked and deferred messages and safety
copies are encoded here. They keep all headers, links, chord and group, and the address of the original message.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.exceptions import EncodeError
from kombu.message import Message
from kombu.serialization import dumps, registry
from kombu.utils import json as kombu_json

from celery_locks._runtime.clock import wall_time
from celery_locks.tasks._celery_patches import call_with_client
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
#: AMQP properties of a message that are published unchanged. Not ``user_id``, which the broker compares with the
#: connection's user.
_PROPERTIES = ("delivery_mode", "message_id", "timestamp", "type", "app_id", "expiration")
#: The delivery mode of messages that survive a restart of the broker.
_PERSISTENT = 2


def pack(task: Any, fields: Mapping[str, Any], **headers: Any) -> str:
    """Return the message of the task's present request.

    Args:
        task: The task.
        fields: The fields to add to our header.
        **headers: Other headers to set, such as ``eta``.

    Raises:
        EncodeError: No serializer that the app accepts can encode the arguments.
    """
    request = task.request
    original = request.properties or {}
    embedded = {name: getattr(request, name) for name in ("callbacks", "errbacks", "chain", "chord")}
    body = (request.args, request.kwargs, embedded)
    content_type, encoding, encoded = _encoded(task, body, original.get("content_type"))
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
        **{name: original.get(name) for name in _PROPERTIES},
        "correlation_id": request.correlation_id or request.id,
        "reply_to": request.reply_to or "",
        "priority": delivery.get("priority"),
    }
    return _packed(
        task.app,
        (encoded, content_type, encoding),
        with_fields(all_headers, **{**fields, "id": request.id}),
        properties,
        delivery,
    )


def pack_message(app: Any, message: Any, fields: Mapping[str, Any]) -> str:
    """Return a task's message of protocol 2, a ``Message`` of kombu, with fields added to our header."""
    body = bytes(message.body) if isinstance(message.body, memoryview) else message.body
    if isinstance(body, bytes) and message.content_encoding == "utf-8":
        body = body.decode()
    encoded = (body, message.content_type, message.content_encoding)
    names = (*_PROPERTIES, "correlation_id", "reply_to", "priority")
    properties = {name: message.properties.get(name) for name in names}
    headers = with_fields(message.headers, **{**fields, "id": message.headers["id"]})
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
        # kombu has decompressed the body, and compresses it again.
        "compression": headers.get("compression"),
        "headers": {name: value for name, value in without_deaths(headers).items() if name != "compression"},
        "expires_at": _expires_at(app, headers.get("expires")),
        "properties": properties,
        "exchange": exchange,
        "routing_key": routing_key,
    }
    return str(kombu_json.dumps(packed))  # type: ignore[no-untyped-call]


def publish_first(producer: Any, text: str, count: int, **policy: Any) -> None:
    """Publish a packed message that the broker delivers next, if it is a Redis; otherwise as `publish` does."""
    channel = producer.channel
    if not hasattr(channel, "conn_or_acquire"):  # not kombu's transport for Redis
        return publish(producer, text, fields={"count": count}, **policy)
    with channel.conn_or_acquire() as client:
        push_first = _PushesFirst(client)
        call_with_client(channel, push_first, lambda: publish(producer, text, fields={"count": count}, **policy))
    return None


def publish_rejected(producer: Any, text: str, **policy: Any) -> None:
    """Publish a packed message, for the worker that gets it to reject it: the broker may have a dead-letter queue."""
    publish(producer, text, fields={"rejected": True}, **policy)


class _PushesFirst:
    """A client of Redis that pushes at the end of a queue from which workers pop."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.lpush = client.rpush

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def publish(
    producer: Any,
    text: str,
    to: tuple[str, str] | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    **policy: Any,
) -> None:
    """Publish a packed message.

    Args:
        producer: A kombu ``Producer``.
        text: The message.
        to: Exchange and routing key; by default those of the original message.
        fields: Fields to add to our header.
        **policy: Options of ``Producer.publish``, such as ``retry``.
    """
    packed, body, properties = _unpacked(text)
    properties.setdefault("delivery_mode", _PERSISTENT)
    properties["expiration"] = _expiration(properties.get("expiration"), packed.get("expires_at"))
    exchange, routing_key = to or (packed["exchange"], packed["routing_key"])
    headers = packed["headers"]
    if fields:
        headers = with_fields(headers, id=headers["id"], **fields)
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


def message_of(text: str, channel: Any, delivery_tag: str) -> Message:
    """Return a packed message as a worker would get it from the broker.

    Args:
        text: The message.
        channel: Gets the acknowledgement: an object with ``basic_ack``, ``basic_reject`` and ``no_ack_consumers``.
        delivery_tag: What the channel gets with it.
    """
    packed, body, properties = _unpacked(text)
    headers = packed["headers"]
    # The broker has no copy of it: its run is owed from the start if its task acknowledges late.
    headers = with_fields(headers, id=headers["id"], count=0)
    delivery = {name: packed[name] for name in ("exchange", "routing_key")}
    message = Message(  # type: ignore[no-untyped-call]
        body,
        delivery_tag,
        packed["content_type"],
        packed["content_encoding"],
        {**delivery, "redelivered": False},
        properties,
        headers,
        channel=channel,
    )
    message.headers["compression"] = packed.get("compression")  # later, because this body is not compressed
    return message


def _unpacked(text: str) -> tuple[dict[str, Any], str | bytes, dict[str, Any]]:
    """Return a packed message, its body, and its properties that have a value."""
    packed = kombu_json.loads(text)  # type: ignore[no-untyped-call]
    body = b64decode(packed["body"]) if packed["binary"] else packed["body"]
    return packed, body, {name: value for name, value in packed["properties"].items() if value is not None}


def _expires_at(app: Any, expires: Any) -> float | None:
    """Return when a task expires, in seconds since 1970."""
    return maybe_make_aware(maybe_iso8601(expires), app.timezone).timestamp() if expires else None


def _expiration(milliseconds: str | None, expires_at: float | None) -> float | None:
    """Return the seconds that the broker keeps a message whose original had an ``expiration``.

    The message of an expired task has no limit, because a worker must get it to end the task.
    """
    if milliseconds is None:
        return None
    if expires_at is None:
        return int(milliseconds) / 1000
    left = expires_at - wall_time()
    return left if left > 0 else None


def _encoded(task: Any, body: tuple[Any, ...], original_type: str | None) -> tuple[str, str, str | bytes]:
    """Return content type, encoding and encoded body, by the original's serializer or another accepted one."""
    conf = task.app.conf
    serializer = registry.type_to_name.get(original_type, task.serializer)
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
