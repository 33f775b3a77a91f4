"""The path of an event, arrow by arrow, on real parts: every arrow leaves a row in Postgres."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.analytics import Interpreter
from edge.cases import Casebook
from edge.config import Settings
from edge.contract import Limits
from edge.db import Database
from edge.embedding import Encoder
from edge.indexing import Indexer, reconcile
from edge.intake import Arrival, quarantine, store
from edge.search import Filters, Matcher, Question, SearchEngine
from edge.simulation import load_sample
from edge.vectors import EmbeddedStore

TOPIC = "andon/demo/assembly/line-2/cell-1/report/hand"


class Appliance:
    """The worker's steps, called by hand."""

    def __init__(self, settings: Settings, db: Database, index: EmbeddedStore, encoder: Encoder) -> None:
        self.db = db
        self.index = index
        self.casebook = Casebook(db)
        self.engine = SearchEngine(self.casebook, index, encoder, settings.search)
        self.interpreter = Interpreter(settings, db)
        self.indexer = Indexer(db, index, encoder)
        self.indexer.open()
        self.matcher = Matcher(db, self.casebook, self.engine, limit=5)

    def settle(self) -> None:
        for _ in range(200):
            if not any([self.interpreter.step(), self.indexer.step(), self.matcher.step()]):
                return
        raise AssertionError("the steps never ran out of work")


@pytest.fixture
def appliance(settings: Settings, db: Database, tmp_path: Path, encoder: Encoder) -> Appliance:
    with EmbeddedStore(tmp_path / "vectors") as index:
        yield Appliance(settings, db, index, encoder)


def send(db: Database, body: object, topic: str = TOPIC) -> None:
    payload = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    store(db, [Arrival("mqtt", topic, payload)], Limits())


def test_a_thai_report_becomes_a_case_with_english_cases_beside_it(appliance: Appliance) -> None:
    assert load_sample(appliance.db) >= 200
    appliance.settle()
    send(appliance.db, {"id": "1", "text": "CONV-002 นิ่งสนิทเลยครับ กดสตาร์ทก็เฉย จอไม่ฟ้องอะไรซักอย่าง"})
    appliance.settle()
    (live,) = appliance.casebook.board()
    assert live.indexed
    assert live.case.zone is not None
    assert live.case.zone.id == "ASM-3"
    assert live.matches[0].score > 0.5
    [told_in_english] = [match.case for match in live.matches if match.case.record_id == "ASM-2026-010"]
    assert told_in_english.language == "en"
    assert all(match.case.resolution for match in live.matches)
    assert appliance.casebook.evidence(live.case)[0].event_id == "1"


def test_a_question_in_one_language_finds_cases_in_the_other(appliance: Appliance) -> None:
    load_sample(appliance.db)
    appliance.settle()
    english = appliance.engine.search(Question("ลมรั่ว แรงดันลมตกทุกเช้า", Filters(languages=("en",))))
    assert "UTL-2025-002" in [hit.case.record_id for hit in english.hits[:3]]
    thai = appliance.engine.search(Question("forklift nearly hit a pedestrian", Filters(languages=("th",))))
    assert "SAF-2025-001" in [hit.case.record_id for hit in thai.hits[:3]]


def test_a_closed_case_is_found_by_its_fix(appliance: Appliance) -> None:
    send(appliance.db, {"id": "1", "text": "เครื่องสั่นผิดปกติ"})
    appliance.settle()
    case = appliance.casebook.board()[0].case
    appliance.casebook.close(
        case, actor="engineer", root_cause="น็อตฐานเครื่องหลวม", resolution="ขันน็อตฐานใหม่ ใส่แหวนล็อค", outcome="held"
    )
    appliance.settle()
    answer = appliance.engine.search(Question("put in a lock washer"))
    assert [hit.case.record_id for hit in answer.hits] == [case.record_id]
    assert answer.hits[0].by == "fix"
    assert answer.hits[0].case.outcome == "held"


def test_the_same_alarm_folds_into_one_case_and_every_event_is_kept(appliance: Appliance) -> None:
    topic = "andon/demo/assembly/line-1/cell-1/camera/cam-asm-1"
    for number in range(4):
        send(appliance.db, {"id": str(number), "kind": "idle", "seconds": 400 + 200 * number}, topic)
    appliance.settle()
    (live,) = appliance.casebook.board()
    assert live.case.occurrences == 4
    assert live.case.severity == "high"
    assert len(appliance.casebook.evidence(live.case)) == 4


