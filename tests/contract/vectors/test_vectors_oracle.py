"""Any filter means on every side what a few lines of Python say it means: drawn by chance, held against that oracle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from vector_sides import CASES, PRINT, SIDES, number, vector

from edge.vectors import Condition, Filter, HasId, IsEmpty, Match, Point, Range, SearchRequest, TimeRange

NAME = "anomaly_patterns"
START = datetime(2026, 1, 5, tzinfo=UTC)

# --- the oracle -----------------------------------------------------------------------------------------------------


def values(payload: Mapping[str, Any], key: str) -> Iterator[Any]:
    """What stands at a dotted path, one by one where it is a list; nothing where it is missing or null."""
    found: Any = payload
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    for each in found if isinstance(found, list) else [found]:
        if each is not None:
            yield each


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def within(value: Any, condition: Range | TimeRange) -> bool:
    return (
        (condition.gt is None or value > condition.gt)
        and (condition.gte is None or value >= condition.gte)
        and (condition.lt is None or value < condition.lt)
        and (condition.lte is None or value <= condition.lte)
    )


def holds(condition: Condition, point: Point) -> bool:
    match condition:
        case Filter(must, should, must_not):
            return (
                all(holds(each, point) for each in must)
                and (not should or any(holds(each, point) for each in should))
                and not any(holds(each, point) for each in must_not)
            )
        case Match(key, any_of):
            found = list(values(point.payload, key))
            return any(type(one) is type(other) and one == other for one in found for other in any_of)
        case Range(key):
            return any(is_number(each) and within(each, condition) for each in values(point.payload, key))
        case TimeRange(key):
            moments = (each if isinstance(each, datetime) else None for each in values(point.payload, key))
            return any(each is not None and within(each, condition) for each in moments)
        case HasId(ids):
            return point.id in ids
        case IsEmpty(key):
            return not list(values(point.payload, key))
    raise AssertionError(condition)


# --- what is drawn --------------------------------------------------------------------------------------------------

WORDS = ("Z1", "Z2", "โซน ๓", "")
words = st.sampled_from(WORDS)
whole = st.integers(-2, 2)
real = st.sampled_from((-1.5, -0.5, 0.0, 0.5, 1.0, 2.25))
moments = st.builds(
    lambda hours, zone: (START + timedelta(hours=hours)).astimezone(timezone(timedelta(hours=zone))),
    st.integers(-30, 30),
    st.sampled_from((0, 7, -5)),
)


def or_nothing(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


# The indexed fields of anomaly_patterns of each type, an array, a nested field and one without an index.
payloads = st.fixed_dictionaries(
    {},
    optional={
        "zone_id": or_nothing(words),
        "tags": or_nothing(st.lists(words, max_size=3)),
        "index_number": or_nothing(whole),
        "timestamp": or_nothing(moments),
        "metrics": st.fixed_dictionaries({}, optional={"productivity_score": or_nothing(real)}),
        "stopped": or_nothing(st.booleans()),
    },
)


def bounds(kind: type, key: st.SearchStrategy[str], value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    # Without a bound engines differ in what they take for a number; nobody asks that.
    return (
        st.tuples(
            key,
            st.dictionaries(st.sampled_from(("gt", "gte")), value, min_size=0, max_size=1),
            st.dictionaries(st.sampled_from(("lt", "lte")), value, min_size=0, max_size=1),
        )
        .filter(lambda drawn: drawn[1] or drawn[2])
        .map(lambda drawn: kind(drawn[0], **drawn[1], **drawn[2]))
    )


conditions = st.one_of(
    st.builds(Match, st.sampled_from(("zone_id", "tags")), st.lists(words, max_size=3)),
    st.builds(Match, st.just("index_number"), st.lists(whole, max_size=3)),
    st.builds(Match, st.just("stopped"), st.lists(st.booleans(), max_size=2)),
    bounds(Range, st.just("index_number"), whole),
    bounds(Range, st.just("metrics.productivity_score"), real),
    bounds(TimeRange, st.just("timestamp"), moments),
    st.builds(HasId, st.lists(st.integers(1, 12).map(number), max_size=4)),
    st.builds(
        IsEmpty,
        st.sampled_from(
            ("zone_id", "tags", "index_number", "timestamp", "stopped", "metrics.productivity_score", "no")
        ),
    ),
)


def clauses(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Filter]:
    several = st.lists(inner, max_size=2)
    return st.builds(Filter, several, several, several)


filters = st.recursive(clauses(conditions), lambda inner: clauses(st.one_of(conditions, inner)), max_leaves=6)


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_every_filter_means_what_the_oracle_says(side, folder) -> None:
    with side.open(folder) as store:
        store.ensure(CASES, fingerprint=PRINT)

        @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(st.lists(payloads, min_size=12, max_size=12), st.lists(filters, min_size=6, max_size=6))
        def holds_for(drawn: list[dict[str, Any]], asked: list[Filter]) -> None:
            points = [Point(number(at), {"symptom": vector(at)}, None, payload) for at, payload in enumerate(drawn, 1)]
            store.upsert(NAME, points)
            for filter in asked:
                expected = {point.id for point in points if holds(filter, point)}
                hits = store.search(NAME, SearchRequest(vector(0), "symptom", filter=filter, limit=50))
                assert {hit.id for hit in hits} == expected, filter
                assert store.count(NAME, filter) == len(expected), filter

        holds_for()
