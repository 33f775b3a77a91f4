"""Events become sessions and findings in Postgres: in any order, after a restart, and when they come late."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge.analytics import Interpreter, Workbook
from edge.cases import Casebook
from edge.config import Settings
from edge.contract import Limits
from edge.db import Database
from edge.indexing import load_entities
from edge.intake import accept_http, quarantine
from edge.roles.detect import compare

PLACE = "andon/demo/assembly/line-1/cell-1"
STANDARD = [
    "pick_cover",
    "place_on_jig",
    "close_clamp",
    "fit_washers",
    "drive_m8_bolts",
    "drive_m4_screws",
    "push_to_next",
]
START = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)  # 09:00 in Bangkok


def shift(pieces: int, without: tuple[int, str] | None = None) -> list[tuple[str, dict[str, Any]]]:
    """A worker's morning: a session of so many pieces, one of them without a step."""
    at, made = START, []

    def add(after: float, kind: str, /, **body: Any) -> None:
        nonlocal at
        at += timedelta(seconds=after)
        made.append((f"{PLACE}/worker/W-101", {"id": f"e{len(made)}", "time": at.isoformat(), "kind": kind, **body}))

    add(0, "session_start", product_type="pump")
    for number in range(1, pieces + 1):
        for step in STANDARD:
            if without != (number, step):
                add(5, "step", step=step, seconds=5)
        add(1, "index", index_number=number, seconds=36)
    add(20, "idle", seconds=15)
    add(5, "session_end")
    return made


