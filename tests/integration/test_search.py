"""The search on a real Postgres, a real index and the model that ships: modes, filters, pages, batches, reasons."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
import psycopg
import pytest
from fastapi.testclient import TestClient
from psycopg.conninfo import make_conninfo

from edge import config
from edge.cases import Casebook, NewCase
from edge.cases.casebook import import_cases
from edge.config import Settings
from edge.dashboard import create_app
from edge.dashboard.accounts import create_token
from edge.db import Database
from edge.embedding import Encoder, detect_language, sparse_terms
from edge.errors import Rejected
from edge.indexing import SOURCES, Entity, Indexer, Source, point_id, reconcile
from edge.roles.evaluate import SETS, own_problems
from edge.search import BadFilter, Filters, Gone, Mode, Question, SearchEngine, Where
from edge.search.filters import VOCABULARY, compiled, parse, span
from edge.search.words import matched
from edge.simulation import load_sample
from edge.vectors import COLLECTIONS, EmbeddedStore, Point, SparseVector, physical_name

NOW = datetime.now(UTC)


class Shelf:
    """A history, its index, and the search over both."""

    def __init__(self, settings: Settings, db: Database, index: EmbeddedStore, encoder: Encoder) -> None:
        self.settings, self.db, self.index, self.encoder = settings, db, index, encoder
        self.casebook = Casebook(db)
        self.engine = SearchEngine(self.casebook, index, encoder, settings.search)
        self.indexer = Indexer(db, index, encoder)
        self.indexer.open()

    def settle(self) -> None:
        while self.indexer.step(64):
            pass

    def put(self, record_id: str, text: str, **facts: Any) -> None:
        values: dict[str, Any] = {
            "kind": "anomaly", "type": "fault", "severity": "medium", "origin": "import",
            "language": detect_language(text), "outcome": "held", "zone_id": "UTL-1", "occurred_at": NOW,
            "closed_at": NOW,
        } | facts  # fmt: skip
        with self.db.transaction() as tx:
            import_cases(tx, [NewCase(record_id=record_id, description=text, **values)])

    def ask(self, text: str, filters: Filters | None = None, **how: Any) -> list[str]:
        return [hit.record.record_id for hit in self.engine.search(Question(text, filters or Filters(), **how)).hits]


@pytest.fixture
def shelf(settings: Settings, db: Database, tmp_path: Path, encoder: Encoder) -> Iterator[Shelf]:
    with EmbeddedStore(tmp_path / "vectors") as index:
        yield Shelf(settings, db, index, encoder)
    # An index claims some 200 MB when it is made, and pytest would keep every one of them.
    shutil.rmtree(tmp_path / "vectors")


@pytest.fixture
def sample(shelf: Shelf) -> Shelf:
    load_sample(shelf.db)
    shelf.settle()
    return shelf


@pytest.fixture(scope="module")
def history(server: str, template: str, tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Iterator[Shelf]:
    """The sample history, indexed once for the tests that only ask."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE search_history TEMPLATE {template}")
    folder = tmp_path_factory.mktemp("history")
    settings = config.load(environ={"EDGE__DATA__DIR": str(folder)})
    with (
        Database(make_conninfo(server, dbname="search_history")).wait() as db,
        EmbeddedStore(folder / "vectors") as index,
    ):
        load_sample(db)
        shelf = Shelf(settings, db, index, encoder)
        shelf.settle()
        yield shelf
    shutil.rmtree(folder)


# --- filters --------------------------------------------------------------------------------------------------------