def test_a_case_that_came_before_the_history_is_looked_up_again(appliance: Appliance) -> None:
    send(appliance.db, {"id": "1", "text": "CONV-002 นิ่งสนิทเลยครับ กดสตาร์ทก็เฉย จอไม่ฟ้องอะไรซักอย่าง"})
    appliance.settle()
    assert appliance.casebook.board()[0].matches == ()
    load_sample(appliance.db)
    appliance.interpreter.step()
    appliance.matcher.step()
    appliance.settle()
    assert appliance.casebook.board()[0].matches[0].score > 0.5


def test_a_repeat_is_stored_once(appliance: Appliance) -> None:
    for _ in range(3):
        send(appliance.db, {"id": "same", "text": "ไฟดับทั้งไลน์"})
    appliance.settle()
    (live,) = appliance.casebook.board()
    assert live.case.occurrences == 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xff\xfe", "UTF-8"),
        (b"not json", "not valid JSON"),
        (b'{"text": NaN}', "NaN"),
        (b'{"id": "1", "text": "\\u0000"}', "NUL"),
        (b'{"id": "1", "text": "\\ud800"}', "surrogate"),
        (b'{"id": "1", "text": "x", "n": 1e400}', "too large"),
        (b'{"id": "1", "text": "x", "n": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"id": "1", "text": "x", "n": ' + b"[" * 40 + b"]" * 40 + b"}", "nested"),
        (b'{"id": "1", "id": "2", "text": "x"}', "twice"),
        (b'{"id": "1", "text": "x", "time": "2569-01-01T00:00:00+07:00"}', "Buddhist"),
        (b'{"id": "1", "text": "x", "time": "9999-12-31T23:59:59Z"}', "ahead"),
        (b'{"id": "1", "text": 5}', "text"),
        (b'{"id": "1", "kind": "dance"}', "kind"),
        (b"[]", "object"),
        (b"", "JSON"),
    ],
)
def test_poison_lands_in_quarantine_with_its_bytes_and_a_reason(
    appliance: Appliance, payload: bytes, reason: str
) -> None:
    send(appliance.db, payload)
    send(appliance.db, {"id": "after", "text": "ของดีที่ตามมา"})
    appliance.settle()
    (row,) = quarantine.find(appliance.db)
    assert bytes(row["payload"]) == payload
    assert reason in row["reason"]
    assert len(appliance.casebook.board()) == 1, "what follows a bad event must not wait for it"


def test_an_unknown_place_is_quarantined_in_words(appliance: Appliance) -> None:
    send(appliance.db, {"id": "1", "text": "x"}, "andon/demo/assembly/line-9/cell-1/report/hand")
    appliance.settle()
    (row,) = quarantine.find(appliance.db)
    assert "no zone at demo/assembly/line-9/cell-1" in row["reason"]


def test_an_index_that_lost_everything_is_rebuilt(
    appliance: Appliance, settings: Settings, tmp_path: Path, encoder: Encoder
) -> None:
    load_sample(appliance.db)
    appliance.settle()
    before = appliance.engine.search(Question("conveyor stops by itself"))
    with EmbeddedStore(tmp_path / "fresh") as empty:
        again = Appliance(settings, appliance.db, empty, encoder)
        assert reconcile(appliance.db, empty, fingerprint=encoder.fingerprint).missing >= 200
        again.settle()
        assert reconcile(appliance.db, empty, fingerprint=encoder.fingerprint).agree
        after = again.engine.search(Question("conveyor stops by itself"))
    assert [(hit.case.id, hit.score) for hit in after.hits] == [(hit.case.id, hit.score) for hit in before.hits]


def test_pages_of_one_question_never_repeat_or_skip(appliance: Appliance) -> None:
    load_sample(appliance.db)
    appliance.settle()
    whole = appliance.engine.search(Question("มอเตอร์ร้อน", limit=40))
    pages = [appliance.engine.search(Question("มอเตอร์ร้อน", limit=10, offset=start)) for start in (0, 10, 20, 30)]
    assert [hit.case.id for page in pages for hit in page.hits] == [hit.case.id for hit in whole.hits]
