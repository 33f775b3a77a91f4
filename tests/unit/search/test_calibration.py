"""Probabilities of scores: fitted, bent by people, monotone, honest about what they were not fitted on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import Rejected
from edge.search.calibration import (
    GENERIC,
    KNOTS,
    Asked,
    Calibration,
    Judged,
    Logistic,
    band_of,
    figures,
    fit,
    measure,
    refine,
    write,
)  # fmt: skip
from edge.search.model import APART, Heard


def test_a_curve_finds_the_probabilities_that_made_the_data() -> None:
    drawn = np.random.default_rng(1)
    x = drawn.uniform(0, 1, 20_000)
    true = Logistic(12.0, -7.0)
    found = fit(x, drawn.uniform(0, 1, len(x)) < true.of(x), np.ones(len(x)))
    assert found.slope == pytest.approx(12.0, rel=0.1)
    assert found.at(0.6) == pytest.approx(true.at(0.6), abs=0.03)


def test_scores_that_say_nothing_are_refused() -> None:
    with pytest.raises(Rejected, match="cannot be calibrated"):
        fit([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], np.ones(4))


def test_weights_count_like_copies() -> None:
    one = fit([0.2, 0.5, 0.8], [0, 1, 1], [3, 2, 1])
    many = fit([0.2] * 3 + [0.5] * 2 + [0.8], [0] * 3 + [1] * 2 + [1], np.ones(6))
    assert (one.slope, one.intercept) == (pytest.approx(many.slope), pytest.approx(many.intercept))


judgements = st.lists(st.builds(Judged, st.floats(0, 1), st.integers(0, 5), st.integers(1, 5)), max_size=60)


@given(judgements)
def test_what_people_say_bends_the_curve_but_never_its_order(judged: list[Judged]) -> None:
    bent = refine(GENERIC, judged)
    chances = [p for _, p in bent.knots]
    assert chances == sorted(chances)
    assert all(0 <= p <= 1 for p in chances)
    assert bent.figures is not None
    assert bent.figures.own == len(judged)


def test_own_judgements_weigh_more_the_more_there_are() -> None:
    score = 0.7
    before = GENERIC.probability(score)
    few = refine(GENERIC, [Judged(score, 0, 1)] * 3).probability(score)
    many = refine(GENERIC, [Judged(score, 0, 1)] * 200).probability(score)
    assert before > few > many
    assert many < 0.15
    assert refine(GENERIC, []).probability(score) == pytest.approx(before, abs=0.01), "without a word it is the prior"


def test_figures_tell_what_was_said_and_what_was_true() -> None:
    found = figures([0.95, 0.95, 0.05, 1.0], [1, 0, 0, 1], [1, 1, 2, 1])
    assert found.n == 5
    assert found.brier == pytest.approx((0.05**2 + 0.95**2 + 2 * 0.05**2) / 5, abs=1e-4)
    assert [(one.low, one.n) for one in found.bins] == [(0.0, 2.0), (0.9, 3.0)]


def asked(kinds: int = 12) -> list[Asked]:
    """Each kind's own cases score above the others by a margin that grows with the kind."""
    return [
        Asked(f"k{k}", tuple([(f"k{k}", 0.6 + 0.02 * k - 0.05 * n) for n in range(3)] + [("other", 0.5 - 0.01 * k)]))
        for k in range(kinds)
    ]


def test_a_prior_is_measured_on_three_histories_and_scored_on_kinds_it_was_not_fitted_on() -> None:
    vectors = np.repeat(np.eye(12), 2, axis=0)
    found = measure("f00d", asked(), [f"k{k}" for k in range(12) for _ in range(2)], vectors, GENERIC.fix)
    assert (found.fingerprint, found.origin) == ("f00d", "prior")
    assert found.figures is not None
    assert found.figures.brier < found.figures.chance
    # Twelve questions: four hits of the full history, one of the new one, and two of each where it happened once.
    assert found.figures.n == 12 * (4 + 1 + 2)
    assert found.known.at(0.7) > found.known.at(0.45)
    called_new = [missed for _, missed, _ in found.figures.known]
    called_known = [invented for _, _, invented in found.figures.known]
    assert called_new == sorted(called_new)
    assert called_known == sorted(called_known, reverse=True)
    with pytest.raises(Rejected, match="at least 6 kinds"):
        measure("f00d", asked(3), ["k0"], np.eye(1), GENERIC.fix)


def test_a_calibration_is_written_as_it_ships(tmp_path: Path) -> None:
    vectors = np.repeat(np.eye(12), 2, axis=0)
    found = measure("f00d", asked(), [f"k{k}" for k in range(12) for _ in range(2)], vectors, GENERIC.fix)
    write(found, tmp_path / "calibration.json")
    values = json.loads((tmp_path / "calibration.json").read_text("utf-8"))
    assert values["fingerprint"] == "f00d"
    assert values["same"]["slope"] == pytest.approx(found.same.slope, abs=1e-3)
    with pytest.raises(Rejected, match="cannot be written"):
        write(found, tmp_path / "none" / "calibration.json")


def test_bands_and_novelty_follow_the_probability() -> None:
    assert [band_of(p) for p in (0.0, 0.19, 0.2, 0.5, 0.8, 1.0)] == [
        "weak", "weak", "similar", "very_similar", "same", "same",
    ]  # fmt: skip
    assert GENERIC.is_new(None)
    assert GENERIC.is_new(0.2)
    assert not GENERIC.is_new(0.9)
    assert GENERIC.closeness(0.3) == 0.0, "less likely than not: it says nothing"
    assert len(KNOTS) == 21


@given(st.floats(0, 1), st.floats(0, 20), st.floats(0, 20))
def test_voices_move_a_score_within_bounds_and_to_the_side_of_the_majority(score: float, yes: float, no: float) -> None:
    moved = Heard(agree=yes, disagree=no).moved(score)
    assert -1e-9 <= moved <= 1 + 1e-9
    if yes > no:
        assert score <= moved + 1e-9
    else:
        assert min(score, APART) - 1e-9 <= moved <= score + 1e-9
    assert Heard(disagree=1.0).moved(score) <= APART + 1e-9


def test_a_curve_that_is_none_yet_promises_little() -> None:
    measured = Calibration("x", "prior", Logistic(14, -9), Logistic(9, -5), Logistic(19, -10), Logistic(13, -7))
    assert GENERIC.probability(0.9) < measured.probability(0.9)
