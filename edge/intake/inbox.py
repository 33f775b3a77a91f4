"""Raw bytes into the inbox, before anything is understood."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edge.contract import Frigate, Identity, Limits, Message, identify
from edge.db import Database
from edge.errors import Rejected


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message as it came."""

    door: Literal["mqtt", "http"]
    topic: str
    payload: bytes
    content_type: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """`identity` is None where source or id could not be read; such a message is kept, but not told from its repeat."""

    identity: Identity | None
    duplicate: bool


def store(
    database: Database, arrivals: Sequence[Arrival], limits: Limits, frigate: Frigate | None = None
) -> list[Stored]:
    """Commit all arrivals, or none. When this returns, they survive a power cut.

    Raises `Unavailable` when the database cannot take them now.
    """
    identities = [_identity(arrival, limits, frigate) for arrival in arrivals]
    with database.transaction() as tx:
        written = tx.all(
            "inbox_put",
            door=[arrival.door for arrival in arrivals],
            topic=[_clean(arrival.topic) for arrival in arrivals],
            content_type=[_clean(arrival.content_type) for arrival in arrivals],
            properties=[_written(arrival.properties) for arrival in arrivals],
            payload=[arrival.payload for arrival in arrivals],
            source=[identity and identity.source for identity in identities],
            event_id=[identity and identity.event_id for identity in identities],
        )
        if written:
            tx.one("inbox_announce")
    fresh = {Identity(row["source"], row["event_id"]) for row in written if row["source"] is not None}
    stored = []
    for identity in identities:
        stored.append(Stored(identity, duplicate=identity is not None and identity not in fresh))
        # Twice in one batch: the second of them is the repeat.
        if identity is not None:
            fresh.discard(identity)
    return stored


def _identity(arrival: Arrival, limits: Limits, frigate: Frigate | None) -> Identity | None:
    message = Message(arrival.topic, arrival.payload, arrival.content_type, arrival.properties)
    try:
        return identify(message, limits, frigate)
    except (Rejected, ValueError, RecursionError):
        # A fault in reading the name must never cost the bytes.
        return None


def _written(properties: Mapping[str, str]) -> str:
    return json.dumps({_clean(key): _clean(value) for key, value in properties.items()}, ensure_ascii=False)


def _clean(text: str | None) -> str | None:
    # Postgres cannot keep NUL or half a character in text; the payload itself is kept as bytes, untouched.
    return None if text is None else text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
