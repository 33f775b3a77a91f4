"""Cycle times outside their control limits, learnt from the zone's own history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from math import sqrt
from statistics import fmean, median
from typing import ClassVar, Literal

from pydantic import Field

from edge.analytics.detectors.base import Detector, Refs, State, Tuning
from edge.analytics.model import Finding, Observation, Words

Rule = Literal[1, 2, 3, 4]

#: Median moving range of two successive values over their standard deviation, for a normal process (ISO 7870-2).
D4 = 0.954

_RULES: dict[Rule, Words] = {
    1: Words("1 รอบออกนอกเส้น 3 ซิกมา", "one cycle beyond 3 sigma"),
    2: Words("2 ใน 3 รอบเกิน 2 ซิกมา", "2 of 3 cycles beyond 2 sigma"),
    3: Words("4 ใน 5 รอบเกิน 1 ซิกมา", "4 of 5 cycles beyond 1 sigma"),
    4: Words("8 รอบติดกันอยู่ฝั่งเดียวของค่ากลาง", "8 cycles in a row on one side of the centre"),
}


class CycleTuning(Tuning):
    method: Literal["individuals", "ewma"] = Field("individuals", description="Which control chart is kept.")
    least: float = Field(
        0.1, ge=0, le=10, description="A cycle this share off the centre matters; less is only statistics."
    )
    rules: tuple[Rule, ...] = Field((1, 2), description="Western Electric rules that count, of 1 to 4 (individuals).")
    learn: int = Field(25, ge=10, le=500, description="Cycles before limits are drawn.")
    keep: int = Field(100, ge=10, le=1_000, description="Cycles in control that the limits are drawn from.")
    clear: int = Field(5, ge=1, le=50, description="Cycles in control that end a finding.")
    relearn: int = Field(60, ge=10, le=1_000, description="Cycles out of control after which this is the new normal.")
    weight: float = Field(0.2, gt=0, le=1, description="Weight of the newest cycle (ewma).")
    width: float = Field(2.7, gt=0, le=6, description="Half the width of the limits in sigmas (ewma).")


class CycleState(State):
    """`normal`: cycle times in control, seconds. `recent`: the latest ones in sigmas. `ewma`: their weighted mean."""

    normal: tuple[float, ...] = ()
    recent: tuple[float, ...] = ()
    ewma: float = 0.0
    raised: bool = False
    good: int = 0
    bad: int = 0
    evidence: Refs = Refs()
    last: datetime | None = None


class CycleTime(Detector[CycleTuning, CycleState]):
    """A chart for each station: people differ. Slow and fast are both told: a cycle too fast skipped something."""

    name: ClassVar[str] = "cycle_time"
    tuning: ClassVar[type[Tuning]] = CycleTuning
    state: ClassVar[type[State]] = CycleState

    def subject(self, seen: Observation) -> str | None:
        return f"{seen.zone_id}/{seen.source}" if seen.kind == "worker/index" and seen.zone_id else None

    def _step(self, state: CycleState, seen: Observation) -> tuple[CycleState, list[Finding]]:
        settings = self.settings
        told = seen.body.get("seconds")
        if told is None and state.last:
            told = (seen.at - state.last).total_seconds()
        state = state.model_copy(update={"last": seen.at})
        if not told:
            return state, []
        seconds = float(told)
        if len(state.normal) < settings.learn:
            return state.model_copy(update={"normal": (*state.normal, seconds)}), []
        centre, sigma = limits(state.normal)
        z = (seconds - centre) / sigma
        recent = (*state.recent, z)[-8:]
        ewma = settings.weight * z + (1 - settings.weight) * state.ewma
        broken = self._broken(recent, ewma)
        if abs(seconds - centre) < settings.least * centre:
            broken = None
        out = broken is not None or abs(z) > 3
        state = state.model_copy(update={"recent": recent, "ewma": ewma})
        if not out:
            return self._calm(state, seconds), []
        if state.bad + 1 >= settings.relearn:
            # This long out of control is no disturbance: another product, another method. Learn anew.
            return CycleState(normal=(seconds,), last=seen.at), []
        found: list[Finding] = []
        evidence = state.evidence.plus(seen)
        if broken is not None:
            found.append(replace(self._finding(broken, seconds, z, centre, sigma, seen, evidence), again=state.raised))
        update = {"raised": state.raised or broken is not None, "good": 0, "bad": state.bad + 1, "evidence": evidence}
        return state.model_copy(update=update), found

    def _calm(self, state: CycleState, seconds: float) -> CycleState:
        """A cycle in control: it teaches, unless something is going on."""
        good = state.good + 1
        if state.raised and good < self.settings.clear:
            return state.model_copy(update={"good": good, "bad": 0})
        normal = state.normal if state.raised else (*state.normal, seconds)[-self.settings.keep :]
        update: dict[str, object] = {"normal": normal, "raised": False, "good": good, "bad": 0, "evidence": Refs()}
        if state.raised:
            # What was out of control must not count again in a run that began before.
            update |= {"recent": (), "ewma": 0.0}
        return state.model_copy(update=update)

    def _broken(self, recent: Sequence[float], ewma: float) -> Rule | Literal["ewma"] | None:
        if self.settings.method == "ewma":
            weight = self.settings.weight
            return "ewma" if abs(ewma) > self.settings.width * sqrt(weight / (2 - weight)) else None
        return next((rule for rule in sorted(self.settings.rules) if western_electric(recent, rule)), None)

    def _finding(
        self,
        broken: Rule | Literal["ewma"],
        seconds: float,
        z: float,
        centre: float,
        sigma: float,
        seen: Observation,
        evidence: Refs,
    ) -> Finding:
        slow = z > 0
        lower, upper = max(0.0, centre - 3 * sigma), centre + 3 * sigma
        reason = _RULES[broken] if broken != "ewma" else Words("ค่าเฉลี่ย EWMA หลุดเส้นควบคุม", "the EWMA left its limits")
        return Finding(
            detector=self.name,
            type="slow_cycle" if slow else "fast_cycle",
            severity="medium" if slow else "low",
            words=Words(
                f"ไซเคิลไทม์ {seconds:.0f} วินาที {'ช้า' if slow else 'เร็ว'}ผิดปกติ "
                f"(ปกติ {centre:.0f} ช่วงควบคุม {lower:.0f}-{upper:.0f}): {reason.th}",
                f"Cycle time {seconds:.0f} s is too {'slow' if slow else 'fast'} "
                f"(usual {centre:.0f}, limits {lower:.0f}-{upper:.0f}): {reason.en}",
            ),
            at=seen.at,
            evidence=evidence.refs,
            seconds_lost=max(0.0, seconds - centre),
            workers_affected=1,
            productivity_loss=max(0.0, 1 - centre / seconds),
        )


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Centre and sigma of an individuals chart, from the middle half: one bad cycle while learning does not widen them.

    Sigma is the median moving range over 0.954, and at least 2 % of the centre, so that a machine's perfect regularity
    does not make every breath a finding.
    """
    centre = fmean(sorted(values)[len(values) // 4 : len(values) - len(values) // 4])
    ranges = [abs(later - earlier) for earlier, later in pairwise(values)]
    return centre, max(median(ranges) / D4, 0.02 * centre, 1e-9)


def western_electric(recent: Sequence[float], rule: Rule) -> bool:
    """Whether the latest values, in sigmas from the centre, break a rule at the newest one (Western Electric, 1956)."""
    if not recent:
        return False
    side = 1 if recent[-1] > 0 else -1
    same = [side * value for value in recent]
    match rule:
        case 1:
            return same[-1] > 3
        case 2:
            return same[-1] > 2 and sum(value > 2 for value in same[-3:]) >= 2
        case 3:
            return same[-1] > 1 and sum(value > 1 for value in same[-5:]) >= 4
        case 4:
            return len(same) >= 8 and all(value > 0 for value in same[-8:])
