"""What a camera sees of a zone: too many people or none, and protective equipment that is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import ClassVar

from pydantic import Field

from edge.analytics.detectors.base import Detector, Refs, State, Tuning
from edge.analytics.model import CLOCK, Finding, Observation, Words


class OccupancyTuning(Tuning):
    persons: int = Field(8, ge=1, le=10_000, description="More people than this in one zone are a finding.")
    hold: float = Field(0, ge=0, le=3_600, description="Once they have been there for so many seconds.")
    empty: float = Field(
        0, ge=0, le=86_400, description="A zone without anybody for so many seconds is a finding. 0: never."
    )


class OccupancyState(State):
    crowded_since: datetime | None = None
    empty_since: datetime | None = None
    most: int = 0
    raised: bool = False
    evidence: Refs = Refs()


class Occupancy(Detector[OccupancyTuning, OccupancyState]):
    """Crowded from one more than `persons`, quiet again from one less: a person on the line does not make a storm."""

    name: ClassVar[str] = "occupancy"
    tuning: ClassVar[type[Tuning]] = OccupancyTuning
    state: ClassVar[type[State]] = OccupancyState

    def subject(self, seen: Observation) -> str | None:
        return f"zone/{seen.zone_id}" if seen.kind in ("camera/zone_count", CLOCK) and seen.zone_id else None

    def _step(self, state: OccupancyState, seen: Observation) -> tuple[OccupancyState, list[Finding]]:
        if seen.kind != CLOCK:
            state = self._counted(state, seen)
        if state.raised:
            goes_on = seen.kind != CLOCK and state.crowded_since is not None
            return state, [replace(self._crowded(state, seen), again=True)] if goes_on else []
        if state.crowded_since and (seen.at - state.crowded_since).total_seconds() >= self.settings.hold:
            return state.model_copy(update={"raised": True}), [self._crowded(state, seen)]
        if self.settings.empty and state.empty_since:
            stood = (seen.at - state.empty_since).total_seconds()
            if stood >= self.settings.empty:
                return state.model_copy(update={"raised": True}), [self._empty(state, seen, stood)]
        return state, []

    def _counted(self, state: OccupancyState, seen: Observation) -> OccupancyState:
        persons, most = int(seen.body["persons"]), self.settings.persons
        if persons == 0:
            since = state.empty_since or seen.at
            evidence = state.evidence if state.empty_since else Refs()
            return OccupancyState(
                empty_since=since, raised=state.raised and bool(state.empty_since), evidence=evidence.plus(seen)
            )
        if persons > most or (state.crowded_since and state.raised and persons == most):
            crowded = state.crowded_since is not None
            return OccupancyState(
                crowded_since=state.crowded_since or seen.at,
                most=max(persons, state.most),
                raised=state.raised and crowded,
                evidence=(state.evidence if crowded else Refs()).plus(seen),
            )
        return OccupancyState()

    def _crowded(self, state: OccupancyState, seen: Observation) -> Finding:
        most = self.settings.persons
        return Finding(
            detector=self.name,
            type="zone_crowded",
            severity="high" if state.most >= 2 * most else "medium",
            words=Words(
                f"มีคนในโซน {state.most} คน (กำหนดไม่เกิน {most} คน)",
                f"{state.most} people in the zone, at most {most} are allowed",
            ),
            at=seen.at,
            evidence=state.evidence.refs,
            workers_affected=state.most,
        )

    def _empty(self, state: OccupancyState, seen: Observation, stood: float) -> Finding:
        return Finding(
            detector=self.name,
            type="zone_empty",
            severity="low",
            words=Words(
                f"ไม่มีคนในโซนมา {stood / 60:.0f} นาที (กำหนดไม่เกิน {self.settings.empty / 60:.0f} นาที)",
                f"Nobody in the zone for {stood / 60:.0f} min, the limit is {self.settings.empty / 60:.0f} min",
            ),
            at=seen.at,
            evidence=state.evidence.refs,
            seconds_lost=stood,
            productivity_loss=1.0,
        )


#: Protective equipment by the names cameras use.
PPE_TH: Mapping[str, str] = {
    "helmet": "หมวกเซฟตี้",
    "glasses": "แว่นเซฟตี้",
    "gloves": "ถุงมือ",
    "vest": "เสื้อสะท้อนแสง",
    "shoes": "รองเท้าเซฟตี้",
    "mask": "หน้ากาก",
    "ear_protection": "ที่อุดหู/ครอบหู",
}


class PpeTuning(Tuning):
    sightings: int = Field(
        1, ge=1, le=100, description="So many within the window make a finding: a camera may err once."
    )
    window: float = Field(60, gt=0, le=86_400, description="Seconds within which sightings count together.")
    clear: float = Field(300, ge=0, le=86_400, description="Seconds without a sighting that end a finding.")


class PpeState(State):
    sightings: tuple[tuple[datetime, int], ...] = ()
    raised: tuple[str, ...] = ()
    last: datetime | None = None


class Ppe(Detector[PpeTuning, PpeState]):
    """One finding per kind of equipment and zone until nothing was missing for `clear` seconds."""

    name: ClassVar[str] = "ppe"
    tuning: ClassVar[type[Tuning]] = PpeTuning
    state: ClassVar[type[State]] = PpeState

    def subject(self, seen: Observation) -> str | None:
        return f"zone/{seen.zone_id}" if seen.kind == "camera/ppe" and seen.zone_id else None

    def _step(self, state: PpeState, seen: Observation) -> tuple[PpeState, list[Finding]]:
        missing = [str(item) for item in seen.body["missing"]]
        if state.last and (seen.at - state.last).total_seconds() > self.settings.clear:
            state = PpeState()
        if not missing:
            return state, []
        window = self.settings.window
        recent = tuple(one for one in state.sightings if (seen.at - one[0]).total_seconds() <= window)
        sightings = (*recent, (seen.at, seen.ref))[-100:]
        fresh = [item for item in missing if item not in state.raised]
        if len(sightings) < self.settings.sightings and not state.raised:
            return PpeState(sightings=sightings, raised=state.raised, last=seen.at), []
        after = PpeState(sightings=sightings, raised=(*state.raised, *fresh)[-50:], last=seen.at)
        # A name we have no Thai for stands in Latin letters, which Thai sets off by a space.
        named = fresh or missing
        th = " / ".join(PPE_TH.get(item, item) for item in named)
        th = th if named[0] in PPE_TH else f" {th}"
        en = ", ".join(named).replace("_", " ")
        return after, [
            Finding(
                detector=self.name,
                type="ppe_missing",
                severity="high",
                words=Words(f"พบพนักงานไม่ใส่{th}", f"Worker seen without {en}"),
                at=seen.at,
                evidence=tuple(ref for _, ref in sightings if ref)[-20:],
                workers_affected=1,
                tags=tuple(item[:100] for item in named),
                again=not fresh,
            )
        ]
