"""Results that are not all the same: maximal marginal relevance over the best of a ranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: So many of the best are put into another order; what stands below keeps its place.
POOL = 100


def mmr(scores: Sequence[float], vectors: NDArray[np.float32], diversity: float) -> list[int]:
    """The rows in their new order (Carbonell and Goldstein 1998).

    Next comes the row with the highest (1 - diversity) · score - diversity · its highest cosine to a row before.
    `scores` [n], best first; `vectors` [n, dimension], unit length, zero for a record without one. The first stays
    first; equal rows stand in their given order.
    """
    relevance = np.asarray(scores, np.float64) * (1.0 - diversity)
    alike = (vectors @ vectors.T).astype(np.float64)
    left = np.ones(len(relevance), np.bool_)
    nearest = np.zeros(len(relevance))
    order: list[int] = []
    while left.any():
        value = np.where(left, relevance - diversity * nearest, -np.inf)
        row = int(np.argmax(value))
        order.append(row)
        left[row] = False
        nearest = np.maximum(nearest, alike[row])
    return order