def test_conditions_over_every_kind_of_field_narrow_as_they_say(shelf: Shelf) -> None:
    shelf.put("old", "Pump leaks oil", occurred_at=NOW - timedelta(days=40), severity="low", tags=("pump", "oil"))
    shelf.put("week", "Pump leaks oil again", occurred_at=NOW - timedelta(days=3), severity="high", tags=("pump",))
    shelf.put("today", "Pump leaks water", occurred_at=NOW - timedelta(hours=2), kind="incident", zone_id="PKG-1")
    shelf.settle()

    def found(**filters: Any) -> set[str]:
        return set(shelf.ask("pump leaks", Filters(**filters)))

    assert found() == {"old", "week", "today"}
    assert found(last="24h") == {"today"}
    assert found(last="1w") == {"week", "today"}
    between = Where("timestamp", gte=NOW - timedelta(days=50), lt=NOW - timedelta(days=2))
    assert found(must=(between,)) == {"old", "week"}
    assert found(must=(Where("tags", ("pump",)), Where("severity", ("high", "critical")))) == {"week"}
    assert found(must_not=(Where("tags", ("oil",)),)) == {"week", "today"}
    assert found(should=(Where("tags", ("oil",)), Where("zone_id", ("PKG-1",)))) == {"old", "today"}
    assert found(must=(Where("tags", empty=True),)) == {"today"}
    assert found(must=(Where("tags", empty=False),)) == {"old", "week"}
    assert found(must=(Where("anomaly_type", ("fault",)),)) == {"old", "week"}, "incidents have no such field"
    assert found(must_not=(Where("anomaly_type", ("fault",)),)) == {"today"}
    assert found(zone_ids=("PKG-1",), kinds=("anomaly",)) == set()
    assert found(must=(Where("index_number", gte=1),)) == set()


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (Where("colour", ("red",)), "no field 'colour'.*severity"),
        (Where("severity", ("awful",)), "one of low, medium, high, critical"),
        (Where("timestamp", ("today",)), "takes bounds"),
        (Where("zone_id", gte=3), "takes any_of"),
        (Where("zone_id"), "exactly one of"),
        (Where("zone_id", ("a",), empty=True), "exactly one of"),
        (Where("index_number", ("three",)), "never 'three'"),
        (Where("index_number", (True,)), "never True"),
        (Where("timestamp", last="yesterday"), "30m, 24h, 7d or 2w"),
    ],
)
def test_a_bad_filter_names_the_field_and_what_is_allowed(history: Shelf, where: Where, said: str) -> None:
    for clause in ("must", "should", "must_not"):
        with pytest.raises(BadFilter, match=said) as caught:
            history.ask("pump", Filters(**{clause: (where,)}))
        assert caught.value.field


def test_every_indexed_field_of_every_collection_can_be_filtered_on() -> None:
    for collection in COLLECTIONS.values():
        for index in collection.indexes:
            value = {
                "keyword": Where(index.key, (VOCABULARY.get(index.key, ["x"])[0],)),
                "integer": Where(index.key, gte=1, lt=5), "float": Where(index.key, lte=0.5),
                "datetime": Where(index.key, last="7d"), "bool": Where(index.key, (True,)),
            }[index.kind]  # fmt: skip
            possible, where = compiled(Filters(must=(value,)), collection.name, NOW)
            assert possible
            assert where is not None
            assert where.must


def test_conditions_are_written_by_people_too() -> None:
    cases = ("anomaly_patterns",)
    assert parse("zone_id=Z1, Z2", cases) == Where("zone_id", ("Z1", "Z2"))
    assert parse("index_number >= 3", cases) == Where("index_number", gte=3.0)
    assert parse("index_number=3", cases) == Where("index_number", (3,))
    assert parse("timestamp=last:24h", cases) == Where("timestamp", last="24h")
    assert parse("tags=empty", cases) == Where("tags", empty=True)
    assert parse("timestamp<2026-01-05", cases).lt == datetime(2026, 1, 5, tzinfo=UTC)
    assert span("2w") == timedelta(days=14)
    for wrong in ("zone_id", "=3", "index_number>many", "timestamp>2026-01-05T10:00"):
        with pytest.raises(BadFilter):
            parse(wrong, cases)


# --- ranking --------------------------------------------------------------------------------------------------------


