"""Frigate's own payloads, unchanged: `{prefix}/events`, `/reviews`, `/tracked_object_update` and `/available`.

Every update of an object or a review is an event of its own; what is sent again folds. Unknown keys are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from edge.contract.native import Identity, Reading, checked, sentence
from edge.contract.strict_json import Limits, loads
from edge.errors import Rejected

#: What is read below a prefix.
SUBJECTS = ("events", "reviews", "tracked_object_update", "available")

#: Cameras Frigate makes up while it plays a recording again: nothing happens before them.
REPLAY = "_replay_"

_Id = Annotated[str, StringConstraints(min_length=1, max_length=150)]
_Camera = Annotated[str, StringConstraints(min_length=1, max_length=100)]
_Unix = Annotated[float, Field(ge=946_684_800, lt=7_258_118_400)]


class _Loose(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class _Object(_Loose):
    id: _Id
    camera: _Camera
    label: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    frame_time: _Unix | None = None
    start_time: _Unix | None = None
    end_time: _Unix | None = None
    score: float | None = None
    current_zones: list[str] = []
    entered_zones: list[str] = []


class _ReviewData(_Loose):
    objects: list[str] = []
    zones: list[str] = []
    metadata: dict[str, Any] | None = None


class _Review(_Loose):
    id: _Id
    camera: _Camera
    start_time: _Unix
    end_time: _Unix | None = None
    severity: Literal["alert", "detection"]
    data: _ReviewData = _ReviewData()


class _Described(_Loose):
    id: _Id
    camera: _Camera | None = None
    timestamp: _Unix | None = None


@dataclass(frozen=True, slots=True)
class Frigate:
    """Which topics are Frigate's, and how its cameras are called here.

    `cameras`: Frigate's name, or `prefix/name` where two instances use one name, to the camera of the plant file. A
    name that is not in it is the camera's own.
    """

    prefixes: tuple[str, ...] = ()
    cameras: Mapping[str, str] = field(default_factory=dict)

    def topics(self) -> list[str]:
        return [f"{prefix}/{name}" for prefix in self.prefixes for name in SUBJECTS]

    def subject(self, topic: str) -> tuple[str, str] | None:
        """(prefix, subject) of a topic of Frigate's; None for any other."""
        prefix, _, name = topic.rpartition("/")
        return (prefix, name) if prefix in self.prefixes and name in SUBJECTS else None

    def identify(self, prefix: str, subject: str, payload: bytes, limits: Limits) -> Identity | None:
        """None for `available`, which has nothing to be recognised by. Raises `Rejected`."""
        if subject == "available":
            return None
        raw = loads(payload, limits)
        now = _now(raw, subject)
        identity, camera = now.get("id"), now.get("camera")
        if not isinstance(identity, str) or not 1 <= len(identity) <= 150:
            return None
        source = f"{prefix}/{camera}" if isinstance(camera, str) and 1 <= len(camera) <= 100 else prefix
        return Identity(source, _event_id(raw, now))

    def interpret(
        self, prefix: str, subject: str, payload: bytes, *, received_at: datetime, fallback_id: str, limits: Limits
    ) -> Reading:
        """Raises `Rejected`."""
        if subject == "available":
            return self._available(prefix, payload, received_at, fallback_id)
        raw = loads(payload, limits)
        now = _now(raw, subject)
        update = raw.get("type")
        if not isinstance(update, str):
            raise Rejected("The field type is wrong: it should say what kind of update this is.")
        try:
            if subject == "events":
                return self._object(prefix, raw, _Object.model_validate(now), received_at, limits)
            if subject == "reviews":
                return self._review(prefix, raw, _Review.model_validate(now), received_at, limits)
            return self._described(prefix, raw, _Described.model_validate(now), received_at, limits)
        except ValidationError as error:
            raise Rejected(sentence(error)) from error

    def _object(self, prefix: str, raw: dict[str, Any], now: _Object, received_at: datetime, limits: Limits) -> Reading:
        body = {
            "label": now.label, "count": 1, "score": now.score, "update": raw["type"], "object": now.id,
            "zones": now.current_zones, "frigate": raw,
        }  # fmt: skip
        seen = now.end_time if raw["type"] == "end" else now.frame_time
        seen = seen or now.frame_time or now.start_time
        return self._reading(prefix, "detection", now.camera, raw, seen, received_at, body, limits)

    def _review(self, prefix: str, raw: dict[str, Any], now: _Review, received_at: datetime, limits: Limits) -> Reading:
        body = {
            "review": now.id, "update": raw["type"], "severity": now.severity, "labels": now.data.objects,
            "zones": now.data.zones, "metadata": now.data.metadata, "frigate": raw,
        }  # fmt: skip
        ended = now.end_time if raw["type"] in ("end", "genai") else None
        return self._reading(prefix, "review", now.camera, raw, ended or now.start_time, received_at, body, limits)

    def _described(
        self, prefix: str, raw: dict[str, Any], now: _Described, received_at: datetime, limits: Limits
    ) -> Reading:
        body = {"object": now.id, "update": raw["type"], "frigate": raw}
        return self._reading(prefix, "object_update", now.camera, raw, now.timestamp, received_at, body, limits)

    def _available(self, prefix: str, payload: bytes, received_at: datetime, fallback_id: str) -> Reading:
        try:
            state = payload.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise Rejected(f"The payload is not valid UTF-8 (byte {error.start}).") from error
        if state not in ("online", "stopped", "offline"):
            raise Rejected(f"Frigate's availability is {state[:50]!r}; known are online, stopped, offline.")
        # Stopped on purpose is no fault of a camera.
        kind = "stopped" if state == "stopped" else "health"
        return _make(prefix, kind, None, fallback_id, received_at, {"state": state})

    def _reading(
        self, prefix: str, kind: str, camera: str | None, raw: dict[str, Any], seen: float | None,
        received_at: datetime, body: dict[str, Any], limits: Limits,
    ) -> Reading:  # fmt: skip
        occurred_at = received_at
        if seen is not None:
            occurred_at = checked(datetime.fromtimestamp(seen, UTC), received_at, limits)
        source = f"{prefix}/{camera}" if camera else prefix
        # What identifies an event is read from the payload, so that it cannot differ from what the inbox has stored.
        event_id = _event_id(raw, raw if kind == "object_update" else raw["after"])
        if camera and camera.startswith(REPLAY):
            kind, camera = "replay", None
        ours = self.cameras.get(f"{prefix}/{camera}", self.cameras.get(camera, camera)) if camera else None
        kept = {key: value for key, value in body.items() if value is not None}
        return _make(source, kind, ours, event_id, occurred_at, kept)


def _now(raw: dict[str, Any], subject: str) -> dict[str, Any]:
    now = raw if subject == "tracked_object_update" else raw.get("after")
    if not isinstance(now, dict):
        raise Rejected("The field after is wrong: it should be an object.")
    return now


def _event_id(raw: dict[str, Any], now: dict[str, Any]) -> str:
    """The object's or review's id, the kind of update, and what tells this update from the others of its kind."""
    update = raw.get("type")
    written = json.dumps(now, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(written).hexdigest()[:16]
    return f"{now['id']}/{update[:20] if isinstance(update, str) else ''}/{digest}"


def _make(
    source: str, kind: str, camera_id: str | None, event_id: str, occurred_at: datetime, body: dict[str, Any]
) -> Reading:
    return Reading(
        event_class="camera", kind=kind, source=source, event_id=event_id, sequence=None, occurred_at=occurred_at,
        site="", area="", line="", cell="", camera_id=camera_id, worker_id=None, body=body,
    )  # fmt: skip
