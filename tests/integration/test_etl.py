"""Sweeps bring to the index what it lacks, account for every row, and stand being killed; jobs run once at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from edge.analytics.behavior import tell
from edge.cases import Casebook
from edge.config import Settings
from edge.dashboard import create_app
from edge.dashboard.accounts import create_token
from edge.db import Database
from edge.embedding import Encoder
from edge.errors import Rejected
from edge.indexing import Indexer, load_entities, reconcile
from edge.search import SearchEngine
from edge.simulation import load_sample
from edge.upkeep import etl
from edge.upkeep.jobs import Asked, Busy, ask, etl_job, run_job, scheduler
from edge.vectors import EmbeddedStore

MONDAY = date(2026, 3, 2)
STEPS = '[{"name": "pick_cover", "seconds": 5}, {"name": "drive_bolts", "seconds": 9}]'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path / "vectors") as store:
        yield store


@pytest.fixture
def indexer(db: Database, store: EmbeddedStore, encoder: Encoder) -> Indexer:
    indexer = Indexer(db, store, encoder)
    indexer.open()
    return indexer


def sql(db: Database, statement: str) -> list[Any]:
    """As a person would by hand."""
    with psycopg.connect(db._dsn) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def few_cases(db: Database, number: int) -> int:
    """A part of the sample's history that nothing has brought to the index."""
    load_sample(db)
    sql(db, f"DELETE FROM cases WHERE id NOT IN (SELECT id FROM cases ORDER BY outcome, id LIMIT {number})")
    sql(db, "DELETE FROM outbox")
    return number


def swept(db: Database, indexer: Indexer, **span: Any) -> dict[str, int]:
    found = etl.sweep(db, indexer.fingerprint, step=lambda: indexer.step(64), **span).as_details()
    assert found["read"] == sum(found.values()) - found["read"]
    return {name: count for name, count in found.items() if count}


def session(db: Database, worker: str, day: date, *, seconds: float, cycles: int = 12, active: float = 3_000) -> None:
    """A morning of so many pieces, as the workbook would have written it."""
    start = datetime(day.year, day.month, day.day, 2, tzinfo=UTC)  # 09:00 in Bangkok
    sql(
        db,
        f"""
        WITH made AS (
            INSERT INTO work_session (id, worker_id, zone_id, day, shift_number, shift, position, started_at, ended_at,
                ended, start_seen, end_seen, continued, active_seconds, idle_seconds, cycles, cycle_seconds, checksum)
            VALUES (md5('{worker}{day}')::uuid, '{worker}', 'ASM-1', '{day}', 1, '{start}', 1, '{start}',
                '{start + timedelta(hours=1)}', true, true, true, false, {active}, {3_600 - active}, {cycles}, {seconds}, '')
            RETURNING id
        ), piece AS (
            INSERT INTO work_cycle (session_id, position, index_number, started_at, ended_at, seconds, steps)
            SELECT id, n, n, '{start}', '{start}', {seconds} + n % 3, '{STEPS}'
            FROM made, generate_series(1, {cycles}) n
        )
        INSERT INTO time_log (session_id, hour, active_seconds, idle_seconds, cycles)
        SELECT id, '{start}', {active}, {3_600 - active}, {cycles} FROM made
        """,
    )


def test_a_sweep_finds_what_was_done_by_hand_and_accounts_for_every_row(db: Database, indexer: Indexer) -> None:
    rows = few_cases(db, 24)
    assert swept(db, indexer) == {"read": rows, "embedded": rows}
    assert swept(db, indexer) == {"read": rows, "skipped": rows}
    session(db, "W-101", MONDAY, seconds=30)
    sql(
        db,
        "UPDATE cases SET description = 'The belt tears at the seam' WHERE id = (SELECT min(id::text)::uuid FROM cases)",
    )
    sql(
        db,
        "UPDATE cases SET outcome = 'unknown' WHERE id = (SELECT max(id::text)::uuid FROM cases WHERE outcome = 'held')",
    )
    sql(
        db,
        "DELETE FROM cases WHERE id IN (SELECT id FROM cases WHERE outcome <> 'unknown' ORDER BY id OFFSET 5 LIMIT 2)",
    )
    account = {row["collection"]: row for row in etl.account(db, indexer.fingerprint)}
    assert sum(row["pending"] for row in account.values()) == 3
    assert sum(row["left_over"] for row in account.values()) == 2
    assert swept(db, indexer) == {"read": rows + 1, "embedded": 2, "updated": 1, "deleted": 2, "skipped": rows - 4}
    for row in etl.account(db, indexer.fingerprint):
        assert (row["rows"], row["pending"], row["failed"], row["left_over"]) == (row["points"], 0, 0, 0)