def test_a_batch_answers_as_each_question_alone(history: Shelf) -> None:
    questions = [
        Question("สายพานหยุดเอง", limit=5),
        Question("air pressure drops", Filters(languages=("th",)), 5, mode=Mode.DENSE),
        Question("SEAL-04 heater", limit=5, mode=Mode.LEXICAL),
        Question("forklift", collections=("incident_reports",), limit=3),
    ] * 6
    together = history.engine.search_many(questions)
    for question, answer in zip(questions[:4], together, strict=False):
        alone = history.engine.search(question)
        assert [(hit.case.id, hit.score) for hit in answer.hits] == [(hit.case.id, hit.score) for hit in alone.hits]
        assert answer.hits
    assert [answer.hits for answer in together[:4]] == [answer.hits for answer in together[-4:]]
    assert {hit.collection for hit in together[3].hits} == {"incident_reports"}


def test_threshold_and_diversity(history: Shelf) -> None:
    question = Question("สายพานหยุดเอง เซ็นเซอร์ฟ้องงานติด", limit=20)
    plain = history.engine.search(question).hits
    cut = plain[4].score
    above = history.engine.search(Question(question.text, limit=20, threshold=cut)).hits
    assert {hit.case.id for hit in above} == {hit.case.id for hit in plain if hit.score >= cut}
    varied = history.engine.search(Question(question.text, limit=20, diversity=0.6)).hits
    assert varied[0].case.id == plain[0].case.id

    def sameness(hits: Any) -> float:
        vectors = history.encoder.encode([hit.case.description for hit in hits[:6]])
        return float(np.mean((vectors @ vectors.T)[np.triu_indices(6, 1)]))

    assert sameness(varied) < sameness(plain)
    with pytest.raises(Rejected, match="from 0 to 1"):
        history.ask("x", diversity=2.0)


def test_one_text_alone_can_be_asked(shelf: Shelf) -> None:
    shelf.put("a", "Bottles fall over", root_cause="Guide rail loose", resolution="Replaced the encoder coupling")
    shelf.put("b", "Encoder coupling broken", root_cause="Overload", resolution="Slowed the feeder down")
    shelf.settle()
    assert shelf.ask("encoder coupling", asks="fix")[0] == "a"
    assert shelf.ask("encoder coupling", asks="symptom")[0] == "b"


def test_pages_by_cursor_neither_repeat_nor_skip_while_cases_come_in(sample: Shelf) -> None:
    asked = Question("มอเตอร์ร้อน", limit=7)
    whole = [hit.case.id for hit in sample.engine.search(Question(asked.text, limit=35)).hits]
    answer = sample.engine.search(asked)
    seen = [hit.case.id for hit in answer.hits]
    first_cursor = answer.cursor
    for number in range(4):
        # Each of these would stand at the very top of a ranking made anew.
        sample.put(f"NEW-{number}", f"มอเตอร์ร้อน {number}")
        sample.settle()
        assert answer.cursor is not None
        answer = sample.engine.next_page(answer.cursor, limit=7)
        seen += [hit.case.id for hit in answer.hits]
    assert seen == whole
    assert sample.ask(asked.text)[0].startswith("NEW-")
    assert first_cursor is not None
    again = sample.engine.next_page(first_cursor, limit=7)
    assert [hit.case.id for hit in again.hits] == whole[7:14], "a cursor may be used twice"
    for wrong in ("", "x.1", "A" * 16):
        with pytest.raises(Rejected):
            sample.engine.next_page(wrong)
    with pytest.raises(Gone):
        sample.engine.next_page("A" * 16 + ".10")


def test_paging_to_the_end_ends(history: Shelf) -> None:
    answer = history.engine.search(Question("บอยเลอร์", Filters(zone_ids=("UTL-3",)), 5))
    seen = [hit.case.id for hit in answer.hits]
    for _ in range(60):
        if answer.cursor is None:
            break
        answer = history.engine.next_page(answer.cursor, limit=5)
        seen += [hit.case.id for hit in answer.hits]
    assert not answer.more
    assert len(seen) == len(set(seen)) > 5


