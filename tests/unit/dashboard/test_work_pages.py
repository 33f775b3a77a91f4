"""Pages of sessions, workers' weeks, standard work and jobs: who sees them, and what they show and save."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from fastapi.testclient import TestClient

from edge.analytics.detectors import read_tunings
from edge.analytics.standard import propose
from edge.analytics.watch import Watch, standards
from edge.dashboard.accounts import Role
from edge.db import Database

START = datetime(2026, 3, 2, 2, tzinfo=UTC)


@pytest.fixture
def session(db: Database) -> UUID:
    """Three pieces, the second without a step."""
    key = uuid4()
    with psycopg.connect(db._dsn) as connection:
        connection.execute(
            "INSERT INTO work_session (id, worker_id, zone_id, day, shift_number, shift, position, started_at, ended_at, ended,"
            " start_seen, end_seen, continued, active_seconds, idle_seconds, cycles, cycle_seconds, checksum)"
            " VALUES (%s, 'W-101', 'ASM-1', '2026-03-02', 1, %s, 1, %s, %s, true, true, true, false, 100, 20, 3, 40, '')",
            (key, START, START, START + timedelta(minutes=3)),
        )
        for number in (1, 2, 3):
            steps = [
                {"name": name, "at": START.isoformat(), "seconds": 10 * number} for name in ("pick", "fit", "push")
            ]
            connection.execute(
                "INSERT INTO work_cycle (session_id, position, index_number, started_at, ended_at, seconds, steps)"
                " VALUES (%s, %s, %s, %s, %s, 40, %s)",
                (key, number, number, START, START, json.dumps(steps[: 3 if number != 2 else 2])),
            )
        connection.execute("INSERT INTO time_log VALUES (%s, %s, 100, 20, 3, NULL)", (key, START))
    return key


def test_who_may_see_what(sign_in: Callable[[Role], TestClient], nobody: TestClient, session: UUID) -> None:
    viewer, supervisor, engineer = sign_in("viewer"), sign_in("supervisor"), sign_in("engineer")
    for path in ("/sessions", f"/sessions/{session}", "/workers/W-101"):
        assert nobody.get(path).status_code == 303
        assert viewer.get(path).status_code == 403
    assert supervisor.get("/sessions", params={"zone": "ASM-1", "day": "2026-03-02"}).text.count("W-101") >= 1
    assert "W-101" not in supervisor.get("/sessions", params={"day": "2026-03-03"}).text
    assert supervisor.get("/workers/W-101").status_code == 404
    assert supervisor.get("/jobs").status_code == 403
    assert engineer.get("/jobs").status_code == 200
    asked = {"text": "steady pace", "collections": ["worker_behaviors"]}
    assert viewer.post("/api/v1/search", json=asked).status_code == 403
    assert (
        viewer.post(
            "/api/v1/search/batch",
            json={"queries": [{"qid": "1", "text": "a"}]} | {"collections": asked["collections"]},
        ).status_code
        == 403
    )
    assert viewer.get(f"/api/v1/sequences/{session}/similar").status_code == 403
    assert supervisor.post("/api/v1/search", json=asked).status_code == 200
    assert supervisor.get(f"/api/v1/sequences/{uuid4()}/similar").status_code == 404


def test_a_standard_is_taken_from_pieces_saved_retired_and_noticed(
    sign_in: Callable[[Role], TestClient], session: UUID, db: Database
) -> None:
    engineer = sign_in("engineer")
    watch = Watch(read_tunings(None))
    with db.transaction() as tx, watch.over(tx):
        before = watch._bench.standards["ASM-1"].names  # type: ignore[union-attr]
    page = engineer.get("/standards/edit", params={"zone": "ASM-1", "since": "2026-03-01"}).text
    assert "Proposed from 2 of 3 pieces" in page
    assert 'value="push"' in page
    form = {
        "zone": "ASM-1",
        "origin": "recorded",
        "name": ["pick", "fit", "push", ""],
        "seconds": ["20", "20", "2,5", ""],
        "critical": ["1"],
    }
    assert sign_in("supervisor").post("/standards/edit", data=form).status_code == 403
    assert engineer.post("/standards/edit", data=form | {"seconds": ["20", "no", "1", ""]}).status_code == 422
    assert engineer.post("/standards/edit", data=form).status_code == 303
    with db.transaction() as tx, watch.over(tx):
        now = watch._bench.standards["ASM-1"]  # type: ignore[union-attr]
    assert now.names == ("pick", "fit", "push") != before
    assert [(step.seconds, step.critical) for step in now.steps] == [(20, False), (20, True), (2.5, False)]
    assert engineer.get("/standards/edit", params={"zone": "ASM-1"}).text.count("Valid now") == 1
    with db.transaction() as tx:
        assert len(tx.all("standard_versions", zone_id="ASM-1", product_type=None)) >= 2 - (not before)
        assert standards(tx)["ASM-1"].names == now.names


def test_a_session_shows_its_pieces_and_what_differs(
    sign_in: Callable[[Role], TestClient], session: UUID, db: Database
) -> None:
    with psycopg.connect(db._dsn) as connection:
        connection.execute("DELETE FROM standard_work")
        steps = [{"name": name, "seconds": 10} for name in ("pick", "fit", "push")]
        connection.execute(
            "INSERT INTO standard_work (zone_id, steps, origin, created_by) VALUES ('ASM-1', %s, 'written', 'x')",
            (json.dumps(steps),),
        )
    page = sign_in("supervisor").get(f"/sessions/{session}").text
    assert page.count('class="off"') == 2  # one piece, one idle hour
    assert "step 3 “push” is missing" in page


def test_a_job_is_asked_for_and_shown(sign_in: Callable[[Role], TestClient], db: Database) -> None:
    with psycopg.connect(db._dsn) as connection:
        connection.execute("INSERT INTO job (name) VALUES ('behaviors'), ('tidy')")
        connection.execute('INSERT INTO job_run (job, details) VALUES (\'tidy\', \'{"done": 3, "of": 9, "by": "x"}\')')
    engineer = sign_in("engineer")
    page = engineer.get("/jobs").text
    assert '<progress value="3" max="9">' in page
    assert engineer.post("/jobs", data={"name": "tidy", "since": "2026-03-01"}).status_code == 422
    assert engineer.post("/jobs", data={"name": "behaviors", "since": "2026-03-01"}).status_code == 303
    assert "Starts in a moment" in engineer.get("/jobs/runs").text
    jobs = {job["name"]: job for job in engineer.get("/api/v1/jobs").json()}
    assert jobs["behaviors"]["asked"] == {"by": "engineer", "since": "2026-03-01"}
    assert jobs["tidy"]["running"]
    assert engineer.post("/api/v1/jobs/tidy/run", json={}).status_code == 202
    assert engineer.post("/jobs/tidy/off").status_code == 403
    assert sign_in("admin").post("/jobs/tidy/off").status_code == 303
    assert not {job["name"]: job for job in engineer.get("/api/v1/jobs").json()}["tidy"]["enabled"]


def test_a_proposal_leaves_out_the_quickest_the_slowest_and_what_was_done_otherwise() -> None:
    usual = [(30.0 + n, [("a", 10.0 + n), ("b", 20.0)]) for n in range(10)]
    found = propose([*usual, (5.0, [("b", 5.0)]), (50.0, [])])
    assert found is not None
    assert (found.used, found.seen) == (8, 12)
    assert [(step.name, step.seconds) for step in found.steps] == [("a", 14.5), ("b", 20.0)]
    assert propose([]) is None
