"""How good a ranking is: nDCG@10, recall@5 and MRR per language direction, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.cases import Language

Direction = Literal["th→th", "en→en", "th→en", "en→th", "all"]
Metric = Literal["nDCG@10", "recall@5", "MRR"]

DIRECTIONS: tuple[Direction, ...] = ("th→th", "en→en", "th→en", "en→th", "all")
METRICS: tuple[Metric, ...] = ("nDCG@10", "recall@5", "MRR")

#: How deep a ranking is read. A first right case below it counts as never found.
DEEPEST = 100

#: Drawings of the bootstrap.
RESAMPLES = 2_000

Floats = NDArray[np.float64]
Scores = Mapping[Metric, float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `queries` with its 95 % interval."""

    mean: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True, slots=True)
class Difference:
    """This run minus the other, over the queries both answered, paired. `sure`: the interval does not hold 0."""

    mean: float
    low: float
    high: float
    queries: int

    @property
    def sure(self) -> bool:
        return self.low > 0 or self.high < 0


def written_in(language: Language) -> Literal["th", "en"]:
    """The side of a direction: mixed text is Thai with English words in it."""
    return "en" if language == "en" else "th"


def languages_of(direction: Direction) -> tuple[Literal["th", "en"] | None, tuple[Language, ...]]:
    """Of which language the questions are, and which records are looked through; None and () for all."""
    if direction == "all":
        return None, ()
    asked, _, looked = direction.partition("→")
    return ("en" if asked == "en" else "th"), (("en",) if looked == "en" else ("th", "mixed"))


def score(ranking: Sequence[str], grades: Mapping[str, float]) -> Scores:
    """The metrics of one ranking of record ids against the grades of the right ones (all > 0, at least one).

    nDCG@10 with gain 2^grade - 1 and discount log2(rank + 1) (Järvelin and Kekäläinen 2002; Burges 2005). recall@5 is
    the share of all right records among the first five. MRR is 1 / rank of the first right one, 0 below `DEEPEST`.
    """
    gains = [2 ** grades.get(record_id, 0.0) - 1 for record_id in ranking[:10]]
    best = sorted((2**grade - 1 for grade in grades.values()), reverse=True)[:10]
    first = next((rank for rank, record_id in enumerate(ranking[:DEEPEST], 1) if record_id in grades), None)
    return {
        "nDCG@10": _discounted(gains) / _discounted(best),
        "recall@5": len(set(ranking[:5]) & grades.keys()) / len(grades),
        "MRR": 1 / first if first else 0.0,
    }


def estimate(values: Iterable[float], seed: int) -> Estimate:
    """The mean and its percentile bootstrap interval (Efron 1979). The same seed always draws the same."""
    found = np.array(list(values), np.float64)
    return Estimate(*_bootstrap(found, seed), queries=len(found))


def compare(here: Mapping[str, float], there: Mapping[str, float], seed: int) -> Difference:
    """`here` minus `there`, query by query: the paired bootstrap sees what two separate intervals would hide."""
    both = sorted(here.keys() & there.keys())
    found = np.array([here[qid] - there[qid] for qid in both], np.float64)
    return Difference(*_bootstrap(found, seed), queries=len(both))


def _bootstrap(values: Floats, seed: int) -> tuple[float, float, float]:
    if not len(values):
        return 0.0, 0.0, 0.0
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def _discounted(gains: Iterable[float]) -> float:
    return sum(gain / log2(rank + 1) for rank, gain in enumerate(gains, 1))
