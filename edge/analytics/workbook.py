"""Sessions in Postgres: a worker's shift is made anew from its events whenever one of them came in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from statistics import median
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5
from zoneinfo import ZoneInfo

from edge.analytics.model import Observation
from edge.analytics.sessions import Cycle, Rules, Session, Shift, sessionize
from edge.config import Settings
from edge.db import Database, Row, Transaction

#: The collection that shows sessions.
SEQUENCES = "work_sequences"

#: Seconds the events of a shift are gathered before its sessions are made anew.
GATHER = 15


def rules_of(settings: Settings, tx: Transaction) -> Rules:
    """The rules of this plant: its timezone and its shifts."""
    site = tx.one("site_get")
    analytics = settings.analytics
    return Rules(
        ZoneInfo(site["timezone"] if site else "UTC"), analytics.shift_starts, timedelta(minutes=analytics.gap_minutes)
    )


def observation(row: Mapping[str, Any]) -> Observation:
    """A row of `event`."""
    return Observation(
        row["occurred_at"], f"{row['class']}/{row['kind']}", row["source"], row["event_id"], row["zone_id"],
        row["camera_id"], row["worker_id"], row["body"], row["inbox_id"],
    )  # fmt: skip


def ask(tx: Transaction, rules: Rules, seen: Sequence[Observation]) -> None:
    """Have the sessions of these events made anew, and those of the shift after, which may continue them."""
    asked = {
        (one.worker_id, start)
        for one in seen
        if one.worker_id and one.zone_id
        for shift in (rules.shift(one.at),)
        for start in ((shift.start, shift.end) if shift.end - one.at < rules.gap else (shift.start,))
    }
    # In one order, so that two transactions never wait for each other.
    rows = [{"worker_id": worker, "shift": start, "seconds": GATHER} for worker, start in sorted(asked)]
    if rows:
        tx.many("session_ask", rows)


class Workbook:
    """Keeps `work_session`, `work_cycle` and `time_log` equal to what their events say."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    def step(self, batch: int = 10) -> bool:
        """Make up to `batch` shifts anew. True if there were any. Raises `Unavailable`."""
        with self._database.transaction() as tx:
            due = tx.all("session_claim", limit=batch)
            if due:
                rules = rules_of(self._settings, tx)
                now = tx.value("now")
                for row in due:
                    self._make(tx, rules, row, now)
        return bool(due)

    def _make(self, tx: Transaction, rules: Rules, due: Row, now: datetime) -> None:
        worker_id, shift = due["worker_id"], rules.shift(due["shift"])
        rows = tx.all("session_events", worker_id=worker_id, since=shift.start, until=shift.end)
        made = sessionize(worker_id, [observation(row) for row in rows], rules, now=now)
        if made and (before := tx.one("session_last_of", worker_id=worker_id, shift=shift.start)):
            made[0] = replace(made[0], continued=_continues(before, made[0], rules))
        known = {row["id"]: row["checksum"] for row in tx.all("session_known", worker_id=worker_id, shift=shift.start)}
        for position, session in enumerate(made, 1):
            session_id = session_key(worker_id, shift, position)
            checksum = _checksum(session)
            if known.pop(session_id, None) != checksum:
                _put(tx, session_id, position, session, checksum)
        if known:
            tx.run("work_session_drop", ids=list(known))
            for session_id in known:
                tx.run("outbox_add", collection=SEQUENCES, entity_id=session_id, operation="delete")
        if made and not made[-1].ended:
            due_at = min(made[-1].ended_at + rules.gap, shift.end) + timedelta(seconds=1)
            tx.run("session_later", worker_id=worker_id, shift=due["shift"], due_at=due_at)
        else:
            tx.run("session_settled", worker_id=worker_id, shift=due["shift"], asked=due["asked"])


def session_key(worker_id: str, shift: Shift, position: int) -> UUID:
    """The same session has the same id however often it is made."""
    return uuid5(NAMESPACE_URL, f"andon-edge:session/{worker_id}/{shift.start.isoformat()}/{position}")


def _continues(before: Row, first: Session, rules: Rules) -> bool:
    return (
        before["zone_id"] == first.zone_id
        and not before["end_seen"]
        and not first.start_seen
        and before["ended_at"] < first.shift.start
        and first.started_at - before["ended_at"] <= rules.gap
    )


def _checksum(session: Session) -> str:
    return hashlib.sha256(json.dumps(asdict(session), default=str, sort_keys=True).encode()).hexdigest()


def _put(tx: Transaction, session_id: UUID, position: int, session: Session, checksum: str) -> None:
    times = [cycle.seconds for cycle in session.cycles if cycle.complete]
    tx.run(
        "session_put",
        id=session_id, position=position, checksum=checksum, worker_id=session.worker_id, zone_id=session.zone_id,
        day=session.shift.day, shift_number=session.shift.number, shift=session.shift.start,
        started_at=session.started_at, ended_at=session.ended_at, ended=session.ended, start_seen=session.start_seen,
        end_seen=session.end_seen, continued=session.continued, product_type=session.product_type,
        active_seconds=session.active_seconds, idle_seconds=session.idle_seconds, motion=session.motion,
        cycles=len(times), cycle_seconds=median(times) if times else None,
    )  # fmt: skip
    tx.run("session_clear", id=session_id)
    tx.run("session_clear_hours", id=session_id)
    tx.many("cycle_put", [_cycle(session_id, number, cycle) for number, cycle in enumerate(session.cycles, 1)])
    tx.many("time_log_put", [{"session_id": session_id, **asdict(hour)} for hour in session.hours])
    if session.ended:
        tx.run("outbox_add", collection=SEQUENCES, entity_id=session_id, operation="upsert")


def _cycle(session_id: UUID, position: int, cycle: Cycle) -> dict[str, Any]:
    steps = [
        {"name": step.name, "at": step.ended_at.isoformat(), "seconds": step.seconds, "event": step.ref}
        for step in cycle.steps
    ]
    return {
        "session_id": session_id, "position": position, "index_number": cycle.index_number,
        "started_at": cycle.started_at, "ended_at": cycle.ended_at, "seconds": cycle.seconds, "steps": json.dumps(steps),
    }  # fmt: skip
