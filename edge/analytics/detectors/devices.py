"""Cameras that are silent, frozen, offline or flapping, and what controllers log."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import Field

from edge.analytics.detectors.base import Detector, Refs, State, Tuning
from edge.analytics.model import CLOCK, Finding, Observation, Severity, Words

Trouble = Literal["silent", "frozen", "offline", "flapping"]


class CameraTuning(Tuning):
    silent: float = Field(
        600, ge=0, le=86_400, description="A camera that said nothing for so many seconds is silent. 0: never."
    )
    same: int = Field(
        30, ge=0, le=10_000, description="So many equal motion scores in a row are a frozen picture. 0: never."
    )
    flaps: int = Field(
        6, ge=0, le=1_000, description="So many changes of its state within the window are flapping. 0: never."
    )
    window: float = Field(600, gt=0, le=86_400, description="Seconds within which changes count together.")


class CameraState(State):
    """`trouble`: what was found and still holds."""

    heard: datetime | None = None
    online: bool = True
    changes: tuple[datetime, ...] = ()
    score: float | None = None
    same: int = 0
    trouble: Trouble | None = None
    evidence: Refs = Refs()


class Camera(Detector[CameraTuning, CameraState]):
    """One trouble of a camera at a time; flapping stands until its changes have left the window."""

    name: ClassVar[str] = "camera"
    tuning: ClassVar[type[Tuning]] = CameraTuning
    state: ClassVar[type[State]] = CameraState

    def subject(self, seen: Observation) -> str | None:
        # A recorder has no zone and is no camera, and yet it may be away.
        ours = seen.camera_id or (seen.source if seen.kind == "camera/health" else None)
        return f"camera/{ours}" if ours else None

    def _step(self, state: CameraState, seen: Observation) -> tuple[CameraState, list[Finding]]:
        heard = state.heard
        state = self._read(state, seen)
        trouble, words = self._trouble(state, seen, heard)
        goes_on = trouble == state.trouble
        if trouble is None or (goes_on and seen.kind != "camera/health"):
            return state.model_copy(update={"trouble": trouble}), []
        after = state.model_copy(update={"trouble": trouble})
        severity: Severity = "low" if trouble == "flapping" else "medium"
        camera = seen.camera_id or seen.source
        finding = Finding(
            detector=self.name,
            type="camera_fault",
            severity=severity,
            words=Words(f"กล้อง {camera} {words.th}", f"Camera {camera} {words.en}"),
            at=seen.at,
            evidence=state.evidence.refs,
            tags=(trouble,),
            again=goes_on,
        )
        return after, [finding]

    def _read(self, state: CameraState, seen: Observation) -> CameraState:
        if seen.kind == CLOCK:
            return state
        update: dict[str, object] = {"heard": seen.at, "evidence": state.evidence.plus(seen)}
        if seen.kind == "camera/health":
            online = seen.body["state"] == "online"
            # "frozen" is told by `same` reaching its limit: a camera that says so itself is believed at once.
            update["same"] = self.settings.same or 1 if seen.body["state"] == "frozen" else 0
            update["online"] = online or seen.body["state"] == "frozen"
            if update["online"] != state.online:
                update["changes"] = (*state.changes, seen.at)[-100:]
        elif seen.kind == "camera/motion":
            score = float(seen.body["score"])
            # A dark and empty hall scores 0 all night; a live picture of anything else never repeats itself.
            equal = score == state.score and score > 0
            update |= {"score": score, "same": state.same + 1 if equal else 1}
        return state.model_copy(update=update)

    def _trouble(self, state: CameraState, seen: Observation, heard: datetime | None) -> tuple[Trouble | None, Words]:
        settings = self.settings
        changes = [at for at in state.changes if (seen.at - at).total_seconds() <= settings.window]
        if settings.flaps and len(changes) >= settings.flaps:
            window = f"{settings.window / 60:.0f}"
            return "flapping", Words(
                f"หลุด ๆ ติด ๆ {len(changes)} ครั้งใน {window} นาที",
                f"went off and on {len(changes)} times within {window} min",
            )
        if not state.online:
            return "offline", Words("ขาดการติดต่อ", "is offline")
        if state.same >= (settings.same or 1) and (settings.same or seen.kind == "camera/health"):
            return "frozen", Words("ภาพค้าง", "picture is frozen")
        silence = (seen.at - heard).total_seconds() if heard and seen.kind == CLOCK else 0.0
        if settings.silent and silence >= settings.silent:
            return "silent", Words(f"เงียบไป {silence / 60:.0f} นาที", f"has been silent for {silence / 60:.0f} min")
        return None, Words("", "")


class LogTuning(Tuning):
    level: Literal["error", "critical"] = Field("error", description="Logs from this level on are findings.")


class Log(Detector[LogTuning, State]):
    """Errors of controllers and services, in their own words. A critical one is an incident."""

    name: ClassVar[str] = "log"
    tuning: ClassVar[type[Tuning]] = LogTuning
    state: ClassVar[type[State]] = State

    def subject(self, seen: Observation) -> str | None:
        return f"source/{seen.source}" if seen.kind == "system/log" else None

    def step(self, state: State, seen: Observation) -> tuple[State, list[Finding]]:
        # Remembers nothing, so a late log is as good as any other.
        return self._step(state, seen)

    def _step(self, state: State, seen: Observation) -> tuple[State, list[Finding]]:
        level = seen.body["level"]
        critical = level == "critical"
        if not critical and (level != "error" or self.settings.level == "critical"):
            return state, []
        text = f"{seen.body['component']}: {seen.body['message']}"
        return state, [
            Finding(
                detector=self.name,
                type="system_fault",
                severity="critical" if critical else "high",
                words=Words(text, text),
                at=seen.at,
                evidence=(seen.ref,) if seen.ref else (),
                tags=(str(seen.body["component"]).lower(),),
                incident=critical,
            )
        ]
