"""What likeness to the first results adds to a score."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.search.vouching import DOUBTED, SHARE, VOUCHERS, vouched


def unit(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    vectors = np.array(rows, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def test_a_case_like_the_first_overtakes_one_that_only_looks_like_the_question() -> None:
    scores = np.array([0.7, 0.4, 0.39])
    gained = scores + vouched(scores, unit((1, 0, 0), (0, 1, 0), (1, 0.1, 0)))
    assert gained[2] > gained[1]


def test_nothing_near_the_first_results_gains_nothing() -> None:
    scores = np.array([0.7, 0.3, 0.2, 0.1])
    vectors = unit((1, 0, 0, 0), (0.2, 1, 0, 0), (0.1, 0, 1, 0), (0, 0, 0, 1))
    assert vouched(scores, vectors)[3] == 0


def test_a_record_without_a_symptom_neither_vouches_nor_gains() -> None:
    scores = np.array([0.9, 0.5, 0.4])
    assert not vouched(scores, unit((0, 0), (0, 0), (0, 0))).any()
    assert vouched(scores, unit((1, 0), (0, 0), (1, 0)))[1] == 0


def test_first_results_that_are_hardly_like_the_question_carry_nothing_along() -> None:
    vectors = unit((1, 0), (0, 1), (1, 0.1))
    assert not vouched(np.array([DOUBTED, 0.2, 0.1]), vectors).any()
    doubted, trusted = (vouched(np.array([first, 0.2, 0.1]), vectors)[2] for first in (0.4, 0.6))
    assert 0 < doubted < trusted


def test_the_first_counts_most() -> None:
    scores = np.array([0.8, 0.5, 0.5, 0.2, 0.2])
    vectors = unit((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0.1, 0), (0, 1, 0.1))
    gained = vouched(scores, vectors)
    assert gained[3] > gained[4] > -1e-9


@given(
    st.lists(st.floats(0, 1), min_size=0, max_size=12),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
)
def test_never_less_and_never_above_one(scores: list[float], seed: int, share: float) -> None:
    ordered = np.sort(np.array(scores))[::-1]
    vectors = (
        unit(*np.random.default_rng(seed).normal(size=(len(scores), 4))) if scores else np.zeros((0, 4), np.float32)
    )
    gained = vouched(ordered, vectors, share)
    assert len(gained) == len(scores)
    assert (gained >= 0).all()
    assert (ordered + gained <= 1 + 1e-6).all()


def test_no_share_changes_nothing() -> None:
    scores = np.array([0.9] * (VOUCHERS + 1))
    assert SHARE > 0
    assert not vouched(scores, unit(*[(1, 0)] * (VOUCHERS + 1)), 0.0).any()