def test_results_and_fixes_come_from_one_ranking(sample: Shelf) -> None:
    question = Question("FL-03 battery dies after half a shift", Filters(statuses=("closed",)))
    answer, report = sample.engine.search_and_fixes(question)
    assert [hit.case.id for hit in answer.hits] == [hit.case.id for hit in sample.engine.search(question).hits]
    apart = sample.engine.fixes(question)
    assert [fix.cases for fix in report.fixes] == [fix.cases for fix in apart.fixes]
    live = sample.casebook.open(
        NewCase("anomaly", "report", "high", "person", question.text, "en", NOW, zone_id="WH-1"), actor="tester"
    )
    sample.settle()
    answer, report = sample.engine.search_and_fixes(question)
    assert live.id not in {hit.case.id for hit in answer.hits}
    assert report.recurrence.times == apart.recurrence.times + 1


def test_more_like_a_case_leaves_itself_out_and_says_what_is_shared(history: Shelf) -> None:
    case = history.casebook.get("WH-2025-016")
    assert case is not None
    answer = history.engine.similar(case, limit=5)
    assert case.id not in {hit.case.id for hit in answer.hits}
    near = {hit.case.record_id: hit for hit in answer.hits}["WH-2026-047"]
    assert near.why.place in ("zone", "line", "area")
    elsewhere = history.engine.similar(case, limit=3, filters=Filters(zone_ids=("PKG-1",)))
    assert {hit.why.place for hit in elsewhere.hits} <= {None}


# --- reasons --------------------------------------------------------------------------------------------------------


def test_the_first_results_vouch_for_the_cases_like_them(shelf: Shelf) -> None:
    shelf.put("first", "Pump leaks oil at the shaft seal")
    shelf.put("second", "Oil puddle under the pump, seal worn")
    shelf.put("kin", "น้ำมันซึมออกจากซีลเพลาปั๊ม")
    shelf.put("no", "Label printer ribbon broken")
    shelf.settle()
    question = Question("seal leaks")

    def gained(asked: Question) -> dict[str, float]:
        return {hit.record.record_id: hit.why.vouched for hit in shelf.engine.search(asked).hits}

    for mode in (Mode.HYBRID, Mode.DENSE):
        vouched = gained(replace(question, mode=mode))
        assert vouched["kin"] > 0.02
        assert vouched["no"] == 0
    assert not any(gained(replace(question, mode=Mode.LEXICAL)).values())
    everywhere = replace(question, collections=("anomaly_patterns", "knowledge_base"))
    assert not any(gained(everywhere).values()), "what lies on other scales must not be overtaken"
    best = shelf.engine.search(question).hits[0]
    bare = best.score - best.why.vouched
    assert shelf.engine.fixes(question).nearest == pytest.approx(bare, abs=2e-4), "known or new is judged without it"
    shelf.engine.feedback.say("engineer", "same", best.case, question.text)
    judged = shelf.engine.fixes(question).nearest
    assert judged == pytest.approx(bare + (1 - bare) / 2, abs=2e-4), "and moved once by what people say"


def test_each_result_says_why(shelf: Shelf) -> None:
    shelf.put("th", "ปั๊ม P-204 มีน\u0e4d\u0e49ามันรั่ว", root_cause="ซีลเพลาขาด", resolution="เปลี่ยนซีล P204")
    shelf.put("en", "Pump leaks oil at the shaft seal", zone_id="PKG-1")
    shelf.put("no", "Label printer ribbon broken")
    shelf.settle()
    hits = {hit.record.record_id: hit for hit in shelf.engine.search(Question("oil leak at pump p-204")).hits}
    thai, english, other = hits["th"].why, hits["en"].why, hits["no"].why
    for why, hit in ((thai, hits["th"]), (english, hits["en"])):
        assert why.dense + why.words + why.vouched == pytest.approx(hit.score, abs=2e-4)
        assert 0 < why.coverage <= 1
        assert why.cosines.keys() >= {"symptom"}
    text = hits["th"].case.description
    shown = [text[span.start : span.end] for span in thai.marks["symptom"]]
    assert "P-204" in shown
    assert any("มัน" in part for part in shown), "oil, found by its meaning, as it was typed"
    assert thai.numbers[0] == "P-204"
    assert {term.found: term.inferred for term in thai.terms}["P-204"] is False
    assert any(term.inferred for term in thai.terms)
    assert [english_text for english_text in ("oil",) if any(term.found == english_text for term in english.terms)]
    assert other.words < thai.words
    assert not other.numbers


