"""What could not be understood: to be found, taken out with its bytes, and tried again after a fix."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from edge.db import Database, Row

#: Rows that are read or put back at once.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which ones. None: any. `source` is its exact name; `topic` and `reason` a part of theirs; `text` a part of the
    payload, byte for byte; `since` (inclusive) and `until` say when it came.
    """

    ids: tuple[int, ...] | None = None
    source: str | None = None
    topic: str | None = None
    reason: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None


ANY = Wanted()


def find(database: Database, wanted: Wanted = ANY, *, before: int | None = None, limit: int = _PAGE) -> list[Row]:
    """Latest first; `before` is the `inbox_id` the last page ended with."""
    values: dict[str, Any] = asdict(wanted)
    for name, value in values.items():
        if isinstance(value, str):
            # No text in the database holds a NUL, so none can match; the driver would refuse to ask.
            values[name] = value.replace("\x00", "\ufffd") or None
    values["ids"] = None if wanted.ids is None else list(wanted.ids)
    with database.transaction() as tx:
        return tx.all("quarantine_find", before=before, limit=limit, **values)


def every(database: Database, wanted: Wanted = ANY) -> Iterator[Row]:
    """All of them, a page at a time."""
    before = None
    while rows := find(database, wanted, before=before):
        yield from rows
        before = rows[-1]["inbox_id"]


def line(row: Row) -> str:
    """One of them as a line of NDJSON; its bytes as Base64."""
    kept = {key: row[key] for key in ("reason", "door", "topic", "content_type", "properties", "source", "event_id")}
    times = {"received_at": row["received_at"].isoformat(), "at": row["at"].isoformat()}
    payload = base64.b64encode(bytes(row["payload"])).decode()
    return json.dumps({"id": row["inbox_id"], **kept, **times, "payload_base64": payload}, ensure_ascii=False) + "\n"


def replay(database: Database, wanted: Wanted = ANY) -> int:
    """Put them back into the inbox. Returns how many. What still cannot be understood comes back with its reason."""
    released = 0
    before = None
    while rows := find(database, wanted, before=before):
        before = rows[-1]["inbox_id"]
        released += _release(database, [row["inbox_id"] for row in rows])
    return released


def _release(database: Database, ids: Sequence[int]) -> int:
    with database.transaction() as tx:
        count = tx.run("quarantine_release", ids=list(ids))
        tx.one("inbox_announce")
    return count
