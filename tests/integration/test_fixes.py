"""What fixed it, on a real Postgres and a real index: the sample history, and cases made to be awkward."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from edge.cases import Casebook, NewCase
from edge.cases.casebook import import_cases
from edge.config import Settings
from edge.dashboard import create_app
from edge.dashboard.accounts import create_account, create_token
from edge.db import Database
from edge.embedding import Encoder
from edge.errors import Rejected
from edge.indexing import Indexer
from edge.search import Filters, Fix, FixReport, Like, Mode, Question, SearchEngine
from edge.search.fixes import SAME_FIX, FixBook, group
from edge.simulation import load_sample
from edge.vectors import EmbeddedStore, physical_name

NOW = datetime(2026, 6, 10, tzinfo=UTC)

#: Pairs of the sample history that tell the same fix, found by reading all of its fixes one by one.
SAME = {
    frozenset(pair.split())
    for pair in (
        "ASM-2025-001 PKG-2025-018", "ASM-2025-001 ASM-2025-008", "ASM-2025-008 PKG-2025-018",
        "ASM-2025-001 WLD-2025-003", "PKG-2025-018 WLD-2025-003", "ASM-2025-008 WLD-2025-003",
        "ASM-2025-014 PKG-2025-025", "ASM-2025-019 PKG-2025-072", "ASM-2025-011 PKG-2026-045",
        "WH-2025-016 WH-2026-047", "ASM-2025-003 ASM-2025-012", "SMT-2025-009 SMT-2026-053",
        "SMT-2025-028 SMT-2026-089", "ASM-2026-006 CNC-2026-010", "ASM-2026-007 INJ-2025-026",
        "WH-2025-032 WH-2026-060", "INJ-2025-018 WH-2025-032", "INJ-2025-018 WH-2026-060",
        "INJ-2026-001 SAF-2026-003", "INJ-2026-001 SAF-2025-017", "SAF-2025-017 SAF-2026-003",
        "SMT-2025-047 SMT-2026-063", "SMT-2025-025 SMT-2026-080", "CNC-2025-012 UTL-2025-004",
        "UTL-2025-017 UTL-2026-007", "SAF-2025-002 SAF-2025-010", "ASM-2026-007 PKG-2025-041",
        "INJ-2025-026 PKG-2025-041", "SAF-2025-014 WH-2025-043", "PKG-2025-011 PKG-2026-083",
        "ASM-2025-026 UTL-2025-013", "INJ-2025-024 INJ-2026-007",
    )
}  # fmt: skip


class Shelf:
    """A history, its index, and the search over both."""

    def __init__(self, settings: Settings, db: Database, index: EmbeddedStore, encoder: Encoder) -> None:
        self.settings, self.db, self.index, self.encoder = settings, db, index, encoder
        self.casebook = Casebook(db)
        self.engine = SearchEngine(self.casebook, index, encoder, settings.search)
        self._indexer = Indexer(db, index, encoder)
        self._indexer.open()

    def settle(self) -> None:
        while self._indexer.step(64):
            pass

    def put(self, record_id: str, days_ago: int = 200, **facts: Any) -> None:
        """A closed case of a compressor that trips, unless the facts say otherwise."""
        at = NOW - timedelta(days=days_ago)
        values: dict[str, Any] = {
            "kind": "anomaly", "type": "compressor_fault", "severity": "medium", "origin": "import", "language": "en",
            "description": "Air compressor trips on high oil temperature", "root_cause": "Cooler blocked with dust",
            "resolution": "Blew out the oil cooler", "outcome": "held", "zone_id": "UTL-1", "occurred_at": at,
            "closed_at": at + timedelta(hours=1), "minutes_to_restore": 60,
        } | facts  # fmt: skip
        with self.db.transaction() as tx:
            import_cases(tx, [NewCase(record_id=record_id, **values)])

    def ask(self, text: str = "compressor stops, oil too hot", **options: Any) -> FixReport:
        self.settle()
        return self.engine.fixes(Question(text, **options), now=NOW)


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


def only(report: FixReport) -> Fix:
    (fix,) = report.fixes
    return fix


# --- the sample history ---------------------------------------------------------------------------------------------


def test_one_fix_told_in_two_languages_is_counted_once_and_told_in_the_askers(sample: Shelf) -> None:
    english = sample.ask("FL-03 battery dies after half a shift")
    best = english.fixes[0]
    assert set(best.cases) == {"WH-2025-016", "WH-2026-047"}
    assert (best.worked, best.tried, best.unknown, best.language) == (2, 2, 0, "en")
    assert best.interval is not None
    assert 0.3 < best.interval.low < 0.4
    assert "DI water" in best.text
    thai = sample.ask("แบตรถยก FL-03 หมดไว ชาร์จเต็มทั้งคืนแต่วิ่งได้ครึ่งกะ").fixes[0]
    assert set(thai.cases) == set(best.cases)
    assert (thai.language, thai.told_by) == ("th", "WH-2026-047")


def test_what_did_not_hold_stands_last_and_says_that_it_came_back(sample: Shelf) -> None:
    report = sample.ask("สายพาน CONV-002 หยุดเองบ่อย เซ็นเซอร์ฟ้องงานติด")
    assert report.fixes[0].worked
    last = report.fixes[-1]
    assert last.worked == 0
    assert last.returned
    wiped = next(fix for fix in report.fixes if "ASM-2025-001" in fix.cases)
    assert "PKG-2025-018" in wiped.cases, "both only wiped the lens"
    assert (wiped.worked, wiped.tried, wiped.returned) == (0, 2, 2)


def test_nothing_alike_is_said_plainly(sample: Shelf) -> None:
    report = sample.ask("The accountant wants last year's invoices for the canteen")
    assert (report.new, report.fixes, report.closed, report.recurrence.times) == (True, (), 0, 0)
    assert report.nearest is not None
    assert report.known < 0.5


def test_a_case_is_not_like_itself(sample: Shelf) -> None:
    case = sample.casebook.get("WH-2026-047")
    assert case is not None
    report = sample.engine.fixes(case, now=NOW)
    assert "WH-2026-047" not in {record_id for fix in report.fixes for record_id in fix.cases}
    assert "WH-2025-016" in {record_id for fix in report.fixes for record_id in fix.cases}


def test_the_measured_threshold_joins_few_fixes_and_mostly_the_right_ones(sample: Shelf) -> None:
    """The measurement behind `SAME_FIX`: of all pairs of fixes that any one case of the history brings together."""
    book = FixBook(sample.casebook, sample.index, sample.encoder, sample.engine.feedback)
    curve = sample.engine.calibrations.current().fix

    def physical(name: str) -> str:
        return physical_name(name, sample.encoder.fingerprint)

    seen: set[frozenset[str]] = set()
    joined: set[frozenset[str]] = set()
    cases = sample.casebook.history(limit=1_000).cases
    for case in cases:
        answer = sample.engine.search(
            Question(case.description, Filters(statuses=("closed",)), limit=100, explain=False)
        )
        like = [Like(hit.case, hit.score, hit.probability) for hit in answer.hits if hit.band != "weak"]
        ids = [one.case.record_id for one in like]
        seen |= {frozenset((a, b)) for a in ids for b in ids if a != b}
        for rows in group(book._likeness(like, physical, curve), SAME_FIX):
            joined |= {frozenset((ids[a], ids[b])) for a in rows for b in rows if a != b}
    right = joined & SAME
    assert len(right) >= 3, "the bearing, the lens, the battery, the cups"
    assert len(right) / len(joined) >= 0.3, sorted(sorted(pair) for pair in joined - SAME)
    assert len(joined) <= 0.02 * len(seen), "most pairs of fixes are two"


# --- made to be awkward ---------------------------------------------------------------------------------------------


def test_one_case_is_one_of_one_and_no_more(shelf: Shelf) -> None:
    shelf.put("A-1")
    report = shelf.ask()
    fix = only(report)
    assert (fix.worked, fix.tried, fix.median_minutes, fix.returned, fix.cases) == (1, 1, 60, 0, ("A-1",))
    assert fix.interval is not None
    assert fix.interval.low == pytest.approx(0.207, abs=1e-3)
    assert (report.new, report.closed, report.recurrence.times, report.recurrence.trend) == (False, 1, 1, None)


def test_when_nobody_knows_the_outcome_nothing_is_claimed(shelf: Shelf) -> None:
    for number in range(3):
        shelf.put(f"A-{number}", outcome="unknown", days_ago=200 + 40 * number)
    fix = only(shelf.ask())
    assert (fix.worked, fix.tried, fix.unknown, fix.interval) == (0, 0, 3, None)


def test_an_empty_history_has_no_nearest(shelf: Shelf) -> None:
    report = shelf.ask()
    assert (report.new, report.nearest, report.band, report.fixes) == (True, None, None, ())


def test_a_like_case_without_a_fix_is_counted_as_untold(shelf: Shelf) -> None:
    shelf.put("A-1", resolution=None, root_cause=None)
    report = shelf.ask()
    assert (report.new, report.closed, report.untold, report.fixes) == (False, 1, 1, ())


def test_the_latest_that_held_tells_the_fix(shelf: Shelf) -> None:
    shelf.put("A-1", days_ago=400, resolution="Blew out the oil cooler with air")
    shelf.put("A-2", days_ago=300, resolution="Blew out the oil cooler")
    shelf.put("A-3", days_ago=200, resolution="Blew out the oil cooler again", outcome="recurred")
    fix = only(shelf.ask())
    assert (fix.text, fix.worked, fix.tried) == ("Blew out the oil cooler", 2, 3)
    assert fix.last_used == NOW - timedelta(days=200) + timedelta(hours=1)


@pytest.mark.parametrize(
    ("second", "back"),
    [
        ({"days_ago": 180}, 1),
        ({"days_ago": 160}, 0),
        ({"days_ago": 180, "zone_id": "UTL-2"}, 0),
        ({"days_ago": 180, "type": "leak", "description": "Water on the floor below the sink"}, 0),
        ({"days_ago": 220}, 1),
    ],
)
def test_the_same_type_in_the_same_zone_within_30_days_is_a_return(
    shelf: Shelf, second: dict[str, Any], back: int
) -> None:
    shelf.put("A-1")
    shelf.put("A-2", **{"outcome": "unknown"} | second)
    returned = sum(fix.returned for fix in shelf.ask().fixes)
    assert returned == back


def test_a_report_returns_only_when_it_reads_alike(shelf: Shelf) -> None:
    shelf.put("A-1", type="report")
    shelf.put(
        "A-2", type="report", days_ago=190, description="Two people without safety glasses",
        root_cause="No stock", resolution="Ordered two boxes of glasses",
    )  # fmt: skip
    assert only(shelf.ask()).returned == 0
    shelf.put("A-3", type="report", days_ago=185, description="Compressor tripped, oil temperature too high")
    assert only(shelf.ask()).returned == 1


def test_recurrence_rises_and_counts_open_cases_too(shelf: Shelf) -> None:
    for number, days in enumerate((5, 15, 25, 35, 45, 55, 65, 400)):
        shelf.put(f"A-{number}", days_ago=days, zone_id="UTL-1" if number % 2 else "UTL-2")
    shelf.casebook.open(
        NewCase(
            kind="anomaly", type="report", severity="high", origin="person", language="en", zone_id="UTL-1",
            description="Compressor tripped, oil temperature too high", occurred_at=NOW - timedelta(days=1),
        ),
        actor="nok",
    )  # fmt: skip
    seen = shelf.ask().recurrence
    assert (seen.times, seen.last, seen.before, seen.trend) == (9, 8, 0, "rising")
    assert [(place.zone_id, place.count) for place in seen.places] == [("UTL-1", 5), ("UTL-2", 4)]


def test_filters_narrow_the_like_cases_and_statuses_are_passed_over(shelf: Shelf) -> None:
    shelf.put("A-1", zone_id="UTL-1")
    shelf.put("A-2", zone_id="UTL-2", days_ago=100)
    report = shelf.ask(filters=Filters(zone_ids=("UTL-2",), statuses=("open",)))
    assert [fix.cases for fix in report.fixes] == [("A-2",)]


def test_a_question_without_words_is_refused(shelf: Shelf) -> None:
    with pytest.raises(Rejected, match="question is empty"):
        shelf.ask("  ")


def test_modes_rank_by_cosines_by_words_or_by_both(shelf: Shelf) -> None:
    shelf.put("A-1", description="Air compressor trips on high oil temperature")
    shelf.put("A-2", description="ปั๊มลมตัด น้ำมันร้อนเกิน", language="th", root_cause=None, resolution=None)
    shelf.settle()
    scores = {
        mode: {hit.case.record_id: hit for hit in shelf.engine.search(Question("oil temperature", mode=mode)).hits}
        for mode in Mode
    }
    assert scores[Mode.LEXICAL]["A-1"].by == "words"
    assert scores[Mode.DENSE]["A-1"].by != "words"
    assert scores[Mode.HYBRID]["A-1"].score > scores[Mode.DENSE]["A-1"].score
    assert shelf.engine.search(Question("…", mode=Mode.LEXICAL)).hits == ()


# --- as JSON --------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(sample: Shelf) -> Iterator[TestClient]:
    app = create_app(sample.settings, sample.db, sample.casebook, sample.engine)
    token = create_token(sample.db, "program", ["read"], 1)
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


def test_a_program_asks_for_fixes_of_a_text_and_of_a_case(program: TestClient) -> None:
    asked = {"text": "FL-03 battery dies after half a shift", "language": "th"}
    answer = program.post("/api/v1/fixes", json=asked)
    assert answer.status_code == 200
    body = answer.json()
    assert body["new"] is False
    best = body["fixes"][0]
    assert (best["worked"], best["tried"], best["language"]) == (2, 2, "th")
    assert best["share"]["low"] < 0.5 < best["share"]["high"]
    assert body["recurrence"]["times"] == body["closed"]
    of_case = program.get("/api/v1/cases/WH-2026-047/fixes").json()
    assert "WH-2025-016" in {record_id for fix in of_case["fixes"] for record_id in fix["cases"]}
    assert program.get("/api/v1/cases/WH-2026-047").json()["id"] == "WH-2026-047", "the case itself is still there"


def test_filters_of_a_program_reach_the_fixes(program: TestClient) -> None:
    narrowed = {"text": "battery dies", "filters": {"zone_ids": ["WH-1"]}}
    places = program.post("/api/v1/fixes", json=narrowed).json()["recurrence"]["places"]
    assert {place["zone_id"] for place in places} <= {"WH-1"}
    nothing = {"text": "battery dies", "collections": ["incident_reports"], "filters": {"kinds": ["anomaly"]}}
    body = program.post("/api/v1/fixes", json=nothing).json()
    assert (body["new"], body["fixes"], body["nearest"]) == (True, [], None)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/v1/fixes", {"text": ""}, 422),
        ("POST", "/api/v1/fixes", {"text": "   "}, 422),
        ("POST", "/api/v1/fixes", {"text": "x", "colour": "red"}, 422),
        ("GET", "/api/v1/cases/none/fixes", None, 404),
        ("GET", "/api/v1/cases/%00/fixes", None, 404),
        ("GET", "/api/v1/cases/WH-2026-047/fixes?language=fr", None, 422),
    ],
)
def test_what_cannot_be_answered_is_a_problem_in_words(
    program: TestClient, method: str, path: str, body: dict[str, Any] | None, status: int
) -> None:
    answer = program.request(method, path, json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].endswith(".")


# --- on the pages ---------------------------------------------------------------------------------------------------


@pytest.fixture
def person(sample: Shelf) -> Iterator[TestClient]:
    app = create_app(sample.settings, sample.db, sample.casebook, sample.engine)
    create_account(sample.db, "nok", "long enough to pass", "supervisor")
    with TestClient(app, headers={"Origin": "http://testserver"}, cookies={"andon_language": "th"}) as client:
        client.post("/sign-in", data={"username": "nok", "password": "long enough to pass"})
        yield client


def test_a_supervisor_reads_what_fixed_it_above_the_results_and_on_the_case(person: TestClient) -> None:
    found = person.get("/search", params={"q": "FL-03 battery dies after half a shift"}).text
    assert "เคยแก้ยังไงบ้าง" in found
    assert "ได้ผล 2 จาก 2 ครั้ง" in found
    assert "เติมน้ำกลั่น" in found, "told in the reader's language, though the question was English"
    assert found.index("เคยแก้ยังไงบ้าง") < found.index('class="past')
    case = person.get("/cases/WH-2025-005").text
    assert "ได้ผล" in case
    assert "/cases/WH-2026-047" in case
    person.cookies.set("andon_language", "en")
    assert "Worked 2 of 2 times" in person.get("/search", params={"q": "FL-03 battery dies after half a shift"}).text


def test_where_nothing_is_alike_no_fix_is_shown(person: TestClient) -> None:
    found = person.get("/search", params={"q": "The accountant wants last year's invoices for the canteen"}).text
    assert "เคยแก้ยังไงบ้าง" not in found