def test_marks_lie_inside_the_text_and_never_overlap() -> None:
    worth = {}
    text = "เเบริ่งมอเตอร์ CONV-002 ดัง bearing noise มอเตอร์ร้อน น\u0e4d\u0e49ามันไฮดรอลิกรั่ว 15/3/2569"
    asked = "แบริ่งดัง CONV002 ไฮดรอลิก bearings motor 2026-03-15"
    _, marks, numbers = matched(asked, worth, {"symptom": text})
    spans = marks["symptom"]
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(one.end < other.start for one, other in pairwise(spans))
    shown = {text[span.start : span.end] for span in spans}
    assert {"CONV-002", "bearing", "15/3/2569"} <= shown
    assert any("เเบริ่ง" in one for one in shown)
    assert "CONV-002" in numbers
    assert matched("", worth, {"symptom": text}) == ((), {}, ())


# --- the API on the same parts ---------------------------------------------------------------------------------------


@pytest.fixture
def program(shelf: Shelf) -> TestClient:
    app = create_app(shelf.settings, shelf.db, shelf.casebook, shelf.engine)
    token = create_token(shelf.db, "program", ["read", "write", "admin"], 1)
    return TestClient(app, headers={"Authorization": f"Bearer {token}"})


def test_the_api_searches_pages_and_explains(shelf: Shelf, program: TestClient) -> None:
    for number in range(5):
        shelf.put(f"P-{number}", f"Pump {number} leaks oil", severity="high" if number % 2 else "low")
    shelf.settle()
    body = {"text": "ปั๊มน้ำมันรั่ว", "limit": 2, "filters": {"must": [{"field": "severity", "any_of": ["low"]}]}}
    first = program.post("/api/v1/search", json=body).json()
    assert len(first["results"]) == 2
    assert first["more"]
    why = first["results"][0]["why"]
    assert why["dense"] + why["words"] + why["vouched"] == pytest.approx(first["results"][0]["score"], abs=2e-4)
    assert why["marks"]["symptom"]
    second = program.post("/api/v1/search/next", json={"cursor": first["cursor"], "limit": 2}).json()
    ids = [hit["id"] for hit in first["results"] + second["results"]]
    assert sorted(ids) == ["P-0", "P-2", "P-4"]
    assert second["cursor"] is None
    assert program.post("/api/v1/search/next", json={"cursor": "A" * 16 + ".2"}).status_code == 410
    like = program.post("/api/v1/cases/P-0/similar", json={"limit": 1, "mode": "dense", "diversity": 0.1}).json()
    assert len(like["results"]) == 1
    assert like["results"][0]["why"]["place"] == "zone"
    bad = program.post("/api/v1/search", json={"text": "x", "filters": {"must": [{"field": "colour", "empty": True}]}})
    assert bad.status_code == 422
    assert bad.json()["field"] == "colour"
    assert "severity" in bad.json()["allowed"]
    wrong = program.post("/api/v1/search", json={"text": "belt", "filters": {"severities": ["extreme"]}}).json()
    assert wrong["field"] == "filters.severities.0"
    assert wrong["allowed"] == ["low", "medium", "high", "critical"]
    wrong = program.post("/api/v1/search", json={"text": "belt", "mode": "psychic"}).json()
    assert (wrong["field"], wrong["allowed"]) == ("mode", ["dense", "lexical", "hybrid"])
    bound = {"field": "index_number", "gt": []}
    wrong = program.post("/api/v1/search", json={"text": "belt", "filters": {"must": [bound]}}).json()
    assert wrong["field"] == "filters.must.0.gt"
    wrong = program.post("/api/v1/search", content=b'{"text": ', headers={"Content-Type": "application/json"}).json()
    assert "field" not in wrong
    queries = [{"qid": str(n), "text": f"pump {n}"} for n in range(20)]
    found = program.post("/api/v1/search/batch", json={"queries": queries, "limit": 1}).json()
    assert len(found) == 20
    assert found["3"][0]["id"] == "P-3"


