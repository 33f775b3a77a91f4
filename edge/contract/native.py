"""The appliance's own events: `{root}/{site}/{area}/{line}/{cell}/{class}/{source}`, one JSON object each.

The envelope is `id`, `source`, `sequence`, `time`, `schema` and `kind`; everything else is the body of that kind. Unknown body
fields are kept, unknown kinds are rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from edge.contract.strict_json import Limits, is_text
from edge.errors import Rejected

EventClass = Literal["camera", "worker", "system", "report"]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4_000)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Seconds = Annotated[float, Field(ge=0, le=86_400 * 7)]


class Body(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Detection(Body):
    label: Name
    count: Annotated[int, Field(ge=0, le=10_000)] = 1
    score: Annotated[float, Field(ge=0, le=1)] | None = None


class CameraIdle(Body):
    seconds: Seconds
    worker_id: Name | None = None


class Motion(Body):
    score: Annotated[float, Field(ge=0, le=1)]


class Ppe(Body):
    missing: Annotated[list[Name], Field(max_length=20)]
    worker_id: Name | None = None


class ZoneCount(Body):
    persons: Annotated[int, Field(ge=0, le=10_000)]


class StepObserved(Body):
    step: Name
    seconds: Seconds | None = None
    worker_id: Name | None = None


class Health(Body):
    state: Literal["online", "offline", "frozen"]


class Session(Body):
    product_type: Name | None = None


class WorkerStep(Body):
    step: Name
    seconds: Seconds | None = None


class Interval(Body):
    seconds: Seconds


class Index(Body):
    index_number: Annotated[int, Field(ge=0)]
    seconds: Seconds | None = None


class SystemLog(Body):
    level: Literal["debug", "info", "warning", "error", "critical"]
    component: Name
    message: Text


class Report(Body):
    text: Text
    severity: Literal["low", "medium", "high", "critical"] = "medium"
    worker_id: Name | None = None


#: class → kind → what its body must hold.
KINDS: dict[EventClass, dict[str, type[Body]]] = {
    "camera": {
        "detection": Detection,
        "idle": CameraIdle,
        "motion": Motion,
        "ppe": Ppe,
        "zone_count": ZoneCount,
        "step": StepObserved,
        "health": Health,
    },
    "worker": {
        "session_start": Session,
        "session_end": Session,
        "step": WorkerStep,
        "active": Interval,
        "idle": Interval,
        "index": Index,
    },
    "system": {"log": SystemLog},
    "report": {"report": Report},
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two deliveries the same event."""

    source: str
    event_id: str


@dataclass(frozen=True, slots=True)
class Reading:
    """One understood event. `body` holds every field that is not the envelope.

    `site`, `area`, `line`, `cell` say where. All four are empty where the topic does not say it: the place is then that
    of the camera, and nowhere in particular without one.
    """

    event_class: EventClass
    kind: str
    source: str
    event_id: str
    sequence: int | None
    occurred_at: datetime
    site: str
    area: str
    line: str
    cell: str
    camera_id: str | None
    worker_id: str | None
    body: dict[str, Any]


class Envelope(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)] | None = None
    source: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)] | None = None
    sequence: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    time: AwareDatetime | None = None
    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    kind: Name | None = None


_ENVELOPE = {"id", "source", "sequence", "time", "schema", "kind"}


def identify(topic: str, raw: dict[str, Any]) -> Identity | None:
    """Who sent this and what they call it, or None where that cannot be read."""
    try:
        envelope = Envelope.model_validate({key: raw[key] for key in ("id", "source") if key in raw})
    except ValidationError:
        return None
    source = envelope.source or topic.rpartition("/")[2]
    if not envelope.id or not source or not (is_text(source) and is_text(envelope.id)):
        return None
    return Identity(source, envelope.id)


def interpret(topic: str, raw: dict[str, Any], *, received_at: datetime, fallback_id: str, limits: Limits) -> Reading:
    """Read one event. Raises `Rejected`."""
    parts = place(topic)
    _, site, area, line, cell, event_class, source = parts
    try:
        envelope = Envelope.model_validate({key: value for key, value in raw.items() if key in _ENVELOPE})
        kind = envelope.kind or ("report" if event_class == "report" else "")
        model = KINDS[event_class].get(kind)
        if model is None:
            known = ", ".join(KINDS[event_class])
            raise Rejected(f"The kind {kind[:50]!r} is not known for the class {event_class}; known are {known}.")
        body = model.model_validate({key: value for key, value in raw.items() if key not in _ENVELOPE})
    except ValidationError as error:
        raise Rejected(sentence(error)) from error
    occurred_at = checked(in_utc(envelope.time) if envelope.time else received_at, received_at, limits)
    values = body.model_dump(mode="json", exclude_none=True)
    worker_id = values.get("worker_id") if event_class != "worker" else envelope.source or source
    return Reading(
        event_class=event_class,
        kind=kind,
        source=envelope.source or source,
        event_id=envelope.id or fallback_id,
        sequence=envelope.sequence,
        occurred_at=occurred_at,
        site=site,
        area=area,
        line=line,
        cell=cell,
        camera_id=(envelope.source or source) if event_class == "camera" else None,
        worker_id=worker_id if isinstance(worker_id, str) else None,
        body=values,
    )


def place(topic: str) -> tuple[str, str, str, str, str, EventClass, str]:
    """The seven levels of one of our own topics. Raises `Rejected` when it is none."""
    parts = topic.split("/")
    if len(parts) != 7:
        raise Rejected(f"The topic {topic[:200]} has {len(parts)} levels; root/site/area/line/cell/class/source has 7.")
    root, site, area, line, cell, event_class, source = parts
    if event_class not in KINDS:
        raise Rejected(f"The topic names the class {event_class[:50]!r}; known are {', '.join(KINDS)}.")
    return root, site, area, line, cell, event_class, source


def in_utc(time: datetime) -> datetime:
    """Raises `Rejected` for a time at the edge of the calendar."""
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise Rejected(f"The time {time.isoformat()} cannot be right.") from error


def checked(time: datetime, received_at: datetime, limits: Limits) -> datetime:
    """The time, if it can be right. Raises `Rejected`."""
    if 2500 <= time.year < 2700:
        raise Rejected(
            f"The time is in the year {time.year}, which looks like a Buddhist year; send {time.year - 543}."
        )
    if time.year < limits.earliest_year:
        raise Rejected(
            f"The time is in the year {time.year}, before the {limits.earliest_year} that intake.earliest_year allows."
        )
    if time > received_at + timedelta(hours=limits.ahead_hours):
        raise Rejected(
            f"The time {time.isoformat()} lies more than the {limits.ahead_hours} hours ahead of the appliance's clock "
            "that intake.ahead_hours allows."
        )
    return time


def sentence(error: ValidationError) -> str:
    """The first thing that is wrong, in words."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:100]
    return f"The field {where} is wrong: {first['msg'][0].lower()}{first['msg'][1:]}."
