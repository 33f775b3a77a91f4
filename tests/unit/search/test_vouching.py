"""What likeness to the first results adds to a score."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.search.vouching import DOUBTED, VOUCHERS, vouched


def unit(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    vectors = np.array(rows, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


#: The first result, two beside it, one that is like the first, one that is like nothing.
VECTORS = unit((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (1, 0.1, 0, 0), (0, 0, 0, 1))


def test_a_case_like_the_first_overtakes_one_that_only_looks_like_the_question() -> None:
    scores = np.array([0.7, 0.5, 0.4, 0.39, 0.38])
    moved = scores + vouched(scores, VECTORS)
    assert moved[3] > moved[1] > moved[4]
    assert moved[4] == scores[4], "what is like none of the first gains nothing"


def test_with_few_results_nobody_vouches() -> None:
    scores = np.array([0.7, 0.5, 0.4])[:VOUCHERS]
    assert not vouched(scores[:1], VECTORS[:1]).any(), "a single result must not vouch for itself"
    assert not vouched(scores, VECTORS[:VOUCHERS]).any()


def test_a_record_without_a_symptom_neither_vouches_nor_gains() -> None:
    scores = np.array([0.9, 0.5, 0.4, 0.3])
    assert not vouched(scores, np.zeros((4, 2), np.float32)).any()
    assert vouched(scores, unit((1, 0), (1, 0), (1, 0), (0, 0)))[3] == 0


def test_first_results_that_are_hardly_like_the_question_carry_nothing_along() -> None:
    def gained(first: float) -> float:
        return float(vouched(np.array([first, 0.25, 0.2, 0.1, 0.1]), VECTORS)[3])

    assert gained(DOUBTED) == 0
    assert 0 < gained(0.4) < gained(0.6)


def test_the_first_counts_most() -> None:
    scores = np.array([0.8, 0.5, 0.5, 0.2, 0.2])
    gained = vouched(scores, unit((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0.1, 0), (0, 1, 0.1)))
    assert gained[3] > gained[4] >= 0


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_never_less_and_never_above_one(scores: list[float], seed: int, share: float) -> None:
    ordered = np.sort(np.array(scores))[::-1]
    drawn = np.random.default_rng(seed).normal(size=(len(scores), 4))
    gained = vouched(ordered, unit(*drawn) if scores else np.zeros((0, 4), np.float32), share)
    assert len(gained) == len(scores)
    assert (gained >= 0).all()
    assert (ordered + gained <= 1 + 1e-6).all()
    assert share > 0 or not gained.any()