def test_the_api_embeds_and_knows_the_collections(shelf: Shelf, program: TestClient) -> None:
    shelf.put("a", "Pump leaks oil")
    shelf.put("b", "ปั๊มรั่ว")
    shelf.settle()
    one = program.post("/api/v1/embed", json={"text": "ปั๊มรั่ว"}).json()
    many = program.post("/api/v1/embed/batch", json={"texts": ["ปั๊มรั่ว", "Pump leaks oil"]}).json()
    assert one["dimension"] == len(one["embedding"]) == 768
    assert one["embedding"] == many["embeddings"][0]
    assert np.linalg.norm(many["embeddings"][1]) == pytest.approx(1, abs=1e-5)
    assert one["fingerprint"] == shelf.encoder.fingerprint
    assert program.post("/api/v1/embed/batch", json={"texts": ["x"] * 257}).status_code == 422
    facts = {each["name"]: each for each in program.get("/api/v1/collections").json()}
    assert facts.keys() == COLLECTIONS.keys()
    cases = facts["anomaly_patterns"]
    assert (cases["points"], cases["by_language"]) == (2, {"en": 1, "th": 1})
    assert cases["fields"]["timestamp"] == "datetime"
    assert program.get("/api/v1/collections/nothing").status_code == 404


def test_a_deleted_point_is_gone_until_the_next_reconciliation(shelf: Shelf, program: TestClient) -> None:
    shelf.put("a", "Pump leaks oil")
    shelf.settle()
    address = "/api/v1/collections/anomaly_patterns/points"
    point = program.get(f"{address}/a", params={"vectors": True}).json()
    assert point["payload"]["record_id"] == "a"
    assert len(point["vectors"]["symptom"]) == 768
    assert program.get(f"{address}/{point['id']}").json()["vectors"] is None
    reader = create_token(shelf.db, "reader", ["read", "write"], 1)
    refused = program.delete(f"{address}/a", headers={"Authorization": f"Bearer {reader}"})
    assert refused.status_code == 403
    assert program.delete(f"{address}/{point['id']}").json()["id"] == point["id"]
    assert program.get(f"{address}/a").status_code == 404
    assert program.delete(f"{address}/a").status_code == 404
    assert shelf.ask("pump leaks") == []
    assert shelf.casebook.get("a") is not None
    assert reconcile(shelf.db, shelf.index, fingerprint=shelf.encoder.fingerprint).missing == 1
    shelf.settle()
    assert shelf.ask("pump leaks") == ["a"]


