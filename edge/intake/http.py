"""The HTTP door: one event, or many as NDJSON; each is answered for itself, and only after COMMIT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge.contract import Limits
from edge.db import Database
from edge.errors import Rejected
from edge.intake.inbox import Arrival, store

#: Events one request may bring.
ITEMS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class ItemResult:
    """`stored` is True once the event is committed, `duplicate` when it had been before."""

    source: str | None
    id: str | None
    stored: bool
    duplicate: bool
    reason: str | None = None


def accept_http(
    database: Database,
    topic: str,
    items: Sequence[bytes],
    limits: Limits,
    *,
    content_type: str = "application/json",
    properties: Mapping[str, str] | None = None,
) -> list[ItemResult]:
    """Store events that came over HTTP under an MQTT topic. Raises `Rejected` for a topic that names no source.

    `properties`: the attributes of a CloudEvent in binary mode, without the `ce-` of their headers.

    An item that cannot be understood is stored all the same and ends in quarantine with its reason.
    """
    if topic.count("/") != 6 or "+" in topic or "#" in topic or not all(topic.split("/")):
        raise Rejected(f"The topic {topic[:200]!r} is not of the form root/site/area/line/cell/class/source.")
    if len(items) > ITEMS_MAX:
        raise Rejected(f"There are {len(items)} events in this request; send at most {ITEMS_MAX} at once.")
    arrivals = [Arrival("http", topic, item, content_type, properties or {}) for item in items]
    return [
        ItemResult(
            source=result.identity.source if result.identity else None,
            id=result.identity.event_id if result.identity else None,
            stored=True,
            duplicate=result.duplicate,
            reason=None if result.identity else "It has no readable id: a repeat of it cannot be recognised.",
        )
        for result in store(database, arrivals, limits)
    ]
