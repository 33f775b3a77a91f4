"""The figures behind "what fixed it": intervals, trends and groups, against worked examples."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.cases import Case
from edge.search.fixes import actions, group, likeness, recurrence, trend, wilson

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("worked", "tried", "low", "high"),
    [(0, 1, 0.0, 0.793), (1, 1, 0.207, 1.0), (2, 3, 0.208, 0.939), (0, 10, 0.0, 0.278), (81, 263, 0.255, 0.366)],
)
def test_the_interval_of_a_share(worked: int, tried: int, low: float, high: float) -> None:
    found = wilson(worked, tried)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-4), pytest.approx(high, abs=6e-4))


def test_of_nothing_tried_nothing_is_said() -> None:
    assert wilson(0, 0) is None


@given(st.integers(1, 500).flatmap(lambda tried: st.tuples(st.integers(0, tried), st.just(tried))))
def test_an_interval_holds_its_share_and_stays_within_0_and_1(counts: tuple[int, int]) -> None:
    worked, tried = counts
    found = wilson(worked, tried)
    assert found is not None
    assert 0 <= found.low <= worked / tried + 1e-12
    assert worked / tried - 1e-12 <= found.high <= 1


@pytest.mark.parametrize(
    ("last", "before", "said"),
    [
        (0, 0, None), (1, 0, None), (4, 0, None), (5, 0, "rising"), (0, 5, "falling"), (6, 4, "steady"), (5, 4, None),
        (12, 3, "rising"), (20, 18, "steady"),
    ],
)  # fmt: skip
def test_a_trend_is_said_when_the_numbers_allow_it(last: int, before: int, said: str | None) -> None:
    assert trend(last, before) == said


def test_groups_are_joined_by_their_average_and_not_by_a_chain() -> None:
    alike = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.6], [0.1, 0.6, 1.0]])
    assert group(alike, 0.55) == [[0, 1], [2]], "the third is like the second, but not like both"
    assert group(alike, 0.3) == [[0, 1, 2]]
    assert group(np.ones((1, 1)), 0.5) == [[0]]


def test_a_cause_nobody_knows_does_not_part_two_fixes() -> None:
    fixes = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    causes = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    none = [frozenset[str]()] * 3
    alike = likeness(fixes, causes, fixes, np.array([True, True, False]), none)
    assert alike[0, 1] == pytest.approx(0.8), "different causes"
    assert alike[0, 2] == pytest.approx(1.0)


def test_doing_another_thing_to_the_same_part_is_another_fix() -> None:
    one = np.array([[1, 0]] * 3, np.float32)
    done = [actions("เช็ดเลนส์เซ็นเซอร์"), actions("Wiped the sensor lens"), actions("Replaced the sensor")]
    assert done == [{"clean"}, {"clean"}, {"replace"}]
    alike = likeness(one, one, one, np.ones(3, bool), done)
    assert alike[0, 1] > 1.0 > alike[0, 2]


def test_what_people_hold_apart_is_never_in_one_group() -> None:
    alike = np.ones((3, 3))
    alike[0, 2] = alike[2, 0] = -np.inf
    assert group(alike, 0.5) == [[0, 1], [2]]


def case(days_ago: int, zone_id: str | None = "ASM-1") -> Case:
    facts: dict[str, Any] = dict.fromkeys(Case.__dataclass_fields__)
    at = NOW - timedelta(days=days_ago)
    return Case(**facts | {"id": uuid4(), "occurred_at": at, "zone_id": zone_id, "tags": ()})


def test_recurrence_counts_two_spans_and_the_places() -> None:
    cases = [case(day) for day in (3, 10, 20, 30, 40, 80)] + [case(120, "ASM-2"), case(400, None)]
    seen = recurrence(cases, now=NOW, begins=NOW - timedelta(days=500))
    assert (seen.times, seen.last, seen.before, seen.trend) == (8, 6, 1, None)
    assert [(place.zone_id, place.count) for place in seen.places] == [("ASM-1", 6), (None, 1), ("ASM-2", 1)]
    assert seen.latest == NOW - timedelta(days=3)


def test_a_history_too_young_to_compare_is_not_compared() -> None:
    seen = recurrence([case(day) for day in range(1, 60)], now=NOW, begins=NOW - timedelta(days=100))
    assert (seen.last, seen.before, seen.trend) == (59, None, None)


def test_what_never_happened_has_no_dates() -> None:
    seen = recurrence([], now=NOW, begins=None)
    assert (seen.times, seen.first, seen.latest, seen.places) == (0, None, None, ())
