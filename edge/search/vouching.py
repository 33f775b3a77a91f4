"""The first results vouch for the cases like them.

A question is short and in one person's words. The case it finds first tells the problem in other words, and a case like
that one is likely about the same problem, although the question alone would not have found it. This is pseudo-relevance
feedback (Rocchio 1971), on the vectors of the results and as a part of the score that can be shown.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: So many of the first ranking are ranked again, by the words they hold and by their likeness to the first results.
REACH = 60

#: So many of the first results vouch. With one alone a wrong first result would carry its own kind along.
VOUCHERS = 3

#: The score by which a result must be behind the first for its word to count e times less.
SPREAD = 0.1

#: The share of the gap between a score and the likeness to the first results that is closed. Measured: docs/search.md.
SHARE = 0.8

#: Up to the first score a result's word counts nothing, from the second on wholly: what is hardly like the question itself
#: must not carry its own kind along.
DOUBTED, TRUSTED = 0.3, 0.7

Floats = NDArray[np.floating]


def vouched(scores: Floats, vectors: Floats, share: float = SHARE) -> NDArray[np.float64]:
    """What each result gains [n] from its likeness to the first ones: up to `share` of the gap between that and its score.

    `scores` [n], best first, 0..1; `vectors` [n, dimension], unit length, zeros where a result has none. Likeness is the
    mean cosine to the first `VOUCHERS`, weighted by exp(score / SPREAD); they vouch for themselves like for others. How
    much of the share it is follows from how far they are trusted. Nothing is lost by it, and no score passes 1. With no
    more results than vouch there is nobody to vouch for.
    """
    if len(scores) <= VOUCHERS:
        return np.zeros(len(scores))
    first = np.asarray(scores[:VOUCHERS], np.float64)
    weight = np.exp((first - first[0]) / SPREAD)
    weight /= weight.sum()
    trust = weight @ np.clip((first - DOUBTED) / (TRUSTED - DOUBTED), 0.0, 1.0)
    likeness = np.minimum(1.0, vectors @ (weight @ vectors[:VOUCHERS]))
    gained: NDArray[np.float64] = share * trust * np.maximum(0.0, likeness - scores)
    return gained
