"""Past cases from files as people keep them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.cases import Casebook
from edge.db import Database
from edge.errors import Rejected
from edge.importing import FIELDS, SourceRow, check_row, import_rows, read_rows

BANGKOK = ZoneInfo("Asia/Bangkok")
ROW = {"id": "A-1", "description": "มอเตอร์ร้อน", "timestamp": "2026-03-05 14:30"}


def rows_of(path: Path, **columns: str) -> list[SourceRow]:
    return list(read_rows(path, columns))


def test_three_formats_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROW, ensure_ascii=False) + "\n", "utf-8")
    (tmp_path / "a.csv").write_text("id,description,timestamp\nA-1,มอเตอร์ร้อน,2026-03-05 14:30\n", "utf-8")
    book = openpyxl.Workbook()
    book.active.append(["id", "description", "timestamp"])
    book.active.append(["A-1", "มอเตอร์ร้อน", datetime(2026, 3, 5, 14, 30)])
    book.save(tmp_path / "a.xlsx")
    book.close()
    cases = [check_row(rows_of(tmp_path / f"a.{kind}")[0].values, BANGKOK)[0] for kind in ("jsonl", "csv", "xlsx")]
    assert cases[0] == cases[1] == cases[2]
    assert cases[0].occurred_at == datetime(2026, 3, 5, 7, 30, tzinfo=UTC)
    assert cases[0].language == "th"


def test_thai_column_names_and_the_thai_code_page(tmp_path: Path) -> None:
    text = "เลขที่;อาการ;สาเหตุ;วิธีแก้ไข;วันที่\n12;ปั๊มรั่ว;ซีลแตก;เปลี่ยนซีล;05/03/2569 14.30\n"
    (tmp_path / "old.csv").write_bytes(text.encode("cp874"))
    case, _ = check_row(rows_of(tmp_path / "old.csv")[0].values, BANGKOK)
    assert (case.record_id, case.description, case.root_cause) == ("12", "ปั๊มรั่ว", "ซีลแตก")
    assert case.resolution == "เปลี่ยนซีล"
    assert case.occurred_at == datetime(2026, 3, 5, 7, 30, tzinfo=UTC)


def test_a_column_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,timestamp,what we saw\n1,2026-03-05,smoke\n")
    with pytest.raises(Rejected, match="--map description=COLUMN"):
        rows_of(tmp_path / "a.csv")
    assert rows_of(tmp_path / "a.csv", description="what we saw")[0].values["description"] == "smoke"
    with pytest.raises(Rejected, match="no field"):
        rows_of(tmp_path / "a.csv", symptom="what we saw")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"id": ""}, "id is missing"),
        ({"description": None}, "description is missing"),
        ({"timestamp": ""}, "timestamp is missing"),
        ({"timestamp": "yesterday"}, "not a date"),
        ({"timestamp": "1850-01-01"}, "outside"),
        ({"kind": "accident"}, "kind"),
        ({"minutes_to_restore": "long"}, "minutes"),
        ({"minutes_to_restore": "nan"}, "minutes"),
        ({"description": "x" * 8_001}, "8001"),
        ({"description": {"th": "x"}}, "text"),
        ({"tags": ["x" * 101]}, "tags"),
    ],
)
def test_a_wrong_row_says_why(change: dict[str, object], word: str) -> None:
    with pytest.raises(Rejected, match=word):
        check_row({**ROW, **change}, BANGKOK)


def test_unknown_words_are_taken_with_a_note() -> None:
    case, notes = check_row({**ROW, "severity": "awful", "outcome": "so-so"}, BANGKOK)
    assert (case.severity, case.outcome) == ("medium", "unknown")
    assert len(notes) == 2


def test_a_repeat_changes_nothing_and_a_change_is_taken(db: Database) -> None:
    row = SourceRow(1, ROW)
    assert import_rows(db, [row], dry_run=True)[0].result == "added"
    assert Casebook(db).get("A-1") is None, "a dry run stores nothing"
    assert import_rows(db, [row])[0].result == "added"
    assert import_rows(db, [row])[0].result == "unchanged"
    changed = SourceRow(1, {**ROW, "resolution": "เป่าฝุ่น"})
    assert import_rows(db, [changed])[0].result == "changed"
    case = Casebook(db).get("A-1")
    assert case is not None
    assert (case.resolution, case.version) == ("เป่าฝุ่น", 2)
    with db.transaction() as tx:
        pending = tx.one("outbox_pending")
    assert pending is not None
    assert pending["pending"] == 2, "only what changed is embedded"


def test_an_id_twice_and_an_id_of_our_own_are_refused(db: Database) -> None:
    from edge.cases import NewCase

    opened = Casebook(db).open(
        NewCase("anomaly", "report", "low", "person", "x", "en", datetime.now(UTC)), actor="somebody"
    )
    results = import_rows(db, [SourceRow(1, ROW), SourceRow(2, ROW), SourceRow(3, {**ROW, "id": opened.record_id})])
    assert [result.result for result in results] == ["added", "error", "error"]
    assert "row 1" in results[1].message
    assert "opened on this appliance" in results[2].message


def test_unreadable_files_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    (tmp_path / "a.xlsx").write_bytes(b"not a workbook")
    for name in ("a.pdf", "a.xlsx", "missing.csv"):
        with pytest.raises(Rejected, match=name):
            rows_of(tmp_path / name)


@given(
    st.dictionaries(st.sampled_from(FIELDS), st.none() | st.text() | st.integers() | st.floats() | st.lists(st.text()))
)
@settings(max_examples=500, deadline=None)
def test_any_row_gives_a_case_or_a_reason(values: dict[str, object]) -> None:
    try:
        case, _ = check_row({**ROW, **values}, BANGKOK)
    except Rejected as error:
        assert str(error)
    else:
        assert case.record_id
        assert case.description
