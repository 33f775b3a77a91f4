"""In whatever order events come, and however often: the cases are the same in the end."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.cases import Casebook, NewCase
from edge.cases.casebook import Chatter, Folds, raise_alarm
from edge.contract import Limits
from edge.db import Database
from edge.intake import Arrival, store

TOPIC = "andon/demo/assembly/line-1/cell-1/camera"
START = datetime(2026, 3, 5, 1, 0, tzinfo=UTC)
FOLD = 15
CHATTER = Chatter(3, 60)

_alarm = st.fixed_dictionaries(
    {
        "seconds": st.sampled_from([0, 20, 40, 60, 300, 600, 840, 900, 960, 1500, 1800, 2400, 3300]),
        "source": st.sampled_from(["cam-1", "cam-2"]),
        "type": st.sampled_from(["ppe_missing", "zone_crowded"]),
        "severity": st.sampled_from(["low", "medium", "high"]),
        "tag": st.sampled_from(["helmet", "vest"]),
        "kind": st.sampled_from(["anomaly", "anomaly", "incident"]),
    }
)


def raised(db: Database, arrivals: list[tuple[int, dict[str, Any]]], together: int = 1) -> None:
    """Each alarm through the inbox, as an event, and into the casebook; so many in one transaction."""
    for start in range(0, len(arrivals), together):
        folds, fresh = Folds(), {}
        for number, alarm in arrivals[start : start + together]:
            payload = json.dumps({"id": str(number), "kind": "motion", "score": 0.5}).encode()
            (stored,) = store(db, [Arrival("mqtt", f"{TOPIC}/{alarm['source']}", payload)], Limits())
            if not stored.duplicate:
                fresh[number] = alarm
        if not fresh:
            continue
        with db.transaction() as tx:
            rows = tx.all("inbox_claim", limit=together)
            for row, (number, alarm) in zip(rows, fresh.items(), strict=True):
                at = START + timedelta(seconds=alarm["seconds"])
                tx.run(
                    "event_put", inbox_id=row["id"], event_class="camera", kind="motion", source=alarm["source"],
                    event_id=str(number), sequence=None, occurred_at=at, zone_id="ASM-1", camera_id=alarm["source"],
                    worker_id=None, body={}, late_minutes=10,
                )  # fmt: skip
                new = NewCase(
                    kind=alarm["kind"], type=alarm["type"], severity=alarm["severity"], origin="event",
                    description=f"event {number}", language="en", occurred_at=at, zone_id="ASM-1",
                    camera_id=alarm["source"], tags=(alarm["tag"],),
                )  # fmt: skip
                raise_alarm(tx, new, inbox_id=row["id"], fold_minutes=FOLD, folds=folds, chatter=CHATTER)
                tx.run("inbox_settle", id=row["id"], state="done")
            folds.write(tx)


def state(dsn: str) -> list[Any]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            """SELECT c.kind, c.type, c.severity, c.description, c.camera_id, c.occurred_at, c.last_seen_at,
                   c.occurrences, CASE WHEN c.occurrences > 1 THEN c.tags END, c.chatter_source, c.chatter_at,
                   array_agg(e.event_id ORDER BY e.event_id)
               FROM cases c JOIN case_event ce ON ce.case_id = c.id JOIN event e USING (inbox_id)
               GROUP BY c.id ORDER BY c.type, c.occurred_at"""
        ).fetchall()


def emptied(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE inbox, cases, outbox CASCADE")


# The database's pool throws dice in threads of its own, which the library takes for the strategies'.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")
@given(st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_order_and_any_repeats_end_in_the_same_cases(db: Database, dsn: str, data: st.DataObject) -> None:
    alarms = list(enumerate(data.draw(st.lists(_alarm, min_size=2, max_size=14))))
    emptied(dsn)
    raised(db, sorted(alarms, key=lambda item: (item[1]["seconds"], item[1]["source"], str(item[0]))))
    expected = state(dsn)
    again = data.draw(st.lists(st.sampled_from(alarms), max_size=4))
    emptied(dsn)
    raised(db, data.draw(st.permutations([*alarms, *again])), together=data.draw(st.integers(1, 9)))
    assert state(dsn) == expected
    with psycopg.connect(dsn) as connection:
        stale = connection.execute(
            "SELECT count(*) FROM cases c WHERE NOT EXISTS (SELECT 1 FROM outbox o WHERE o.entity_id = c.id)"
        ).fetchone()
    assert stale == (0,)


def test_a_storm_writes_its_case_a_few_times_a_transaction_and_counts_every_alarm(db: Database, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            """CREATE SEQUENCE written;
               CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
                   $$ BEGIN PERFORM nextval('written'); RETURN NULL; END $$;
               CREATE TRIGGER noted AFTER UPDATE ON cases FOR EACH ROW EXECUTE FUNCTION noted()"""
        )
        raised(db, [alarm(number, number) for number in range(200)], together=100)
        (writes,) = connection.execute("SELECT last_value FROM written").fetchone() or (None,)
    (live,) = Casebook(db).board()
    assert (live.case.occurrences, live.case.last_seen_at) == (200, START + timedelta(seconds=199))
    assert writes <= 20


def alarm(number: int, seconds: float) -> tuple[int, dict[str, Any]]:
    return number, {
        "seconds": seconds, "source": "cam-1", "type": "ppe_missing", "severity": "high", "tag": "vest",
        "kind": "anomaly",
    }  # fmt: skip


def test_a_late_event_joins_the_case_that_was_closed_since_and_says_so(db: Database) -> None:
    casebook = Casebook(db)
    raised(db, [alarm(1, 0), alarm(2, 60)])
    (live,) = casebook.board()
    casebook.close(live.case, actor="supervisor", root_cause="x", resolution="y", outcome="held")
    raised(db, [alarm(3, 120)])
    assert casebook.board() == []
    case = casebook.get(live.case.record_id)
    assert case is not None
    assert (case.status, case.occurrences) == ("closed", 3)
    assert [entry.late for entry in casebook.evidence(case)] == [True, True, True]
    assert "late" in {entry.action for entry in casebook.log(case)}


def test_a_case_somebody_works_on_is_never_taken_away(db: Database) -> None:
    casebook = Casebook(db)
    raised(db, [alarm(1, 0), alarm(2, 1500)])
    first, second = sorted((live.case for live in casebook.board()), key=lambda case: case.occurred_at)
    casebook.acknowledge(second, actor="supervisor")
    casebook.acknowledge(first, actor="supervisor")
    raised(db, [alarm(3, 800)])
    assert {live.case.record_id for live in casebook.board()} == {first.record_id, second.record_id}


def test_a_source_that_chatters_is_named(db: Database) -> None:
    raised(db, [alarm(number, number * 29) for number in range(2)])
    casebook = Casebook(db)
    assert casebook.board()[0].case.chatter_source is None
    raised(db, [alarm(2, 60)])
    case = casebook.board()[0].case
    assert (case.chatter_source, case.chatter_at) == ("cam-1", START + timedelta(seconds=60))
    assert case.occurrences == 3, "and every alarm is counted all the same"