class Line:
    """The first stages, step by step."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self.settings, self.db = settings, db
        self.restart()

    def restart(self) -> None:
        self.interpreter = Interpreter(self.settings, self.db)
        self.workbook = Workbook(self.settings, self.db)

    def send(self, events: list[tuple[str, dict[str, Any]]]) -> None:
        for topic, event in events:
            accept_http(self.db, topic, [json.dumps(event).encode()], Limits(bytes=100_000, depth=20))
        while self.interpreter.step():
            pass

    def work(self) -> None:
        with self.db.transaction() as tx:
            tx.script("UPDATE session_due SET due_at = clock_timestamp()")
        while self.workbook.step():
            pass


@pytest.fixture
def line(settings: Settings, db: Database) -> Line:
    return Line(settings, db)


def told(db: Database) -> list[dict[str, Any]]:
    with db.transaction() as tx:
        ids = [
            row["id"]
            for row in tx.all("session_known", worker_id="W-101", shift=START.replace(hour=23) - timedelta(days=1))
        ]
        entities = load_entities(tx, "work_sequences", ids)
    return [dict(entity.facts) | {"text": entity.text} for entity in entities.values()]


def test_a_morning_becomes_a_session_with_its_pieces(line: Line) -> None:
    line.send(shift(8))
    line.work()
    [session] = told(line.db)
    assert (session["cycles"], session["cycle_seconds"], session["product_type"]) == (8, 36, "pump")
    assert session["idle_seconds"] == 15
    assert [step["name"] for step in session["steps"]] == STANDARD
    assert "pick cover → place on jig" in session["text"]
    with line.db.transaction() as tx:
        assert tx.value("outbox_pending") == 1


def test_any_order_and_repeats_make_the_same_rows(line: Line, settings: Settings, db: Database) -> None:
    events = shift(4)
    line.send(events)
    line.work()
    before = told(db)
    chance = random.Random(5)
    for _ in range(3):
        with db.transaction() as tx:
            tx.script("TRUNCATE inbox, event, work_session, session_due, quarantine CASCADE")
        shuffled = [*events, *chance.sample(events, 9)]
        chance.shuffle(shuffled)
        # Some before the workbook looks, some after it.
        line.send(shuffled[:20])
        line.work()
        line.send(shuffled[20:])
        line.work()
        after = told(db)
        assert [{key: row[key] for key in row if key != "version"} for row in after] == [
            {key: row[key] for key in row if key != "version"} for row in before
        ]


def test_a_late_event_changes_its_session_and_nothing_else(line: Line) -> None:
    events = shift(3)
    late = events.pop(5)
    line.send(events)
    line.work()
    [before] = told(line.db)
    line.send([late])
    line.work()
    [after] = told(line.db)
    assert after["version"] == before["version"] + 1
    assert after["id"] == before["id"]
    line.work()
    assert told(line.db) == [after]


def test_a_piece_without_a_step_is_a_case_with_its_reason_and_evidence(line: Line) -> None:
    line.send(shift(3, without=(2, "fit_washers")))
    casebook = Casebook(line.db)
    [live] = casebook.board()
    assert (live.case.type, live.case.severity) == ("sequence_deviation", "high")
    with line.db.transaction() as tx:
        [finding] = tx.all("finding_of_case", case_id=live.case.id, limit=10)
    assert "ข้ามขั้นตอนที่ 4 “fit washers”" in finding["reason_th"]
    assert "step 4 “fit washers” is missing" in finding["reason_en"]
    kinds = [event.kind for event in casebook.evidence(live.case)]
    assert kinds.count("step") == 6
    assert kinds.count("index") == 1


def test_what_a_detector_remembers_survives_a_restart_and_another_process(line: Line) -> None:
    topic = f"{PLACE}/camera/cam-asm-1"

    def idle(number: int) -> tuple[str, dict[str, Any]]:
        at = START + timedelta(minutes=2 * number)
        return topic, {"id": f"i{number}", "time": at.isoformat(), "kind": "idle", "seconds": 120}

    casebook = Casebook(line.db)
    line.send([idle(1)])
    other = Line(line.settings, line.db)
    other.send([idle(2)])
    assert casebook.board() == []
    line.restart()
    line.send([idle(3)])
    [live] = casebook.board()
    # Three times two minutes are more than five, whoever saw them; what goes on joins the case.
    assert live.case.type == "excessive_idle"
    other.send([idle(4)])
    line.send([idle(5)])
    [live] = casebook.board()
    assert live.case.occurrences == 3
    assert {event.event_id for event in casebook.evidence(live.case)} == {"i1", "i2", "i3", "i4", "i5"}


def test_an_event_of_our_own_fault_leaves_the_detectors_as_they_were(line: Line) -> None:
    """A report the case table refuses is quarantined; what the detectors saw of the others stands."""
    line.send([(f"{PLACE}/camera/nobody", {"id": "x", "kind": "idle", "seconds": 400})])
    line.send([(f"{PLACE.replace('cell-1', 'cell-9')}/camera/cam-asm-1", {"id": "y", "kind": "idle", "seconds": 400})])
    assert len(quarantine.find(line.db)) == 1
    [live] = Casebook(line.db).board()
    assert live.case.camera_id == "nobody"


def test_a_silent_camera_is_noticed_by_the_clock_of_the_others(line: Line) -> None:
    def motion(camera: str, minute: float) -> tuple[str, dict[str, Any]]:
        at = START + timedelta(minutes=minute)
        body = {"id": f"{camera}{minute}", "time": at.isoformat(), "kind": "motion", "score": 0.4 + minute / 1000}
        return f"{PLACE}/camera/{camera}", body

    line.send([motion("cam-asm-1", 0), motion("cam-asm-2", 0)])
    for minute in range(1, 12):
        line.send([motion("cam-asm-2", minute)])
        line.interpreter.tick()
    [live] = Casebook(line.db).board()
    assert (live.case.type, live.case.camera_id) == ("camera_fault", "cam-asm-1")
    assert "เงียบไป 10 นาที" in live.case.description


def test_the_past_can_be_looked_at_with_other_settings(line: Line, tmp_path: Path) -> None:
    topic = f"{PLACE}/camera/cam-asm-1"
    line.send([
        (topic, {"id": f"c{n}", "time": (START + timedelta(hours=n)).isoformat(), "kind": "zone_count", "persons": persons})
        for n, persons in enumerate([3, 9, 3, 13, 3])
    ])  # fmt: skip
    file = tmp_path / "other.toml"
    file.write_text("[occupancy]\npersons = 10\n")
    found = compare(line.settings, file, since=START - timedelta(days=1), until=START + timedelta(days=1))
    assert found.now[("occupancy", "ASM-1")] == 2
    assert found.then[("occupancy", "ASM-1")] == 1
    assert [one.finding.words.en[:1] for one in found.only_now] == ["9"]
    assert found.only_then == ()
