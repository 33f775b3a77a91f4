"""Steps against the standard work: their order, and how long each of them takes."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from edge.analytics.detectors.base import EVIDENCE, Detector, State, Tuning
from edge.analytics.model import Finding, Observation, Severity, Words
from edge.analytics.standard import Deviation, Standard, compare

#: Steps of one cycle that are remembered: a station that never reports an end must not fill the memory.
LONGEST = 200


class SequenceTuning(Tuning):
    cycles: int = Field(1, ge=1, le=20, description="Deviating cycles in a row that make a finding.")


class Done(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    ref: int


class SequenceState(State):
    """`steps` of the cycle under way; `deviating` cycles in a row; `said`: what was found last, not to say it again."""

    steps: tuple[Done, ...] = ()
    deviating: int = 0
    said: str = ""
    index: int | None = None


class Sequence(Detector[SequenceTuning, SequenceState]):
    """Each cycle of a worker against the standard of the zone; a zone without one has no deviations."""

    name: ClassVar[str] = "sequence"
    tuning: ClassVar[type[Tuning]] = SequenceTuning
    state: ClassVar[type[State]] = SequenceState

    def subject(self, seen: Observation) -> str | None:
        ours = seen.kind in ("worker/step", "camera/step", "worker/index", "worker/session_start")
        return f"worker/{seen.worker_id}" if ours and seen.worker_id and seen.zone_id else None

    def _step(self, state: SequenceState, seen: Observation) -> tuple[SequenceState, list[Finding]]:
        if seen.kind == "worker/session_start":
            # Steps of a cycle that was left unfinished do not belong to the next one.
            return SequenceState(said=state.said), []
        if seen.kind != "worker/index":
            steps = (*state.steps, Done(name=str(seen.body["step"]), ref=seen.ref))[-LONGEST:]
            return state.model_copy(update={"steps": steps}), []
        number = int(seen.body["index_number"])
        standard = self.standards(str(seen.zone_id))
        after = SequenceState(index=number, said=state.said)
        if standard is None or not state.steps:
            return after, []
        deviations = compare(standard.names, [step.name for step in state.steps])
        if not deviations:
            return SequenceState(index=number), []
        said = "; ".join(f"{one.kind} {one.step}" for one in deviations)[:500]
        deviating = state.deviating + 1
        after = SequenceState(index=number, deviating=deviating, said=state.said)
        if deviating < self.settings.cycles:
            return after, []
        refs = tuple(step.ref for step in state.steps if step.ref)[-EVIDENCE + 1 :]
        return after.model_copy(update={"said": said}), [
            replace(self._finding(deviations, standard, number, seen, (*refs, seen.ref)), again=said == state.said)
        ]

    def _finding(
        self,
        deviations: list[Deviation],
        standard: Standard,
        number: int,
        seen: Observation,
        evidence: tuple[int, ...],
    ) -> Finding:
        critical = {step.name for step in standard.steps if step.critical}
        missing = [one for one in deviations if one.kind == "missing"]
        severity: Severity = "high" if any(one.step in critical for one in missing) else "medium" if missing else "low"
        shown, more = deviations[:3], len(deviations) - 3
        th = " / ".join(one.words.th for one in shown) + (f" และอีก {more} จุด" if more > 0 else "")
        en = "; ".join(one.words.en for one in shown) + (f"; and {more} more" if more > 0 else "")
        times = {step.name: step.seconds for step in standard.steps}
        extra = sum(times.get(one.step, 0.0) for one in deviations if one.kind in ("extra", "repeated"))
        return Finding(
            detector=self.name,
            type="sequence_deviation",
            severity=severity,
            words=Words(f"ชิ้นที่ {number} ทำไม่ตรงมาตรฐาน: {th}", f"Piece {number} was not made to standard: {en}"),
            at=seen.at,
            evidence=tuple(ref for ref in evidence if ref),
            seconds_lost=extra,
            workers_affected=1,
            tags=tuple(dict.fromkeys(one.step[:100] for one in shown)),
        )


class StepTimeTuning(Tuning):
    threshold: float = Field(
        0.5, gt=0, le=10, description="A step may take this share longer than its standard (0.5: half as long again)."
    )
    least: float = Field(5, ge=0, le=3_600, description="And at least so many seconds longer.")
    count: int = Field(2, ge=1, le=20, description="So many times in a row make a finding.")
    learn: int = Field(20, ge=5, le=500, description="Steps seen before a time is learnt, where no standard gives one.")


class StepTimes(BaseModel):
    model_config = ConfigDict(frozen=True)

    seen: tuple[float, ...] = ()
    over: tuple[tuple[float, int], ...] = ()
    raised: bool = False


class StepTimeState(State):
    steps: dict[str, StepTimes] = Field(default_factory=dict)


class StepTime(Detector[StepTimeTuning, StepTimeState]):
    """Each step of a station against its standard time, or against the median of its last times."""

    name: ClassVar[str] = "step_time"
    tuning: ClassVar[type[Tuning]] = StepTimeTuning
    state: ClassVar[type[State]] = StepTimeState

    def subject(self, seen: Observation) -> str | None:
        ours = seen.kind in ("worker/step", "camera/step") and seen.body.get("seconds") is not None
        return f"{seen.zone_id}/{seen.source}" if ours and seen.zone_id else None

    def _step(self, state: StepTimeState, seen: Observation) -> tuple[StepTimeState, list[Finding]]:
        settings = self.settings
        name, seconds = str(seen.body["step"]), float(seen.body["seconds"])
        known = state.steps.get(name, StepTimes())
        expected = self._expected(str(seen.zone_id), name, known)
        found: list[Finding] = []
        if expected is None or seconds <= max(expected * (1 + settings.threshold), expected + settings.least):
            known = StepTimes(seen=(*known.seen, seconds)[-3 * settings.learn :])
        else:
            over = (*known.over, (seconds, seen.ref))[-EVIDENCE:]
            if len(over) >= settings.count:
                finding = self._finding(name, [one[0] for one in over], expected, seen, over)
                found.append(replace(finding, again=known.raised))
            known = StepTimes(seen=known.seen, over=over, raised=known.raised or bool(found))
        steps = {**state.steps, name: known}
        if len(steps) > LONGEST:
            steps.pop(next(iter(steps)))
        return state.model_copy(update={"steps": steps}), found

    def _expected(self, zone_id: str, name: str, known: StepTimes) -> float | None:
        standard = self.standards(zone_id)
        told = next((step.seconds for step in standard.steps if step.name == name), None) if standard else None
        if told:
            return told
        return median(known.seen) if len(known.seen) >= self.settings.learn else None

    def _finding(
        self, name: str, over: list[float], expected: float, seen: Observation, evidence: tuple[tuple[float, int], ...]
    ) -> Finding:
        step, took = name.replace("_", " "), over[-1]
        return Finding(
            detector=self.name,
            type="slow_step",
            severity="medium" if took >= expected * (1 + 2 * self.settings.threshold) else "low",
            words=Words(
                f"ขั้นตอน “{step}” ใช้ {took:.0f} วินาที (มาตรฐาน {expected:.0f}) ช้าติดกัน {len(over)} ครั้ง",
                f"Step “{step}” took {took:.0f} s (standard {expected:.0f}), slow {len(over)} times in a row",
            ),
            at=seen.at,
            evidence=tuple(one[1] for one in evidence if one[1]),
            seconds_lost=sum(one - expected for one in over),
            workers_affected=1,
            productivity_loss=1 - expected / took,
            tags=(name[:100],),
        )