def test_a_span_of_days_takes_its_rows_alone_and_a_refused_row_is_told(db: Database, indexer: Indexer) -> None:
    for number in range(4):
        session(db, "W-101", MONDAY + timedelta(days=number), seconds=30)
    day = datetime(2026, 3, 3, tzinfo=UTC)
    assert swept(db, indexer, since=day, until=day + timedelta(days=2)) == {"read": 2, "embedded": 2}
    # A refusal of the index is written to the outbox; here by hand, since no row of ours can be refused.
    sql(db, "INSERT INTO outbox (collection, entity_id, operation, attempts) SELECT 'work_sequences', id, 'upsert', 1 "
            "FROM work_session WHERE day = '2026-03-02'")  # fmt: skip
    refused = iter([True, False])

    def step() -> bool:
        sql(db, "UPDATE outbox SET last_error = 'too odd', due_at = now() + interval '1 hour' WHERE done_at IS NULL")
        return next(refused, False)

    found = etl.sweep(db, indexer.fingerprint, step=step, until=day)
    assert (found.read, found.failed, found.embedded) == (1, 1, 0)
    assert {row["failed"] for row in etl.account(db, indexer.fingerprint)} == {1}


def test_weeks_are_told_once_and_again_only_when_they_say_something_new(db: Database, indexer: Indexer) -> None:
    for number in range(5):
        session(db, "W-101", MONDAY + timedelta(days=number), seconds=36)
        session(db, "W-101", MONDAY + timedelta(days=number + 7), seconds=28, active=3_300)
    for worker in ("W-102", "W-103"):
        session(db, worker, MONDAY + timedelta(days=7), seconds=40, active=2_000)
    run: Callable[[], etl.Sweep] = lambda: etl.behaviors(db, indexer.fingerprint, step=lambda: indexer.step(64))  # noqa: E731
    first = run()
    assert (first.read, first.embedded) == (4, 4)
    assert run() == etl.Sweep()
    [(entity_id, version)] = sql(
        db, "SELECT id, version FROM worker_behavior WHERE worker_id = 'W-101' AND week = '2026-03-09'"
    )
    with db.transaction() as tx:
        told = load_entities(tx, "worker_behaviors", [entity_id])[entity_id]
    assert told.fields["time_period"] == "2026-W11"
    assert told.fields["metrics"] == {"productivity_score": 0.917}
    assert "A piece took 29 s, down from 37 s in the weeks before." in told.facts["strengths"]["en"]
    assert "เวลาต่อชิ้นสั้นลงจาก 37 เหลือ 29 วินาที เทียบกับสัปดาห์ก่อน ๆ" in told.facts["strengths"]["th"]
    assert "A piece took 29 s where about 41 s is usual in this zone." in told.facts["strengths"]["en"]
    assert "W-10" not in told.text
    # A session that comes late changes its week and those compared with it; what says nothing new keeps its version.
    sql(db, "UPDATE work_session SET version = version + 1 WHERE worker_id = 'W-102'")
    assert run() == etl.Sweep(read=3, skipped=3)
    sql(db, "DELETE FROM work_session WHERE worker_id = 'W-103'")
    assert run().deleted == 1
    assert tell(db, MONDAY) == (1, [])
    assert sql(db, f"SELECT version FROM worker_behavior WHERE id = '{entity_id}'")[0][0] == version + 1
    assert {row["collection"]: row["points"] for row in etl.account(db, indexer.fingerprint)} == {
        "work_sequences": 0, "worker_behaviors": 3,
    }  # fmt: skip


def test_work_like_this_is_found_in_other_zones_and_products(
    settings: Settings, db: Database, store: EmbeddedStore, indexer: Indexer, encoder: Encoder
) -> None:
    for worker in ("W-101", "W-102", "W-103"):
        session(db, worker, MONDAY, seconds=30)
    sql(db, "UPDATE work_session SET zone_id = 'ASM-2', product_type = 'pump' WHERE worker_id = 'W-102'")
    sql(
        db,
        """UPDATE work_cycle SET steps = '[{"name": "weld_frame", "seconds": 9}, {"name": "grind", "seconds": 9}]'
               WHERE session_id IN (SELECT id FROM work_session WHERE worker_id = 'W-103')""",
    )
    swept(db, indexer)
    casebook = Casebook(db)
    app = create_app(settings, db, casebook, SearchEngine(casebook, store, encoder, settings.search))
    mine = sql(db, "SELECT id FROM work_session WHERE worker_id = 'W-101'")[0][0]
    secret = create_token(db, "test", ["read"], 1)
    with TestClient(app, headers={"Authorization": f"Bearer {secret}"}) as client:
        first, second = client.get(f"/api/v1/sequences/{mine}/similar").json()
    assert (first["zone_id"], first["product_type"], first["steps"]) == ("ASM-2", "pump", ["pick_cover", "drive_bolts"])
    assert first["score"] > second["score"]