def test_too_many_calls_are_told_when_to_come_back(shelf: Shelf) -> None:
    strict = config.load(environ={"EDGE__WEB__API_CALLS_PER_MINUTE": "3", "EDGE__WEB__API_REFUSALS_PER_MINUTE": "2"})
    app = create_app(strict, shelf.db, shelf.casebook, shelf.engine)
    one, other = (
        TestClient(app, headers={"Authorization": f"Bearer {create_token(shelf.db, name, ['read'], 1)}"})
        for name in ("one", "other")
    )
    answers = [one.get("/api/v1/status") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    problem = answers[-1]
    assert problem.headers["content-type"] == "application/problem+json"
    assert 1 <= int(problem.headers["retry-after"]) <= 60
    assert "web.api_calls_per_minute" in problem.json()["detail"]
    assert other.get("/api/v1/status").status_code == 200
    stranger = TestClient(app)
    assert [stranger.get("/api/v1/status").status_code for _ in range(3)] == [401, 401, 429]


# --- several collections -----------------------------------------------------------------------------------------------

ROUTINE = {
    "en": "Work instruction, section {}. Before starting stop the machine, lock out power and tell the shift leader. "
    "Typical symptoms: {}. {}. After the repair run empty, check the first five parts and fill in the check sheet.",
    "th": "คู่มือการทำงาน บทที่ {} ก่อนเริ่มให้หยุดเครื่อง ตัดไฟ แขวนป้าย แล้วแจ้งหัวหน้ากะ อาการที่พบ: {} {} "
    "เมื่อแก้ไขแล้วให้ลองเดินเครื่องเปล่า ตรวจงานห้าชิ้นแรก บันทึกในใบตรวจเช็ค",
}  # fmt: skip


def test_chunks_and_cases_are_merged_on_one_scale(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind of problem, two tellings become a chunk of a manual amid its routine; the others stay cases."""
    told: dict[str, list[dict[str, Any]]] = {}
    with own_problems(SETS["own"][:1]) as (cases, queries, judgements):
        rows, questions, judged = (
            [json.loads(line) for line in file.read_text("utf-8").splitlines()] for file in (cases, queries, judgements)
        )
    for row in rows:
        told.setdefault(row["id"].rpartition("-")[0], []).append(row)
    chunks: dict[UUID, Entity] = {}
    for number, (kind, tellings) in enumerate(told.items()):
        language = ("en", "th")[number % 2]
        inside = [row for row in tellings if row["language"] == language][:2]
        text = ROUTINE[language].format(number + 1, inside[0]["description"], inside[-1]["description"])
        key = uuid5(NAMESPACE_URL, kind)
        fields = {"document_type": "sop", "section": str(number), "zone_applicable": ["UTL-1"], "tags": []}
        chunks[key] = Entity(key, 1, "demo", kind, language, {"text": text}, text, fields, f"WI-{number + 1}", text)
        for row in tellings:
            if row not in inside:
                shelf.put(row["id"], row["description"])
    shelf.settle()
    monkeypatch.setitem(
        SOURCES,
        "knowledge_base",
        Source("knowledge_base", lambda _, ids: [chunks[key] for key in ids if key in chunks]),
    )  # type: ignore[index]
    texts = [entity.text for entity in chunks.values()]
    shelf.index.upsert(
        physical_name("knowledge_base", shelf.encoder.fingerprint),
        [
            Point(
                point_id("knowledge_base", entity.id), {"text": vector},
                SparseVector(*(getattr(sparse_terms(entity.lexical), name) for name in ("indices", "values"))),
                entity.payload(shelf.encoder.fingerprint),
            )
            for entity, vector in zip(chunks.values(), shelf.encoder.encode(texts), strict=True)
        ],
    )  # fmt: skip
    everywhere = ("anomaly_patterns", "incident_reports", "knowledge_base")
    kinds = {judgement["qid"]: judgement["id"].rpartition("-")[0] for judgement in judged}

    def first_five() -> tuple[float, float, float]:
        """Of a question's first five: how many are right, how many are chunks and wrong, and is its own chunk there?"""
        answers = shelf.engine.search_many(
            [Question(query["text"], limit=5, collections=everywhere, explain=False) for query in questions]
        )
        right = crowding = own = 0
        for query, answer in zip(questions, answers, strict=True):
            kind = kinds[query["qid"]]
            for hit in answer.hits:
                chunk = hit.collection == "knowledge_base"
                same = (hit.record.record_id if chunk else hit.record.record_id.rpartition("-")[0]) == kind
                right += same
                crowding += chunk and not same
                own += chunk and same
        return right / len(questions), crowding / len(questions), own / len(questions)

    right, crowding, own = first_five()
    with monkeypatch.context() as patch:
        patch.setattr("edge.search.engine.rescaled", lambda score, here, cases: score)
        merely_right, merely_crowding, _ = first_five()
    # Merely sorted, chunks of other kinds push the cases out.
    assert crowding <= 0.8 * merely_crowding
    assert right >= 0.99 * merely_right
    assert own >= 0.8
    # A chunk comes as a record, on the API as well, and what has no such field is not searched.
    app = create_app(shelf.settings, shelf.db, shelf.casebook, shelf.engine)
    token = create_token(shelf.db, "program", ["read"], 1)
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        asked = {"text": questions[0]["text"], "collections": ["knowledge_base"], "filters": {"zone_ids": ["UTL-1"]}}
        hit = client.post("/api/v1/search", json=asked).json()["results"][0]
        assert (hit["case"], hit["collection"], hit["by"]) == (None, "knowledge_base", "text")
        assert hit["record"]["title"].startswith("WI-")
        assert hit["why"]["marks"]
        asked["filters"] = {"outcomes": ["held"]}
        assert client.post("/api/v1/search", json=asked).json()["results"] == []
