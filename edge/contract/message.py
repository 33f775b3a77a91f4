"""One message as it came, whoever sent it: which contract it follows, who sent it, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from edge.contract import cloudevents, native
from edge.contract.frigate import Frigate
from edge.contract.native import Identity, Reading
from edge.contract.strict_json import Limits, loads
from edge.errors import Rejected


@dataclass(frozen=True, slots=True)
class Message:
    """`content_type` and `properties` (the user properties) exist with MQTT 5 only."""

    topic: str
    payload: bytes
    content_type: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


def identify(message: Message, limits: Limits, frigate: Frigate | None = None) -> Identity | None:
    """Who sent this and what they call it, or None where that cannot be read. Never raises for bad input.

    A payload that cannot be read is still known by the user properties `id` and `source` of its message: its sender can
    be told that it has arrived.
    """
    try:
        if frigate and (subject := frigate.subject(message.topic)):
            return frigate.identify(*subject, message.payload, limits)
        return native.identify(message.topic, _raw(message, limits))
    except Rejected:
        named = {key: message.properties[key] for key in ("id", "source") if key in message.properties}
        return native.identify(message.topic, named)


def interpret(
    message: Message, *, received_at: datetime, fallback_id: str, limits: Limits, frigate: Frigate | None = None
) -> Reading:
    """Read one event.

    `received_at` stands in for a missing time, `fallback_id` for a missing id (such an event cannot be told from
    its own repeat). Raises `Rejected`.
    """
    if frigate and (subject := frigate.subject(message.topic)):
        return frigate.interpret(
            *subject, message.payload, received_at=received_at, fallback_id=fallback_id, limits=limits
        )
    raw = _raw(message, limits)
    reading = native.interpret(message.topic, raw, received_at=received_at, fallback_id=fallback_id, limits=limits)
    if cloudevents.MARK in raw:
        # A CloudEvent's source is an address; the camera or the worker is who its topic names.
        who = message.topic.rpartition("/")[2]
        camera_id, worker_id = reading.camera_id and who, reading.worker_id
        return replace(reading, camera_id=camera_id, worker_id=who if reading.event_class == "worker" else worker_id)
    return reading


def _raw(message: Message, limits: Limits) -> dict[str, Any]:
    """The event as one object of the native contract."""
    if cloudevents.is_binary(message.properties):
        return cloudevents.from_binary(message.topic, message.payload, message.content_type, message.properties, limits)
    if cloudevents.is_batch(message.content_type):
        raise Rejected("A batch of CloudEvents cannot travel in one MQTT message; send each of them alone.")
    raw = loads(message.payload, limits)
    if cloudevents.is_structured(message.content_type, raw):
        return cloudevents.from_structured(message.topic, raw, limits)
    return raw
