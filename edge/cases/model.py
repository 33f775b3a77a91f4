"""What a case is: one anomaly or incident, and once closed, its cause and the fix that was tried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args
from uuid import UUID

Kind = Literal["anomaly", "incident"]
Status = Literal["open", "acknowledged", "closed"]
Severity = Literal["low", "medium", "high", "critical"]
Outcome = Literal["held", "recurred", "unknown"]
Language = Literal["th", "en", "mixed"]
Origin = Literal["event", "import", "person"]

KINDS: tuple[Kind, ...] = get_args(Kind)
STATUSES: tuple[Status, ...] = get_args(Status)
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
LANGUAGES: tuple[Language, ...] = get_args(Language)

#: Types that name no problem. Only a case that reads alike counts as the return of one of these.
VAGUE_TYPES: tuple[str, ...] = ("report", "unspecified")

#: The collection that indexes each kind of case.
COLLECTION: dict[Kind, str] = {"anomaly": "anomaly_patterns", "incident": "incident_reports"}


@dataclass(frozen=True, slots=True)
class Zone:
    """A place a camera watches: one ISA-95 cell."""

    id: str
    area_id: str
    line: str
    cell: str
    name_th: str
    name_en: str
    area_th: str
    area_en: str


@dataclass(frozen=True, slots=True)
class Case:
    """One row of `cases`. `record_id` is what people call it; `occurrences` counts the alarms folded into it.

    `chatter_source` sent its alarms too often to be read, last at `chatter_at`. `outcome_by` says so of the fix since
    `outcome_at`: "appliance", or a person; in the case `recurred_as` the problem came back. Nobody took it in time since
    `overdue_at`, and for that it was escalated at `escalated_at`. `told_th` and `told_en`: the description in both
    languages, where it is the appliance's own.
    """

    id: UUID
    site_id: str
    record_id: str
    kind: Kind
    status: Status
    type: str
    severity: Severity
    origin: Origin
    description: str
    language: Language
    root_cause: str | None
    resolution: str | None
    outcome: Outcome
    zone_id: str | None
    camera_id: str | None
    worker_id: str | None
    tags: tuple[str, ...]
    occurred_at: datetime
    last_seen_at: datetime
    occurrences: int
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    closed_at: datetime | None
    closed_by: str | None
    minutes_to_restore: int | None
    version: int
    zone: Zone | None
    chatter_source: str | None = None
    chatter_at: datetime | None = None
    outcome_by: str | None = None
    outcome_at: datetime | None = None
    recurred_as: str | None = None
    overdue_at: datetime | None = None
    escalated_at: datetime | None = None
    told_th: str | None = None
    told_en: str | None = None

    def told(self, reader: str) -> tuple[str, Language]:
        """What happened, and in which language that is: the appliance's own words in those of the `reader` ("th" or
        "en"), a person's words as they were typed."""
        own: tuple[str | None, Language] = (self.told_th, "th") if reader == "th" else (self.told_en, "en")
        return (own[0], own[1]) if own[0] else (self.description, self.language)


@dataclass(frozen=True, slots=True)
class Impact:
    """What the findings behind a case cost: seconds in all; workers and share of output (0..1) of the worst one."""

    findings: int
    seconds_lost: float
    workers_affected: int
    productivity_loss: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a detector found, with its reason in both languages."""

    detector: str
    type: str
    severity: Severity
    at: datetime
    reason_th: str
    reason_en: str
    seconds_lost: float
    workers_affected: int
    productivity_loss: float


@dataclass(frozen=True, slots=True)
class Match:
    """A past case that resembles another: `score` is 0..1."""

    case: Case
    score: float


@dataclass(frozen=True, slots=True)
class LiveCase:
    """A case on the live board, its best past cases beside it. `indexed` is False until the worker has looked."""

    case: Case
    matches: tuple[Match, ...]
    indexed: bool
    impact: Impact | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    at: datetime
    actor: str
    action: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """An event behind a case. `late`: it came long after it had happened."""

    inbox_id: int
    event_class: str
    kind: str
    source: str
    event_id: str
    occurred_at: datetime
    body: dict[str, Any]
    late: bool = False


@dataclass(frozen=True, slots=True)
class NewCase:
    """What is known when a case is opened or imported. `record_id` None: the appliance numbers it."""

    kind: Kind
    type: str
    severity: Severity
    origin: Origin
    description: str
    language: Language
    occurred_at: datetime
    zone_id: str | None = None
    camera_id: str | None = None
    worker_id: str | None = None
    tags: tuple[str, ...] = ()
    record_id: str | None = None
    root_cause: str | None = None
    resolution: str | None = None
    outcome: Outcome = "unknown"
    closed_at: datetime | None = None
    minutes_to_restore: int | None = None
