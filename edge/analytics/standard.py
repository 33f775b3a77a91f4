"""A standard work sequence, and how a cycle differs from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from edge.analytics.model import Words

Kind = Literal["missing", "extra", "repeated", "swapped", "moved"]


@dataclass(frozen=True, slots=True)
class StandardStep:
    """`seconds`: the standard time. `critical`: the piece is no good without it."""

    name: str
    seconds: float
    critical: bool = False


@dataclass(frozen=True, slots=True)
class Standard:
    """The standard work of a zone; `product_type` None: for whatever is made there."""

    zone_id: str
    steps: tuple[StandardStep, ...]
    product_type: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.steps)


@dataclass(frozen=True, slots=True)
class Deviation:
    """`position`: of the step in the standard, from 1; for what is not in it, of the step it followed (0: before all)."""

    kind: Kind
    step: str
    position: int

    @property
    def words(self) -> Words:
        step = self.step.replace("_", " ")
        match self.kind:
            case "missing":
                return Words(f"ข้ามขั้นตอนที่ {self.position} “{step}”", f"step {self.position} “{step}” is missing")
            case "extra":
                return Words(f"มีขั้นตอนเกิน “{step}”", f"“{step}” is not part of the standard")
            case "repeated":
                return Words(f"ทำขั้นตอน “{step}” ซ้ำ", f"“{step}” was repeated")
            case "swapped":
                return Words(
                    f"ขั้นตอนที่ {self.position} “{step}” สลับกับขั้นก่อนหน้า",
                    f"step {self.position} “{step}” was swapped with the one before",
                )
            case "moved":
                return Words(
                    f"ทำขั้นตอนที่ {self.position} “{step}” ผิดลำดับ", f"step {self.position} “{step}” was done out of order"
                )


def compare(standard: Sequence[str], done: Sequence[str]) -> list[Deviation]:
    """How `done` differs from `standard`, by an optimal alignment, in the order of the standard.

    The alignment is the optimal string alignment distance (Damerau 1964, restricted form) with insertions, deletions
    and swaps of neighbours at cost 1 and no substitutions: a wrong step is one missing and one extra. A step missing in
    one place and extra in another was moved. At most 200 steps of either are compared.
    """
    a, b = list(standard[:200]), list(done[:200])
    cost = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) + 1):
        for j in range(len(b) + 1):
            if i == 0 or j == 0:
                cost[i][j] = i + j
                continue
            best = min(cost[i - 1][j], cost[i][j - 1]) + 1
            if a[i - 1] == b[j - 1]:
                best = min(best, cost[i - 1][j - 1])
            if _swapped(a, b, i, j):
                best = min(best, cost[i - 2][j - 2] + 1)
            cost[i][j] = best
    found: list[Deviation] = []
    i, j = len(a), len(b)
    while i or j:
        here = cost[i][j]
        if i and j and a[i - 1] == b[j - 1] and here == cost[i - 1][j - 1]:
            i, j = i - 1, j - 1
        elif _swapped(a, b, i, j) and here == cost[i - 2][j - 2] + 1:
            found.append(Deviation("swapped", a[i - 1], i))
            i, j = i - 2, j - 2
        elif i and here == cost[i - 1][j] + 1:
            found.append(Deviation("missing", a[i - 1], i))
            i -= 1
        else:
            repeated = b[j - 1] in (b[j - 2] if j > 1 else None, b[j] if j < len(b) else None)
            found.append(Deviation("repeated" if repeated else "extra", b[j - 1], i))
            j -= 1
    return _moved(found[::-1])


def _swapped(a: Sequence[str], b: Sequence[str], i: int, j: int) -> bool:
    return i > 1 and j > 1 and a[i - 1] != a[i - 2] and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]


def _moved(found: list[Deviation]) -> list[Deviation]:
    """A step that is missing here and extra there is one deviation and not two."""
    kept = list(found)
    for missing in found:
        if missing.kind != "missing":
            continue
        extra = next((one for one in kept if one.kind in ("extra", "repeated") and one.step == missing.step), None)
        if extra is not None:
            kept.remove(extra)
            kept[kept.index(missing)] = Deviation("moved", missing.step, missing.position)
    return kept


@dataclass(frozen=True, slots=True)
class Proposal:
    """A standard as good cycles show it: `used` of `seen` cycles."""

    steps: tuple[StandardStep, ...]
    used: int
    seen: int


def propose(cycles: Sequence[tuple[float, Sequence[tuple[str, float | None]]]]) -> Proposal | None:
    """The order most cycles (seconds, steps) had, with the median seconds of each step; None where there is no cycle.

    Good cycles are those in that order, without the quickest and the slowest tenth.
    """
    orders = Counter(tuple(name for name, _ in steps) for _, steps in cycles if steps)
    if not orders:
        return None
    order = max(orders, key=lambda names: (orders[names], names))
    alike = sorted(
        ((seconds, steps) for seconds, steps in cycles if tuple(name for name, _ in steps) == order),
        key=lambda cycle: cycle[0],
    )
    edge = len(alike) // 10
    good = [steps for _, steps in alike[edge : len(alike) - edge]]
    times = [[took for steps in good if (took := steps[place][1]) is not None] for place in range(len(order))]
    found = tuple(
        StandardStep(name, round(median(took), 1) if took else 0.0) for name, took in zip(order, times, strict=True)
    )
    return Proposal(found, len(good), len(cycles))
