"""What detectors and sessions read and say. Everything here is plain data: times are aware, durations are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Severity = Literal["low", "medium", "high", "critical"]

#: The kind of an observation that only says what time it is: what has *not* been seen is found by it.
CLOCK = "clock"


@dataclass(frozen=True, slots=True)
class Observation:
    """One understood event, placed. `kind` is class/kind, such as "worker/step"; `ref` is its row in the inbox."""

    at: datetime
    kind: str
    source: str
    event_id: str
    zone_id: str | None
    camera_id: str | None
    worker_id: str | None
    body: Mapping[str, Any]
    ref: int


@dataclass(frozen=True, slots=True)
class Words:
    """The same sentence twice."""

    th: str
    en: str

    def in_(self, language: Literal["th", "en"]) -> str:
        return self.th if language == "th" else self.en


@dataclass(frozen=True, slots=True)
class Finding:
    """What a detector saw go wrong, with its reason in words and its evidence.

    `seconds_lost`: work time this cost so far, as far as it can be told. `productivity_loss`: the share of the time it
    took that was lost, 0 to 1. `evidence`: the observations behind it, by `ref`, the latest ones. `again`: what was
    found before still goes on; it belongs to the case that is open for it and opens none.
    """

    detector: str
    type: str
    severity: Severity
    words: Words
    at: datetime
    evidence: tuple[int, ...]
    seconds_lost: float = 0.0
    workers_affected: int = 0
    productivity_loss: float = 0.0
    tags: tuple[str, ...] = ()
    incident: bool = False
    again: bool = False
