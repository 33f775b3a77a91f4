"""The sample shift tells two problems in three again, in other words and often the other language: are they found?"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.cases import Casebook
from edge.config import Settings, resources
from edge.db import Database
from edge.embedding import Encoder
from edge.indexing import Indexer
from edge.search import Filters, Question, SearchEngine
from edge.simulation import load_sample
from edge.vectors import EmbeddedStore

#: Short questions as people type them first. Something in the history answers these …
KNOWN = """ลมตกตอนเช้า|CONV-002 หยุดเอง|robot dropped part|ตะกั่วช็อต U7|forklift near miss|หัวพ่นหมึกตัน
ฉีดไม่เต็ม|short shot INJ-04|แบตโฟล์คลิฟท์หมดเร็ว|weld porosity|มีน้ำในท่อลม|water in compressed air
บอยเลอร์จุดไฟไม่ติด|weak pouch seal|ซีลซองไม่ติด|ทูลหักคางาน|tap broke in hole|chip conveyor jammed
กล้องเป็นฝ้า|AOI false calls|wrong reel loaded|label crooked|พาเลทหล่น|scanner wifi drops|หลังคารั่ว
chuck does not clamp|สายพานหยุด|มอเตอร์ร้อน|conveyor stops|wire feed problem|ลวดเชื่อมไม่เดิน|ไฟตก
chiller trips high pressure|พื้นลื่น|heat stress|ไม่ใส่หมวกนิรภัย"""

#: … and nothing answers these.
NEW = """giraffe on the roof|เงินเดือนไม่ออก|ลิฟต์โดยสารค้าง|แอร์ห้องประชุมไม่เย็น
office printer out of paper|น้ำท่วมลานจอดรถ|ปลวกกินตู้|x-ray machine error|สีพ่นรถหลุดลอก
cafeteria food poisoning|dyeing vat colour mismatch|kiln refractory cracked|ผ้าทอขาด
glass furnace leak|นกทำรังในโกดัง|elevator stuck with people|ขโมยของในล็อกเกอร์|bottle caps missing
solar panel dirty|ข้าวโรงอาหารบูด"""


@pytest.fixture
def engine(settings: Settings, db: Database, tmp_path: Path, encoder: Encoder) -> Iterator[SearchEngine]:
    load_sample(db)
    with EmbeddedStore(tmp_path / "vectors") as index:
        indexer = Indexer(db, index, encoder)
        indexer.open()
        while indexer.step(64):
            pass
        yield SearchEngine(Casebook(db), index, encoder, settings.search)


def test_what_happened_before_is_found_and_what_did_not_is_said_to_be_new(engine: SearchEngine) -> None:
    reports = tomllib.loads((resources() / "etc/sample/shift.toml").read_text("utf-8"))["report"]
    ranks, banded, called_new, missed = [], 0, 0, 0
    assert engine.calibrations.current().origin == "shipped", (
        "`edge calibrate --prior --output models/starter/calibration.json`"
    )

    def best(question: str) -> float:
        return engine.fixes(Question(question)).nearest or 0.0

    for report in reports:
        question = Question(report["text"], Filters(statuses=("closed",)), limit=10)
        answer, found = engine.search_and_fixes(question)
        hits = answer.hits
        ids = [hit.case.record_id for hit in hits]
        if "finds" in report:
            ranks.append(min((ids.index(wanted) + 1 for wanted in report["finds"] if wanted in ids), default=99))
            missed += found.new
            banded += hits[0].band != "weak"
        else:
            called_new += found.new
    best_known = [best(question) for question in KNOWN.replace("\n", "|").split("|")]
    best_new = [best(question) for question in NEW.replace("\n", "|").split("|")]
    apart = sum(one > other for one in best_known for other in best_new) / (len(best_known) * len(best_new))
    assert apart >= 0.88
    known, new = len(ranks), len(reports) - len(ranks)
    assert sum(rank <= 3 for rank in ranks) >= 0.93 * known
    assert sum(rank == 1 for rank in ranks) >= 0.75 * known
    assert banded >= 0.9 * known
    assert missed <= 0.1 * known
    assert called_new >= 0.7 * new
