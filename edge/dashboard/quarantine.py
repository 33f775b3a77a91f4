"""The events nobody could understand: a page for engineers, and the same for programs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import AwareDatetime, BaseModel

from edge.dashboard import urls
from edge.dashboard.api import WRITES, House, ProblemOut
from edge.dashboard.contexts import Poison, QuarantinePage
from edge.dashboard.services import Here, Visit
from edge.intake import quarantine
from edge.intake.quarantine import Wanted

router = APIRouter(include_in_schema=False)
api_router = APIRouter(
    prefix="/api/v1/quarantine",
    tags=["quarantine"],
    # What a sender sent by mistake may be anything: not for everybody who may read cases.
    dependencies=[WRITES],
    responses={
        code: {"model": ProblemOut, "content": {"application/problem+json": {}}} for code in (401, 403, 422, 503)
    },
)

PREVIEW_BYTES = 1_200
_SHOWN = 25

Words = Annotated[str | None, Query(max_length=400)]


def _wanted(
    source: Words = None,
    topic: Words = None,
    reason: Words = None,
    text: Words = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
) -> Wanted:
    return Wanted(None, source or None, topic or None, reason or None, text or None, since, until)


Search = Annotated[Wanted, Depends(_wanted)]


class QuarantinedOut(BaseModel):
    """One event as it came, and why it was not understood."""

    id: int
    at: datetime
    received_at: datetime
    reason: str
    door: str
    topic: str
    content_type: str | None
    properties: dict[str, str]
    source: str
    event_id: str | None
    payload_base64: str


class QuarantineOut(BaseModel):
    """`before`: hand it back for the next page; null on the last."""

    items: list[QuarantinedOut]
    before: int | None


class ReplayedOut(BaseModel):
    replayed: int


@api_router.get("")
def listed(
    house: House, wanted: Search, before: int | None = None, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> QuarantineOut:
    """Events that could not be understood, latest first. Every filter may be left out."""
    rows = quarantine.find(house.db, wanted, before=before, limit=limit + 1)
    items = [
        QuarantinedOut(
            id=row["inbox_id"],
            payload_base64=base64.b64encode(bytes(row["payload"])).decode(),
            **{name: row[name] for name in QuarantinedOut.model_fields if name not in ("id", "payload_base64")},
        )
        for row in rows[:limit]
    ]
    return QuarantineOut(items=items, before=items[-1].id if len(rows) > limit else None)


@api_router.get("/export", response_class=StreamingResponse)
def exported(house: House, wanted: Search) -> StreamingResponse:
    """All that match as NDJSON, their bytes as Base64."""
    return _export(house, wanted)


@api_router.post("/replay")
def replayed(house: House, wanted: Search, id: Annotated[list[int] | None, Query()] = None) -> ReplayedOut:
    """Try all that match once more, after the sender, the plant file or the appliance was corrected."""
    chosen = Wanted(tuple(id), *_values(wanted)[1:]) if id else wanted
    house.changed()
    return ReplayedOut(replayed=quarantine.replay(house.db, chosen))


@router.get(urls.QUARANTINE)
def page(here: Here, source: str = "", topic: str = "", reason: str = "", text: str = "", before: str = "") -> Response:
    here.need("engineer")
    wanted = Wanted(None, source or None, topic or None, reason or None, text or None)
    asked = {"source": source, "topic": topic, "reason": reason, "text": text}
    rows = quarantine.find(
        here.services.db, wanted, before=int(before) if before.isdecimal() and len(before) < 19 else None,
        limit=_SHOWN + 1,
    )  # fmt: skip
    shown = []
    for row in rows[:_SHOWN]:
        payload = bytes(row["payload"])
        preview, hexadecimal = _preview(payload[:PREVIEW_BYTES])
        shown.append(
            Poison(
                inbox_id=row["inbox_id"], at=row["at"], door=row["door"], topic=row["topic"], reason=row["reason"],
                size=len(payload), preview=preview, hexadecimal=hexadecimal,
            )
        )  # fmt: skip
    more = len(rows) > _SHOWN
    following = urls.with_query(urls.QUARANTINE, before=rows[_SHOWN - 1]["inbox_id"], **asked) if more else None
    context = QuarantinePage(
        tuple(shown), following, asked, any(asked.values()), urls.with_query(urls.QUARANTINE_EXPORT, **asked)
    )
    return here.render(context, "quarantine")


@router.get(urls.QUARANTINE_EXPORT)
def export_page(here: Here, wanted: Search) -> Response:
    here.need("engineer")
    return _export(here.services, wanted)


@router.post("/quarantine/{inbox_id}/release")
def release(here: Here, inbox_id: int) -> Response:
    """Try one again, after the plant file or the appliance was corrected."""
    here.need("engineer")
    return _released(here, Wanted(ids=(inbox_id,)))


@router.post("/quarantine/release")
def release_all(
    here: Here,
    source: Annotated[str, Form()] = "",
    topic: Annotated[str, Form()] = "",
    reason: Annotated[str, Form()] = "",
    text: Annotated[str, Form()] = "",
) -> Response:
    """Try all that match the search."""
    here.need("engineer")
    return _released(here, Wanted(None, source or None, topic or None, reason or None, text or None))


def _released(here: Visit, wanted: Wanted) -> Response:
    quarantine.replay(here.services.db, wanted)
    here.services.changed()
    return here.go(urls.with_query(urls.QUARANTINE, done="released"))


def _export(house: House, wanted: Wanted) -> StreamingResponse:
    def lines() -> Iterator[str]:
        for row in quarantine.every(house.db, wanted):
            yield quarantine.line(row)

    headers = {"Content-Disposition": 'attachment; filename="quarantine.ndjson"'}
    return StreamingResponse(lines(), media_type="application/x-ndjson", headers=headers)


def _values(wanted: Wanted) -> tuple[Any, ...]:
    return (wanted.ids, wanted.source, wanted.topic, wanted.reason, wanted.text, wanted.since, wanted.until)


def _preview(payload: bytes) -> tuple[str, bool]:
    """Bytes for a person to read: as text where they are text, else as a hex dump."""
    try:
        # A character cut in half at the end of the preview is no sign of broken text.
        text = payload.decode("utf-8", "strict" if len(payload) < PREVIEW_BYTES else "ignore")
        if all(letter.isprintable() or letter in "\n\r\t" for letter in text):
            return text, False
    except UnicodeDecodeError:
        pass
    lines = []
    for offset in range(0, min(len(payload), 256), 16):
        part = payload[offset : offset + 16]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in part)
        lines.append(f"{offset:04x}  {part.hex(' '):<47}  {letters}")
    return "\n".join(lines), True
