"""What every side of the vector door promises."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from uuid import UUID, uuid4

import numpy as np
import pytest
from vector_sides import CASES, DIMENSION, PRINT, SIDES, case, number, vector

from edge.errors import Rejected, Stop, Unavailable
from edge.vectors import (
    COLLECTIONS,
    FacetCount,
    Filter,
    HasId,
    IsEmpty,
    Match,
    Point,
    Range,
    SearchRequest,
    SparseVector,
    TimeRange,
    embedded,
)

NAME = "anomaly_patterns"
BANGKOK = timezone(timedelta(hours=7))


def found(store, filter, **options):
    """The ids, as small numbers, of everything a filter lets through."""
    hits = store.search(NAME, SearchRequest(vector(0), "symptom", filter=filter, limit=100, **options))
    assert store.count(NAME, filter) == len(hits)
    return {hit.id.int for hit in hits}


# --- filters --------------------------------------------------------------------------------------------------------

FILTER_CASES = [
    case(1, zone_id="Z1", ok=True, n=1, score=0.5, tags=["a", "b"], timestamp="2026-01-05T00:00:00+07:00"),
    case(2, zone_id="Z2", ok=False, n=2, score=1.5, tags=["b"], timestamp="2026-01-04T17:00:00Z"),
    case(3, zone_id="Z1", ok=1, n=-3, score=2, tags=[], timestamp="2026-01-04T17:00:00.000001Z"),
    case(4, zone_id="โซน 4", ok="true", n=True, score=None, tags=None, timestamp="2026-01-05"),
    case(5, zone_id=["Z1", "Z2"], metrics={"productivity_score": 0.75, "deep": {"flag": True}}),
    case(6, zone_id=None, metrics={"productivity_score": 1}, parts=[{"no": "P-1", "n": 1}, {"no": "P-2", "n": 2}]),
    case(7, zone_id="", n=2**53 + 1, score=-1.5, timestamp=datetime(2026, 1, 6, 1, 2, 3, tzinfo=BANGKOK)),
    case(8, zone_id="z1", n=1.0, score="2", tags=["c", None], timestamp="yesterday", day=date(2026, 1, 7)),
]
EVENING = datetime(2026, 1, 4, 17, tzinfo=UTC)

FILTERS = [
    ("keyword", Filter(must=[Match("zone_id", ["Z1"])]), {1, 3, 5}),
    ("keyword, several", Filter(must=[Match("zone_id", ["Z2", "โซน 4"])]), {2, 4, 5}),
    ("keyword, empty text", Filter(must=[Match("zone_id", [""])]), {7}),
    ("array field", Filter(must=[Match("tags", ["b"])]), {1, 2}),
    ("array field with a null in it", Filter(must=[Match("tags", ["c"])]), {8}),
    ("nothing to match", Filter(must=[Match("zone_id", [])]), set()),
    ("not among nothing", Filter(must_not=[Match("zone_id", [])]), {1, 2, 3, 4, 5, 6, 7, 8}),
    ("true", Filter(must=[Match("ok", [True])]), {1}),
    ("false", Filter(must=[Match("ok", [False])]), {2}),
    ("NumPy's true", Filter(must=[Match("ok", [np.bool_(True)])]), {1}),
    ("true or false", Filter(must=[Match("ok", [True, False])]), {1, 2}),
    ("one is not true", Filter(must=[Match("ok", [1])]), {3}),
    ("mixed kinds", Filter(must=[Match("ok", [True, 1, "true"])]), {1, 3, 4}),
    ("not true", Filter(must_not=[Match("ok", [True])]), {2, 3, 4, 5, 6, 7, 8}),
    ("whole number", Filter(must=[Match("n", [1, -3])]), {1, 3}),
    ("beyond a double's precision", Filter(must=[Match("n", [2**53 + 1])]), {7}),
    ("nested flag", Filter(must=[Match("metrics.deep.flag", [True])]), {5}),
    ("objects in an array", Filter(must=[Match("parts[].no", ["P-2"])]), {6}),
    ("range", Filter(must=[Range("score", gt=0.5, lte=2)]), {2, 3}),
    ("range, open below", Filter(must=[Range("score", lt=0.5)]), {7}),
    ("range, both ends included", Filter(must=[Range("score", gte=0.5, lte=1.5)]), {1, 2}),
    ("range over a nested key", Filter(must=[Range("metrics.productivity_score", gte=0.75)]), {5, 6}),
    ("range without bounds on a number", Filter(must=[Range("n", gte=-3, lt=2)]), {1, 3, 8}),
    ("moment, included", Filter(must=[TimeRange("timestamp", gte=EVENING)]), {1, 2, 3, 4, 7}),
    ("moment, excluded", Filter(must=[TimeRange("timestamp", gt=EVENING)]), {3, 4, 7}),
    ("moment in another zone", Filter(must=[TimeRange("timestamp", lte=EVENING.astimezone(BANGKOK))]), {1, 2}),
    ("span", Filter(must=[TimeRange("timestamp", gt=EVENING, lt=EVENING + timedelta(days=1))]), {3, 4}),
    ("date only", Filter(must=[TimeRange("day", gte=datetime(2026, 1, 7, tzinfo=UTC))]), {8}),
    ("empty", Filter(must=[IsEmpty("tags")]), {3, 4, 5, 6, 7}),
    ("empty keyword", Filter(must=[IsEmpty("zone_id")]), {6}),
    ("empty nested", Filter(must_not=[IsEmpty("metrics.productivity_score")]), {5, 6}),
    ("ids", Filter(must=[HasId([number(2), number(7), number(99)])]), {2, 7}),
    ("no ids", Filter(must=[HasId([])]), set()),
    ("all of", Filter(must=[Match("zone_id", ["Z1"]), Match("tags", ["a"])]), {1}),
    ("any of", Filter(should=[Match("zone_id", ["Z2"]), Match("n", [-3])]), {2, 3, 5}),
    ("all, any and none of", Filter([Match("zone_id", ["Z1"])], [Match("n", [1, -3])], [Match("tags", ["a"])]), {3}),
    (
        "filters in filters",
        Filter(must=[Filter(should=[Match("n", [1]), Match("n", [2])]), Filter(must_not=[Match("tags", ["a"])])]),
        {2},
    ),
    ("everything", Filter(), {1, 2, 3, 4, 5, 6, 7, 8}),
    ("unknown field", Filter(must=[Match("nowhere", ["x"])]), set()),
]


def test_every_filter_means_the_same_on_every_side(store):
    store.upsert(NAME, FILTER_CASES)
    wrong = {name: found(store, filter) for name, filter, expected in FILTERS if found(store, filter) != expected}
    assert wrong == {}


@pytest.mark.parametrize(
    "build",
    [
        lambda: Match("zone_id", "Z1"),
        lambda: Match("n", [1.5]),
        lambda: Match("n", [2**63]),
        lambda: Match("", ["x"]),
        lambda: Match("zone_id", ["\ud800"]),
        lambda: Range("n", gt=math.nan),
        lambda: Range("n", gt=True),
        lambda: TimeRange("timestamp", gte=datetime(2026, 1, 1)),
        lambda: TimeRange("timestamp", gte="2026-01-01"),
        lambda: HasId(["not-a-uuid"]),
        lambda: Filter(must=["zone_id"]),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused_at_once(build):
    with pytest.raises(Rejected):
        build()


# --- scores ---------------------------------------------------------------------------------------------------------


def test_dense_scores_are_cosines(store):
    points = [case(index) for index in range(1, 60)]
    store.upsert(NAME, points)
    query = vector(0) * 3
    hits = store.search(NAME, SearchRequest(query, "symptom", limit=59))
    expected = {
        point.id: float(
            query @ point.vectors["symptom"] / np.linalg.norm(query) / np.linalg.norm(point.vectors["symptom"])
        )
        for point in points
    }
    assert [hit.id for hit in hits] == sorted(expected, key=lambda each: -expected[each])
    assert all(abs(hit.score - expected[hit.id]) < 1e-5 for hit in hits)


THAI = ["สาย", "พาน", "หยุด", "มอเตอร์", "M-07", "ร้อน", "ติด", "เซน", "เซอร์"]


def terms(*words):
    return SparseVector([4_000_000_000 - THAI.index(word) for word in words], [1.0] * len(words))


def test_sparse_thai_terms_score_by_their_rarity(store):
    documents = [
        terms("สาย", "พาน", "หยุด"),
        terms("มอเตอร์", "M-07", "ร้อน"),
        terms("สาย", "พาน", "ติด"),
        terms("เซน", "เซอร์", "สาย"),
        None,
    ]
    store.upsert(
        NAME, [Point(number(i + 1), {"symptom": vector(i)}, sparse, {"i": i}) for i, sparse in enumerate(documents)]
    )
    hits = store.search(NAME, SearchRequest(terms("สาย", "M-07"), "terms"))

    def rarity(documents_with):
        return math.log(1 + (4 - documents_with + 0.5) / (documents_with + 0.5))

    assert [hit.id.int for hit in hits] == [2, 1, 3, 4]
    assert [hit.score for hit in hits] == pytest.approx([rarity(1), rarity(3), rarity(3), rarity(3)], abs=1e-5)
    assert store.search(NAME, SearchRequest(terms("ติด"), "terms", filter=Filter([Match("i", [0])]))) == []
    assert store.search(NAME, SearchRequest(SparseVector([], []), "terms")) == []
    assert store.search(NAME, SearchRequest(SparseVector([5], [1.0]), "terms")) == []


def test_threshold_offset_and_limit_cut_one_list(store):
    store.upsert(NAME, [case(index) for index in range(1, 40)])
    everything = store.search(NAME, SearchRequest(vector(0), "symptom", limit=39))
    pages = [
        store.search(NAME, SearchRequest(vector(0), "symptom", limit=7, offset=start)) for start in range(0, 42, 7)
    ]
    assert [hit.id for page in pages for hit in page] == [hit.id for hit in everything]
    bar = (everything[9].score + everything[10].score) / 2
    above = store.search(NAME, SearchRequest(vector(0), "symptom", limit=39, score_threshold=bar))
    assert [hit.id for hit in above] == [hit.id for hit in everything[:10]]


def test_equal_scores_are_ordered_by_id_even_at_the_edge_of_a_page(store):
    same = vector(1)
    ids = [uuid4() for _ in range(200)]
    store.upsert(NAME, [Point(each, {"symptom": same}) for each in ids])
    hits = store.search(NAME, SearchRequest(same, "symptom", limit=10))
    assert [hit.id for hit in hits] == sorted(ids)[:10]
    later = store.search(NAME, SearchRequest(same, "symptom", limit=10, offset=50))
    assert [hit.id for hit in later] == sorted(ids)[50:60]


@pytest.mark.parametrize(("settle", "reads"), [(True, [26, 138, 202]), (False, [26])])
def test_all_that_tie_are_read_only_where_it_is_asked_for(tmp_path, monkeypatch, settle, reads):
    read = []
    asked = embedded._query_batch

    def counted(queries, edge):
        found = asked(queries, edge)
        read.append(len(found[0]))
        return found

    monkeypatch.setattr(embedded, "_query_batch", counted)
    with embedded.EmbeddedStore(tmp_path / "vectors") as store:
        store.ensure(CASES, fingerprint=PRINT)
        store.upsert(NAME, [Point(uuid4(), {"symptom": vector(1)}) for _ in range(202)])
        hits = store.search(NAME, SearchRequest(vector(1), "symptom", settle_ties=settle))
    assert len(hits) == 10
    assert len({hit.score for hit in hits}) == 1
    assert read == reads


def test_several_searches_in_one_call_answer_in_order(store):
    store.upsert(NAME, [case(index) for index in range(1, 30)])
    requests = [SearchRequest(vector(seed), "symptom", limit=3) for seed in (5, 9, 17)]
    requests.insert(1, SearchRequest(SparseVector([], []), "terms"))
    together = store.search_many(NAME, requests)
    assert [[hit.id for hit in hits] for hits in together] == [
        [hit.id for hit in store.search(NAME, request)] for request in requests
    ]
    assert together[0][0].id == number(5)
    assert store.search_many(NAME, []) == []


def test_a_point_without_a_vector_is_not_found_by_it(store):
    store.upsert(
        NAME, [Point(number(1), {"symptom": vector(1)}), Point(number(2), {"fix": vector(2)}), Point(number(3), {})]
    )
    assert [hit.id for hit in store.search(NAME, SearchRequest(vector(2), "fix"))] == [number(2)]
    assert store.search(NAME, SearchRequest(vector(2), "cause")) == []
    assert store.count(NAME) == 3


# --- reading and writing --------------------------------------------------------------------------------------------


def test_what_was_written_comes_back(store):
    when = datetime(2026, 1, 5, 8, 30, tzinfo=BANGKOK)
    payload = {
        "ข้อความ": "สายพานหยุด",
        "when": when,
        "day": date(2026, 1, 5),
        "ref": number(9),
        "n": np.int64(7),
        "x": np.float32(0.5),
        "on": np.bool_(True),
        "none": None,
        "list": (1, "a", {"k": [True]}),
        "$": {"$": 1},
        "big": 2**63 - 1,
    }
    store.upsert(NAME, [Point(number(1), {"symptom": vector(1) * 5}, SparseVector([9, 3], [1, 2]), payload)])
    (point,) = store.get(NAME, [number(1)], with_vectors=True)
    assert point.payload == {
        "ข้อความ": "สายพานหยุด",
        "when": "2026-01-05T08:30:00+07:00",
        "day": "2026-01-05",
        "ref": str(number(9)),
        "n": 7,
        "x": 0.5,
        "on": True,
        "none": None,
        "list": [1, "a", {"k": [True]}],
        "$": {"$": 1},
        "big": 2**63 - 1,
    }
    assert point.payload["on"] is True
    assert set(point.vectors) == {"symptom"}
    assert point.vectors["symptom"] == pytest.approx(vector(1) / np.linalg.norm(vector(1)), abs=1e-6)
    assert (point.sparse.indices.tolist(), point.sparse.values.tolist()) == ([3, 9], [2.0, 1.0])
    (hit,) = store.search(NAME, SearchRequest(vector(1), "symptom", with_vectors=True, exact=True))
    assert hit.payload == point.payload
    assert hit.vectors["symptom"] == pytest.approx(point.vectors["symptom"])


def test_only_what_is_asked_for_is_read(store):
    payload = {"a": {"b": 1}, "c": "ค", "d": {"$": "hits"}}
    store.upsert(NAME, [Point(number(1), {"symptom": vector(1), "fix": vector(2)}, SparseVector([7], [1]), payload)])
    request = SearchRequest(vector(1), "symptom")
    wanted = {None: payload, ("a", "d", "none"): {"a": {"b": 1}, "d": {"$": "hits"}}, (): {}}
    for fields, expected in wanted.items():
        for with_vectors in (False, True):
            (hit,) = store.search(NAME, replace(request, fields=fields, with_vectors=with_vectors))
            assert dict(hit.payload) == expected
            assert hit.id == number(1)
            assert hit.score == pytest.approx(1, abs=1e-5)
    (point,) = store.get(NAME, [number(1)], with_vectors=("terms",))
    assert (point.sparse.indices.tolist(), dict(point.vectors), dict(point.payload)) == ([7], {}, {})
    (point,) = store.get(NAME, [number(1)], with_vectors=("fix",))
    assert (set(point.vectors), point.sparse) == ({"fix"}, None)
    with pytest.raises(Rejected, match="nowhere"):
        store.get(NAME, [number(1)], with_vectors=("nowhere",))


def test_writing_again_replaces_the_whole_point(store):
    store.upsert(NAME, [Point(number(1), {"symptom": vector(1), "fix": vector(2)}, SparseVector([1], [1]), {"a": 1})])
    store.upsert(NAME, [Point(number(1), {"symptom": vector(3)}, None, {"b": 2})])
    (point,) = store.get(NAME, [number(1)], with_vectors=True)
    assert (dict(point.payload), set(point.vectors), point.sparse) == ({"b": 2}, {"symptom"}, None)
    assert store.count(NAME) == 1


def test_the_last_of_equal_ids_wins(store):
    store.upsert(NAME, [case(1, n=1), case(2, n=5), case(1, n=2)])
    assert [point.payload["n"] for point in store.get(NAME, [number(2), number(1)])] == [5, 2]


def test_get_answers_in_the_order_asked_and_leaves_out_the_missing(store):
    store.upsert(NAME, [case(index) for index in range(1, 300)])
    asked = [number(index) for index in (250, 3, 999, 7, 3)]
    answers = store.get(NAME, asked)
    assert [point.id.int for point in answers] == [250, 3, 7]
    assert all(not point.vectors and point.sparse is None for point in answers)


def test_deleting_is_idempotent_and_spares_the_rest(store):
    store.upsert(NAME, [case(index) for index in range(1, 6)])
    store.delete(NAME, [number(2), number(4), number(99)])
    store.delete(NAME, [number(2)])
    store.delete(NAME, [])
    assert store.scroll_ids(NAME) == [number(1), number(3), number(5)]


def test_setting_a_payload_merges_and_names_the_missing(store):
    store.upsert(NAME, [case(1, status="open", outcome=None), case(2, status="open"), case(3, status="open")])
    when = datetime(2026, 1, 1, tzinfo=UTC)
    missing = store.set_payload(NAME, [number(1), number(77), number(2)], {"status": "fixed", "timestamp": when})
    assert missing == [number(77)]
    assert [point.payload["status"] for point in store.get(NAME, [number(i) for i in (1, 2, 3)])] == [
        "fixed",
        "fixed",
        "open",
    ]
    assert found(store, Filter([Match("status", ["fixed"]), TimeRange("timestamp", lte=when)])) == {1, 2}
    assert store.set_payload(NAME, [number(88)], {"a": 1}) == [number(88)]
    assert store.set_payload(NAME, [], {"a": 1}) == []


def test_pages_of_ids_are_complete_and_without_repeats(store):
    ids = sorted(uuid4() for _ in range(157))
    ids[0], ids[-1] = UUID(int=0), UUID(int=2**128 - 1)
    store.upsert(NAME, [Point(each, {"symptom": vector(index)}) for index, each in enumerate(ids)])
    seen: list[UUID] = []
    after = None
    while page := store.scroll_ids(NAME, after, limit=10):
        seen += page
        after = page[-1]
    assert seen == ids
    assert store.scroll_ids(NAME, UUID(int=ids[3].int - 1), limit=1) == [ids[3]]


def test_facets_count_values(store):
    store.upsert(NAME, FILTER_CASES)
    assert store.facet(NAME, "tags") == [FacetCount("b", 2), FacetCount("a", 1), FacetCount("c", 1)]
    assert store.facet(NAME, "tags", limit=1) == [FacetCount("b", 2)]
    assert store.facet(NAME, "tags", Filter([Match("zone_id", ["Z2"])])) == [FacetCount("b", 1)]
    assert store.facet(NAME, "severity") == []
    for unindexed in ("n", "timestamp", "nowhere"):
        with pytest.raises(Rejected):
            store.facet(NAME, unindexed)


# --- refusals -------------------------------------------------------------------------------------------------------

BAD_POINTS = {
    "wrong dimension": Point(number(500), {"symptom": vector(1, DIMENSION + 1)}),
    "a matrix": Point(number(500), {"symptom": np.ones((1, DIMENSION), np.float32)}),
    "NaN": Point(number(500), {"symptom": np.full(DIMENSION, np.nan, np.float32)}),
    "infinity": Point(number(500), {"symptom": np.full(DIMENSION, np.inf, np.float32)}),
    "no direction": Point(number(500), {"symptom": np.zeros(DIMENSION, np.float32)}),
    "unknown vector": Point(number(500), {"text": vector(1)}),
    "sparse under a dense name": Point(number(500), {"terms": vector(1)}),
    "naive time": Point(number(500), {"symptom": vector(1)}, None, {"at": datetime(2026, 1, 1)}),
    "NaN in the payload": Point(number(500), {"symptom": vector(1)}, None, {"x": math.nan}),
    "a number beyond 64 bits": Point(number(500), {"symptom": vector(1)}, None, {"x": 2**63}),
    "bytes": Point(number(500), {"symptom": vector(1)}, None, {"x": b"raw"}),
    "half a character": Point(number(500), {"symptom": vector(1)}, None, {"x": "\ud800"}),
    "an id of text": Point("500", {"symptom": vector(1)}),
}


def test_bad_points_are_refused_before_anything_is_written(store):
    good = [case(index) for index in range(1, 400)]
    for name, bad in BAD_POINTS.items():
        with pytest.raises(Rejected):
            store.upsert(NAME, [*good, bad])
            pytest.fail(name)
    assert store.count(NAME) == 0
    store.upsert(NAME, good)
    assert store.count(NAME) == 399


@pytest.mark.parametrize(
    ("indices", "values"),
    [([1, 2], [1.0]), ([1, 1], [1.0, 2.0]), ([-1], [1.0]), ([2**32], [1.0]), ([1], [math.nan]), (["a"], [1.0])],
)
def test_a_malformed_sparse_vector_is_refused(indices, values):
    with pytest.raises(Rejected):
        SparseVector(indices, values)


def test_searches_that_cannot_be_answered_are_refused(store):
    store.upsert(NAME, [case(1)])
    for request in (
        SearchRequest(vector(1, 3), "symptom"),
        SearchRequest(np.full(DIMENSION, np.nan, np.float32), "symptom"),
        SearchRequest(vector(1), "terms"),
        SearchRequest(vector(1), "nowhere"),
        SearchRequest(SparseVector([1], [1]), "symptom"),
        SearchRequest(vector(1), "symptom", limit=0),
        SearchRequest(vector(1), "symptom", offset=9_999),
        SearchRequest(vector(1), "symptom", score_threshold=math.nan),
    ):
        with pytest.raises(Rejected):
            store.search(NAME, request)
    for call in (
        lambda: store.count("nowhere"),
        lambda: store.scroll_ids(NAME, limit=0),
        lambda: store.get(NAME, ["x"]),
        lambda: store.stats("anomaly_patterns__model-z"),
    ):
        with pytest.raises(Rejected):
            call()
    assert store.count(NAME) == 1


def test_ensuring_again_changes_nothing_and_another_shape_is_refused(store):
    store.upsert(NAME, [case(1)])
    assert store.ensure(CASES, fingerprint=PRINT) == f"{NAME}__{PRINT}"
    for collection, fingerprint in (
        (CASES, "model-b"),
        (replace(CASES, dimension=8), PRINT),
        (replace(CASES, vectors=("symptom", "cause")), PRINT),
    ):
        with pytest.raises(Stop, match=NAME):
            store.ensure(collection, fingerprint=fingerprint)
    with pytest.raises(Rejected):
        store.ensure(CASES, fingerprint="../x")
    assert store.count(NAME) == 1
    assert store.versions(NAME).built == (PRINT,)


def test_a_new_encoder_is_built_beside_compared_switched_and_rolled_back(store):
    store.upsert(NAME, [case(1)])
    beside = store.build_beside(CASES, fingerprint="model-b")
    store.upsert(beside, [case(1), case(2)])
    assert (store.count(NAME), store.count(beside)) == (1, 2)
    store.switch(NAME, fingerprint="model-b")
    assert store.count(NAME) == 2
    assert (store.versions(NAME).active, store.versions(NAME).built) == ("model-b", (PRINT, "model-b"))
    assert store.count(f"{NAME}__{PRINT}") == 1
    with pytest.raises(Stop):
        store.ensure(CASES, fingerprint=PRINT)
    store.switch(NAME, fingerprint=PRINT)
    assert store.count(NAME) == 1
    for call in (lambda: store.switch(NAME, fingerprint="model-z"), lambda: store.drop(NAME, fingerprint=PRINT)):
        with pytest.raises(Stop):
            call()
    store.drop(NAME, fingerprint="model-b")
    store.drop(NAME, fingerprint="model-b")
    assert store.versions(NAME).built == (PRINT,)
    with pytest.raises(Rejected):
        store.count(beside)


def test_stats_and_description_tell_what_is_there(store):
    store.upsert(NAME, [case(1), case(2)])
    stats = store.stats(NAME)
    assert (stats.name, stats.fingerprint, stats.dimension, stats.points) == (NAME, PRINT, DIMENSION, 2)
    assert store.describe(NAME) == (CASES, PRINT)
    assert store.optimize(NAME) in (True, False)
    assert store.count(NAME) == 2


def test_all_five_collections_can_be_built_and_found(store):
    for name, collection in COLLECTIONS.items():
        if name == NAME:
            continue
        store.ensure(collection, fingerprint=PRINT)
        store.upsert(name, [Point(number(1), {collection.vectors[0]: vector(1, 768)}, payload={"site_id": "s1"})])
        request = SearchRequest(vector(1, 768), collection.vectors[0], Filter([Match("site_id", ["s1"])]))
        assert store.search(name, request)[0].score == pytest.approx(1, abs=1e-5)
        assert store.facet(name, "site_id") == [FacetCount("s1", 1)]


def test_a_closed_store_says_so(side, folder):
    with side.open(folder) as store:
        store.ensure(CASES, fingerprint=PRINT)
        store.close()
        store.close()
        with pytest.raises(Unavailable, match="closed"):
            store.count(NAME)


@pytest.mark.parametrize("side", [side for side in SIDES if side.durable], ids=lambda side: side.name)
def test_everything_is_there_after_opening_again(side, folder):
    with side.open(folder) as store:
        store.ensure(CASES, fingerprint=PRINT)
        store.upsert(NAME, [case(index) for index in range(1, 20)])
        with pytest.raises(Rejected):
            store.upsert(NAME, [case(20), BAD_POINTS["wrong dimension"]])
    with side.open(folder) as store:
        assert store.count(NAME) == 19
        assert store.search(NAME, SearchRequest(vector(7), "symptom"))[0].id == number(7)
        with pytest.raises(Stop):
            store.ensure(CASES, fingerprint="model-b")


@pytest.mark.parametrize("side", [side for side in SIDES if side.threads], ids=lambda side: side.name)
def test_threads_share_a_store(side, folder):
    with side.open(folder) as store:
        store.ensure(CASES, fingerprint=PRINT)

        def hammer(worker: int) -> None:
            for turn in range(15):
                own = [case(worker * 1000 + turn * 10 + each, worker=worker) for each in range(1, 11)]
                store.upsert(NAME, own)
                assert len(store.get(NAME, [point.id for point in own])) == 10
                hits = store.search(NAME, SearchRequest(own[0].vectors["symptom"], "symptom", limit=1))
                assert hits[0].id == own[0].id
                store.delete(NAME, [own[-1].id])
                store.facet(NAME, "site_id")

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(hammer, range(1, 13)))
        assert store.count(NAME) == 12 * 15 * 9