def test_a_job_runs_once_at_a_time_and_a_run_cut_off_is_said_to_be_so(db: Database, indexer: Indexer) -> None:
    job = etl_job(db, lambda: indexer.fingerprint, lambda: indexer.step(64))
    with db.transaction() as other:
        assert other.value("job_lock", job="etl")
        with pytest.raises(Busy, match="The job etl runs already"):
            run_job(db, "etl", job)
    sql(db, "INSERT INTO job_run (job) VALUES ('etl')")
    found = run_job(db, "etl", job, Asked("engineer", MONDAY, MONDAY))
    assert (found["read"], found["failed"]) == (0, 0)
    with db.transaction() as tx:
        latest, before = tx.all("job_runs", limit=10)
    assert latest["details"]["by"] == "engineer"
    assert latest["details"]["seconds"] >= 0
    assert before["error"] == "The process ended before this run did."

    def broken(_asked: Any, _progress: Any) -> dict[str, Any]:
        raise ZeroDivisionError("oh")

    assert "ZeroDivisionError" in run_job(db, "etl", broken)["error"]


def test_what_was_missed_is_caught_up_once_and_what_is_asked_for_is_run(
    settings: Settings, db: Database, store: EmbeddedStore, indexer: Indexer
) -> None:
    sql(db, "INSERT INTO job (name, next_run_at) VALUES ('behaviors', now() - interval '3 days'), ('gone', now())")
    made = lambda: scheduler(settings, db, store, lambda: indexer.fingerprint, lambda: None)  # type: ignore[arg-type, return-value] # noqa: E731
    jobs = made()
    now = datetime.now(UTC)
    due = dict(sql(db, "SELECT name, next_run_at FROM job"))
    assert now < due["behaviors"] <= now + timedelta(minutes=6)
    assert now < due["etl"] <= now + timedelta(minutes=6)
    assert "gone" not in due
    with pytest.raises(Rejected, match="takes no span"):
        ask(db, "tidy", Asked("admin", MONDAY))
    with pytest.raises(Rejected, match="There is no job nothing"):
        ask(db, "nothing", Asked("admin"))
    ask(db, "behaviors", Asked("admin", MONDAY, MONDAY))
    jobs.start()
    try:
        jobs.look()
        jobs.look()
        until = time.monotonic() + 30
        while sql(db, "SELECT 1 FROM job WHERE asked IS NOT NULL") and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        jobs.shutdown()
    assert sql(db, "SELECT job, details ->> 'since', error FROM job_run") == [("behaviors", "2026-03-02", None)]


KILLED = """
import sys
from edge import config
from edge.roles.parts import open_parts
from edge.upkeep.jobs import etl_job, run_job

parts = open_parts(config.load(), name="killed")
parts.indexer.open()

def step():
    worked = parts.indexer.step(8)
    print("step", flush=True)
    sys.stdin.readline()
    return worked

run_job(parts.database, "etl", etl_job(parts.database, lambda: parts.indexer.fingerprint, step))
"""


def test_a_power_cut_in_the_middle_loses_and_doubles_nothing(
    settings: Settings, db: Database, dsn: str, encoder: Encoder
) -> None:
    rows = few_cases(db, 64)
    environment = os.environ | {"EDGE__DATA__DIR": str(settings.data.dir), "EDGE__DATABASE__DSN": dsn}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == "step\n"
            process.stdin.write("\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert 0 < sql(db, "SELECT count(*) FROM point")[0][0] < rows
    with EmbeddedStore(settings.data.dir / "vectors") as store:
        indexer = Indexer(db, store, encoder)
        indexer.open()
        until = time.monotonic() + 60
        # What the dead process had claimed comes back with its lease.
        sql(db, "UPDATE outbox SET due_at = now() WHERE done_at IS NULL")
        found = run_job(db, "etl", etl_job(db, lambda: indexer.fingerprint, lambda: indexer.step(64)))
        assert time.monotonic() < until
        assert found["failed"] == found["waiting"] == 0
        assert found["read"] == rows
        assert found["embedded"] < rows
        assert reconcile(db, store, fingerprint=indexer.fingerprint, mend=False).agree
        assert sum(store.count(name) for name in ("anomaly_patterns", "incident_reports")) == rows
    ran = sql(db, "SELECT error FROM job_run ORDER BY id")
    assert ran == [("The process ended before this run did.",), (None,)]
