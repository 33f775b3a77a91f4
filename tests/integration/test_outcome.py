"""What time makes of a case, with cases dated in the past: overdue, escalated, its fix held or came back."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from edge.cases import Case, Casebook, NewCase
from edge.cases.casebook import import_cases
from edge.cases.outcome import Duty, Returns
from edge.config import Settings
from edge.db import Database
from edge.embedding import Encoder
from edge.indexing import Indexer
from edge.search import Matcher, Question, SearchEngine, came_back
from edge.vectors import EmbeddedStore

NOW = datetime.now(UTC)


@pytest.fixture
def casebook(db: Database) -> Casebook:
    return Casebook(db)


@pytest.fixture
def returns(db: Database) -> Returns:
    return Returns(db, days=30)


def case(casebook: Casebook, days_ago: float, **facts: Any) -> Case:
    values: dict[str, Any] = {
        "kind": "anomaly", "type": "excessive_idle", "severity": "medium", "origin": "event", "language": "en",
        "description": "Work stood still", "zone_id": "ASM-1", "occurred_at": NOW - timedelta(days=days_ago),
    } | facts  # fmt: skip
    return casebook.open(NewCase(**values), actor="appliance")


def closed(casebook: Casebook, dsn: str, days_ago: float, outcome: str = "unknown", **facts: Any) -> Case:
    """Opened an hour before it was closed, so many days ago."""
    made = case(casebook, days_ago + 1 / 24, **facts)
    casebook.close(made, actor="somchai", root_cause="Belt slipped", resolution="Tensioned the belt", outcome=outcome)
    at = NOW - timedelta(days=days_ago)
    change(dsn, "UPDATE cases SET closed_at = %s, outcome_at = CASE WHEN outcome_by IS NOT NULL THEN %s::timestamptz END"
           " WHERE id = %s", at, at, made.id)  # fmt: skip
    return again(casebook, made)


def change(dsn: str, sql: str, *values: Any) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql, values)  # type: ignore[arg-type]


def again(casebook: Casebook, one: Case) -> Case:
    found = casebook.get(one.record_id)
    assert found is not None
    return found


def done(casebook: Casebook, one: Case) -> list[str]:
    return [entry.action for entry in casebook.log(one)]


def events(dsn: str, one: Case) -> list[str]:
    sql = "SELECT payload ->> 'event' FROM outbound WHERE record_id = %s ORDER BY id"
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute(sql, (one.record_id,)).fetchall()]


def test_a_fix_has_held_when_its_days_are_over_and_came_back_when_they_are_not(
    casebook: Casebook, returns: Returns, dsn: str
) -> None:
    quiet = closed(casebook, dsn, 31, zone_id="ASM-2")
    young = closed(casebook, dsn, 29, zone_id="ASM-3")
    same = closed(casebook, dsn, 60)
    back = closed(casebook, dsn, 32)
    elsewhere = case(casebook, 20, zone_id="ASM-2", type="ppe_missing")
    assert returns.look() == 1
    assert returns.held() == 2
    assert returns.look() == returns.held() == 0, "a second run changes nothing"
    assert (again(casebook, quiet).outcome, again(casebook, quiet).outcome_by) == ("held", "appliance")
    assert again(casebook, young).outcome == "unknown"
    judged = again(casebook, same)
    assert (judged.outcome, judged.recurred_as, judged.version) == ("recurred", back.record_id, same.version + 1)
    assert again(casebook, back).outcome == "held"
    assert done(casebook, same)[-1] == events(dsn, same)[-1] == "fix_recurred"
    assert done(casebook, quiet)[-1] == events(dsn, quiet)[-1] == "fix_held"
    assert done(casebook, elsewhere) == ["opened"]


def test_a_return_is_seen_at_once_and_a_late_one_takes_the_word_back(
    casebook: Casebook, returns: Returns, dsn: str
) -> None:
    fixed, old = closed(casebook, dsn, 3), closed(casebook, dsn, 40, zone_id="ASM-2")
    assert not returns.step()
    returns.held()
    assert again(casebook, old).outcome == "held"
    new = case(casebook, 1)
    assert returns.step()
    assert again(casebook, fixed).recurred_as == new.record_id
    # The box was off when it came back; the event waited at the broker.
    late = case(casebook, 15, zone_id="ASM-2")
    assert returns.look() == 1
    assert (again(casebook, old).outcome, again(casebook, old).recurred_as) == ("recurred", late.record_id)


def test_a_person_is_never_overruled(casebook: Casebook, returns: Returns, dsn: str) -> None:
    known, nobody, corrected = (
        closed(casebook, dsn, 5, "held", zone_id="ASM-1"),
        closed(casebook, dsn, 40, zone_id="ASM-2"),
        closed(casebook, dsn, 5, zone_id="ASM-3"),
    )
    for zone in ("ASM-1", "ASM-2", "ASM-3"):
        case(casebook, 4 if zone != "ASM-2" else 30, zone_id=zone)
    casebook.judge(nobody, actor="malee", outcome="unknown")
    assert returns.look() == 1
    casebook.judge(again(casebook, corrected), actor="malee", outcome="held")
    assert returns.look() == returns.held() == 0
    assert [again(casebook, one).outcome for one in (known, nobody, corrected)] == ["held", "unknown", "held"]
    said = again(casebook, corrected)
    assert (said.outcome_by, said.recurred_as, done(casebook, said)[-1]) == ("malee", None, "judged")


def test_a_reopened_case_begins_anew(casebook: Casebook, returns: Returns, dsn: str) -> None:
    fixed = closed(casebook, dsn, 3)
    case(casebook, 1)
    returns.step()
    casebook.reopen(again(casebook, fixed), actor="somchai")
    found = again(casebook, fixed)
    assert (found.outcome, found.outcome_by, found.recurred_as) == ("unknown", None, None)


def test_a_report_comes_back_when_it_is_judged_alike_and_the_figures_follow(
    settings: Settings, db: Database, casebook: Casebook, returns: Returns, dsn: str, tmp_path: Path, encoder: Encoder
) -> None:
    words = "สายพาน CONV-002 หยุดเองบ่อย ขึ้นว่างานติดทั้งที่ไม่มีอะไรติด"
    report: dict[str, Any] = {"type": "report", "kind": "incident", "origin": "person", "language": "th"}
    with EmbeddedStore(tmp_path / "vectors") as index:
        engine = SearchEngine(casebook, index, encoder, settings.search)
        indexer = Indexer(db, index, encoder)
        indexer.open()
        matcher = Matcher(db, casebook, engine, limit=5)

        def settle() -> None:
            while any([indexer.step(64), matcher.step()]):
                pass

        first = closed(casebook, dsn, 3, description=words, **report)
        other = closed(casebook, dsn, 3, description="หลอดไฟในห้องน้ำขาด", **report)
        settle()
        back = case(casebook, 1, description=words, **report)
        settle()
        assert again(casebook, first).recurred_as == back.record_id
        assert again(casebook, other).outcome == "unknown"
        # Closed before anybody looked: the job finds it, once.
        missed = closed(casebook, dsn, 12, description=words, **report, zone_id="ASM-2")
        later = closed(casebook, dsn, 10, description=words, **report, zone_id="ASM-2")
        settle()
        assert came_back(db, casebook, engine, days=30) == 1
        assert came_back(db, casebook, engine, days=30) == 0
        assert again(casebook, missed).recurred_as == later.record_id
        settle()
        (fix,) = engine.fixes(Question(words)).fixes
        assert (fix.worked, fix.tried, fix.unknown, fix.returned) == (0, 2, 1, 2)
        casebook.judge(again(casebook, missed), actor="malee", outcome="held")
        (fix,) = engine.fixes(Question(words)).fixes
        assert (fix.worked, fix.tried, fix.returned) == (1, 2, 1)
    shutil.rmtree(tmp_path / "vectors")


def test_a_word_about_an_imported_case_stands_above_the_file(db: Database, casebook: Casebook) -> None:
    new = NewCase(
        kind="anomaly", type="excessive_idle", severity="low", origin="import", description="Work stood still",
        language="en", occurred_at=NOW - timedelta(days=90), record_id="OLD-1", zone_id="ASM-1", root_cause="x",
        resolution="y", outcome="held", closed_at=NOW - timedelta(days=90),
    )  # fmt: skip
    for expected in ("added", "unchanged"):
        with db.transaction() as tx:
            assert import_cases(tx, [new]) == {"OLD-1": expected}
        old = casebook.get("OLD-1")
        assert old
        casebook.judge(old, actor="malee", outcome="recurred")
    assert again(casebook, old).outcome == "recurred"


@pytest.fixture
def waiting(casebook: Casebook, dsn: str) -> Case:
    made = case(casebook, 0)
    change(dsn, "UPDATE cases SET waiting_since = waiting_since - interval '6 minutes' WHERE id = %s", made.id)
    return made


def test_what_nobody_takes_is_overdue_and_then_escalated_once(
    db: Database, casebook: Casebook, waiting: Case, dsn: str
) -> None:
    duty = Duty(db, acknowledge_minutes=5, escalate_minutes=15)
    young = case(casebook, 2, zone_id="ASM-2")
    assert duty.step()
    assert not duty.step()
    assert again(casebook, waiting).overdue_at
    assert not again(casebook, young).overdue_at, "what happened long ago and was told just now is not overdue"
    change(dsn, "UPDATE cases SET waiting_since = waiting_since - interval '10 minutes' WHERE id = %s", waiting.id)
    # As after a restart: what is known stands in the table.
    duty = Duty(db, acknowledge_minutes=5, escalate_minutes=15)
    assert duty.step()
    assert not duty.step()
    assert again(casebook, waiting).severity == "high"
    assert done(casebook, waiting) == events(dsn, waiting) == ["opened", "overdue", "escalated"]
    board = {live.case.record_id: live.case for live in casebook.board()}
    assert board[waiting.record_id].overdue_at


def test_what_somebody_took_is_left_alone_and_zero_switches_off(
    db: Database, casebook: Casebook, waiting: Case, dsn: str
) -> None:
    change(dsn, "UPDATE cases SET waiting_since = waiting_since - interval '1 day' WHERE id = %s", waiting.id)
    assert not Duty(db, acknowledge_minutes=0, escalate_minutes=0).step()
    casebook.acknowledge(waiting, actor="malee")
    assert not Duty(db, acknowledge_minutes=5, escalate_minutes=15).step()
    casebook.close(waiting, actor="malee", root_cause="x", resolution="y", outcome="unknown")
    casebook.reopen(waiting, actor="malee")
    assert not Duty(db, acknowledge_minutes=5, escalate_minutes=15).step(), (
        "from its reopening it has its minutes again"
    )


def test_an_anomaly_becomes_an_incident_and_changes_its_collection(
    db: Database, casebook: Casebook, dsn: str, tmp_path: Path, encoder: Encoder
) -> None:
    one = case(casebook, 0)
    with EmbeddedStore(tmp_path / "vectors") as index:
        indexer = Indexer(db, index, encoder)
        indexer.open()
        while indexer.step():
            pass
        casebook.promote(one, actor="malee")
        while indexer.step():
            pass
        assert (index.count("anomaly_patterns"), index.count("incident_reports")) == (0, 1)
    shutil.rmtree(tmp_path / "vectors")
    assert again(casebook, one).kind == "incident"
    assert done(casebook, one) == events(dsn, one) == ["opened", "incident"]
