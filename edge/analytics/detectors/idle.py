"""Work that stands still: too long at once, or again and again for a little."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from pydantic import Field

from edge.analytics.detectors.base import Detector, Refs, State, Tuning
from edge.analytics.model import Finding, Observation, Words

#: Idle intervals that are no further apart than this are one.
JOIN = timedelta(seconds=10)


class IdleTuning(Tuning):
    seconds: float = Field(
        300, gt=0, le=86_400, description="Standing still this long is a finding; three times as long a severe one."
    )
    clear_seconds: float = Field(
        30, ge=0, le=3_600, description="Work for this long ends it; less is only an interruption."
    )
    motion: float = Field(0.2, ge=0, le=1, description="A motion score from here on counts as work.")


class IdleState(State):
    since: datetime | None = None
    until: datetime | None = None
    raised: int = 0
    active_since: datetime | None = None
    evidence: Refs = Refs()


class Idle(Detector[IdleTuning, IdleState]):
    """Idle intervals of one worker, or of the place a camera watches, joined to spans."""

    name: ClassVar[str] = "idle"
    tuning: ClassVar[type[Tuning]] = IdleTuning
    state: ClassVar[type[State]] = IdleState

    def subject(self, seen: Observation) -> str | None:
        if seen.kind in ("camera/idle", "camera/motion"):
            return f"camera/{seen.camera_id}"
        if seen.kind in ("worker/idle", "worker/active", "worker/step", "worker/index", "worker/session_end"):
            return f"worker/{seen.worker_id}"
        return None

    def _step(self, state: IdleState, seen: Observation) -> tuple[IdleState, list[Finding]]:
        if seen.kind == "worker/session_end":
            return IdleState(), []
        if seen.kind not in ("camera/idle", "worker/idle"):
            return self._worked(state, seen), []
        seconds = float(seen.body["seconds"])
        start = seen.at - timedelta(seconds=seconds)
        goes_on = state.since is not None and state.until is not None and start <= state.until + JOIN
        since = min(start, state.since) if goes_on and state.since else start
        evidence = (state.evidence if goes_on else Refs()).plus(seen)
        raised = state.raised if goes_on else 0
        stood = (seen.at - since).total_seconds()
        level = 2 if stood >= 3 * self.settings.seconds else 1 if stood >= self.settings.seconds else 0
        after = IdleState(since=since, until=seen.at, raised=max(level, raised), evidence=evidence)
        if not level:
            return after, []
        return after, [
            Finding(
                detector=self.name,
                type="excessive_idle",
                severity="high" if level == 2 else "medium",
                again=level <= raised,
                words=Words(
                    f"งานหยุดไป {stood / 60:.0f} นาที (กำหนดไม่เกิน {self.settings.seconds / 60:.0f} นาที)",
                    f"Work stood still for {stood / 60:.0f} min, the limit is {self.settings.seconds / 60:.0f} min",
                ),
                at=seen.at,
                evidence=evidence.refs,
                seconds_lost=stood,
                workers_affected=1,
                productivity_loss=1.0,
            )
        ]

    def _worked(self, state: IdleState, seen: Observation) -> IdleState:
        if seen.kind == "camera/motion" and float(seen.body["score"]) < self.settings.motion:
            return state.model_copy(update={"active_since": None})
        began = seen.at - timedelta(seconds=float(seen.body.get("seconds") or 0))
        active_since = min(began, state.active_since) if state.active_since else began
        if (seen.at - active_since).total_seconds() >= self.settings.clear_seconds:
            return IdleState(active_since=active_since)
        return state.model_copy(update={"active_since": active_since})


class MicroStopsTuning(Tuning):
    shortest: float = Field(10, ge=0, le=3_600, description="Shorter pauses are part of the work.")
    longest: float = Field(180, gt=0, le=86_400, description="Longer ones are not small; [idle] is for them.")
    count: int = Field(6, ge=2, le=100, description="So many within the window are a finding.")
    window: float = Field(3_600, gt=0, le=86_400, description="Seconds that are looked back.")


class MicroStopsState(State):
    stops: tuple[tuple[datetime, float, int], ...] = ()
    raised: bool = False


class MicroStops(Detector[MicroStopsTuning, MicroStopsState]):
    """Short stops of one station: each is nothing, many are a worn part."""

    name: ClassVar[str] = "micro_stops"
    tuning: ClassVar[type[Tuning]] = MicroStopsTuning
    state: ClassVar[type[State]] = MicroStopsState

    def subject(self, seen: Observation) -> str | None:
        ours = seen.kind in ("camera/idle", "worker/idle") and seen.zone_id
        return f"{seen.zone_id}/{seen.source}" if ours else None

    def _step(self, state: MicroStopsState, seen: Observation) -> tuple[MicroStopsState, list[Finding]]:
        settings = self.settings
        since = seen.at - timedelta(seconds=settings.window)
        seconds = float(seen.body["seconds"])
        stops = tuple(stop for stop in state.stops if stop[0] > since)
        if settings.shortest <= seconds <= settings.longest:
            stops = (*stops, (seen.at, seconds, seen.ref))[-100:]
        # Raised once; half as many stops as the limit are needed to be quiet again.
        raised = state.raised and len(stops) > settings.count / 2
        stopped = bool(stops) and stops[-1][0] == seen.at
        if not stopped or (len(stops) < settings.count and not raised):
            return MicroStopsState(stops=stops, raised=raised), []
        lost = sum(stop[1] for stop in stops)
        window = settings.window / 60
        return MicroStopsState(stops=stops, raised=True), [
            Finding(
                detector=self.name,
                type="micro_stops",
                severity="medium",
                again=raised,
                words=Words(
                    f"หยุดสั้น ๆ {len(stops)} ครั้งใน {window:.0f} นาที รวม {lost / 60:.1f} นาที",
                    f"{len(stops)} short stops within {window:.0f} min, {lost / 60:.1f} min together",
                ),
                at=seen.at,
                evidence=tuple(stop[2] for stop in stops if stop[2])[-20:],
                seconds_lost=lost,
                workers_affected=1,
                productivity_loss=min(1.0, lost / settings.window),
            )
        ]
