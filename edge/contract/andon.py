"""What goes out: the state of a zone, and what happened to a case. Published as JSON, described by these models."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

Colour = Literal["green", "yellow", "red"]
Severity = Literal["low", "medium", "high", "critical"]

#: What may happen to a case, in the words of the field `event`.
EVENTS: dict[str, str] = {
    "opened": "A case was opened.",
    "found": "A detector found something that belongs to it; details: the reason in both languages and the impact.",
    "matched": "Past cases like it were looked up; details.matches: those that are really alike, best first.",
    "changed": "More is known of it: its words, kind, time or tags are others.",
    "overdue": "Nobody took it in time; details.minutes.",
    "escalated": "Its severity rose: details.severity, and minutes where it was because nobody took it.",
    "incident": "A person made an incident of it.",
    "acknowledged": "Somebody took it.",
    "closed": "It was closed; details: root_cause, resolution, outcome.",
    "reopened": "It is open again.",
    "merged": "It turned out to be part of another case, details.into, and is no case of its own any more.",
    "fix_held": "Nothing came back within details.days.",
    "fix_recurred": "The problem came back, in the case details.record_id.",
    "judged": "A person said whether the fix held: details.outcome.",
}


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BestMatch(_Out):
    """A past case that is alike, and its fix."""

    record_id: str
    score: Annotated[float, Field(ge=0, le=1)]
    band: str
    root_cause: str | None
    resolution: str
    outcome: Literal["held", "recurred", "unknown"]


class NewestCase(_Out):
    """The newest case of a zone that is not closed."""

    record_id: str
    kind: Literal["anomaly", "incident"]
    type: str
    severity: Severity
    status: Literal["open", "acknowledged"]
    description: str
    language: Literal["th", "en", "mixed"]
    occurred_at: datetime
    best: Annotated[BestMatch | None, Field(description="What fixed it before: one that held before one that did not.")]


class ZoneState(_Out):
    """What a signal tower over the zone shows."""

    zone: str
    area: str
    line: str
    cell: str
    name_th: str
    name_en: str
    colour: Annotated[
        Colour, Field(description="red: high or critical; yellow: low or medium; green: no case is open (IEC 60073).")
    ]
    flashing: Annotated[bool, Field(description="Whether anything is left that nobody has taken (ISA-18.2).")]
    severity: Annotated[Severity | None, Field(description="The highest of the cases that are not closed.")]
    open: Annotated[int, Field(ge=0, description="Cases nobody has taken.")]
    acknowledged: Annotated[int, Field(ge=0)]
    overdue: Annotated[int, Field(ge=0, description="Of the open ones, those nobody took in time.")]
    case: NewestCase | None
    at: datetime


class ToldCase(_Out):
    """A case as it was when the event happened."""

    record_id: str
    kind: Literal["anomaly", "incident"]
    type: str
    severity: Severity
    status: Literal["open", "acknowledged", "closed"]
    zone: str | None
    description: str
    language: Literal["th", "en", "mixed"]
    occurred_at: datetime
    occurrences: Annotated[int, Field(ge=1)]
    outcome: Literal["held", "recurred", "unknown"]


class CaseEvent(_Out):
    """Something happened to a case. `id` rises; the same id is the same event."""

    id: Annotated[int, Field(ge=1)]
    event: Annotated[str, Field(json_schema_extra={"enum": list(EVENTS)})]
    at: datetime
    by: Annotated[str, Field(description="Who did it: an account, or appliance.")]
    details: dict[str, Any]
    case: ToldCase


def colour_of(severity: str | None) -> Colour:
    """The lamp of a zone by the highest severity of its cases."""
    if severity is None:
        return "green"
    return "red" if severity in ("high", "critical") else "yellow"


def zone_topic(root: str, site: str, zone: str) -> str:
    """Where the state of a zone is retained. Raises nothing: what MQTT forbids in a level is percent-encoded."""
    return f"{root}/{site}/andon/zone/{_level(zone)}"


def case_topic(root: str, site: str, record_id: str) -> str:
    """Where the events of a case are published."""
    return f"{root}/{site}/andon/case/{_level(record_id)}"


def _level(text: str) -> str:
    return quote(text, safe="")
