"""Makes cosines of different collections comparable before they are merged.

A chunk of a manual and the symptom of a case do not lie on one scale: the longer text is a little like everything. So a
collection's scores are read against what the same question scores there by chance, and told on the scale of the cases:
score - median here + median of cases. Dividing by the spread as well (test normalisation, Auckenthaler et al. 2000) was
measured and is worse: what is drawn towards a kind of problem scatters by how common its kind is, not by its length.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge.vectors import VectorStore

#: Points of a collection that stand for chance. Ids are hashes, so the first ones by id are a sample like any other.
COHORT = 256

#: With fewer the chance cannot be known, and the scores stay as they are.
LEAST = 20

#: Seconds until a cohort is drawn again.
STALE = 900.0

Floats = NDArray[np.float32]


class Cohorts:
    """Samples of the collections' vectors. Thread-safe."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Mapping[str, Floats]]] = {}

    def background(self, physical: str, question: Floats, weights: Mapping[str, float]) -> float | None:
        """The median of what `question` [dimension] scores in a collection by chance.

        `weights`: what a cosine to each named vector counts; a point scores by its best. None with too few points.
        """
        cohort = self._cohort(physical)
        scores = [
            weight * np.maximum(0.0, cohort[name] @ question) for name, weight in weights.items() if name in cohort
        ]
        if not scores:
            return None
        best = np.max(scores, axis=0)
        if len(best) < LEAST:
            return None
        return float(np.median(best))

    def _cohort(self, physical: str) -> Mapping[str, Floats]:
        with self._lock:
            until, cohort = self._kept.get(physical, (0.0, {}))
            if time.monotonic() < until:
                return cohort
        points = self._store.get(physical, self._store.scroll_ids(physical, None, COHORT), with_vectors=True)
        names = {name for point in points for name in point.vectors}
        drawn = {}
        for name in names:
            # A point without one of the vectors scores 0 by it, as in a search.
            dimension = next(len(point.vectors[name]) for point in points if name in point.vectors)
            missing = np.zeros(dimension, np.float32)
            drawn[name] = np.stack([point.vectors.get(name, missing) for point in points])
        with self._lock:
            self._kept[physical] = (time.monotonic() + (STALE if len(points) == COHORT else STALE / 15), drawn)
        return drawn


def rescaled(score: float, here: float | None, cases: float | None) -> float:
    """A score of one collection told on the scale of the cases, 0..1; as it is where either chance is unknown."""
    if here is None or cases is None:
        return score
    return min(1.0, max(0.0, score - here + cases))
