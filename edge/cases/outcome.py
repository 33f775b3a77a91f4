"""What time makes of a case: overdue, escalated, its fix held or came back.

Everything is read from Postgres and written once: it may run at any time, twice, and after the box was off.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from edge.cases.casebook import note
from edge.cases.model import COLLECTION, VAGUE_TYPES, Kind
from edge.db import Database, Transaction

#: Cases of one transaction.
BATCH = 100

_APPLIANCE = "appliance"


class Duty:
    """Open cases that nobody takes. Minutes; 0 switches a rule off."""

    def __init__(self, database: Database, *, acknowledge_minutes: int, escalate_minutes: int) -> None:
        self._database = database
        self._acknowledge = acknowledge_minutes
        self._escalate = escalate_minutes

    def step(self) -> bool:
        """Mark what is overdue and escalate what is so for too long. True if there was any. Raises `Unavailable`."""
        found = 0
        with self._database.transaction() as tx:
            if self._acknowledge:
                rows = tx.all("case_overdue", minutes=self._acknowledge, limit=BATCH)
                for row in rows:
                    note(tx, row["id"], _APPLIANCE, "overdue", {"minutes": self._acknowledge})
                found += len(rows)
            if self._escalate:
                rows = tx.all("case_escalate", minutes=self._escalate, limit=BATCH)
                for row in rows:
                    details = {"severity": row["severity"], "minutes": self._escalate}
                    note(tx, row["id"], _APPLIANCE, "escalated", details)
                    tx.run("outbox_add", collection=COLLECTION[row["kind"]], entity_id=row["id"], operation="upsert")
                found += len(rows)
        return bool(found)


class Returns:
    """Closed cases whose problem came back within so many days of closing, by type and zone."""

    def __init__(self, database: Database, *, days: int) -> None:
        self._database = database
        self._days = days

    def step(self) -> bool:
        """Those closed within the days. True if any fix turned out not to have held. Raises `Unavailable`."""
        return bool(self.look(datetime.now(UTC) - timedelta(days=self._days)))

    def look(self, since: datetime | None = None) -> int:
        """How many of the cases closed since then, or of all, were found to have come back."""
        count = 0
        while True:
            with self._database.transaction() as tx:
                rows = tx.all("case_returned", days=self._days, vague=list(VAGUE_TYPES), since=since, limit=BATCH)
                for row in rows:
                    recurred(tx, row["id"], row["back_id"], row["record_id"])
            count += len(rows)
            if len(rows) < BATCH:
                return count

    def held(self) -> int:
        """The fixes whose days are over without a return. How many there were."""
        count = 0
        while True:
            with self._database.transaction() as tx:
                rows = tx.all("case_fix_held", days=self._days, limit=BATCH)
                for row in rows:
                    _judged(tx, row["id"], row["kind"], "fix_held", {"days": self._days})
            count += len(rows)
            if len(rows) < BATCH:
                return count


def recurred(tx: Transaction, case_id: UUID, back_id: UUID, record_id: str) -> bool:
    """The problem of a closed case came back in another one. False where a person has said otherwise, or it is known."""
    row = tx.one("case_fix_recurred", id=case_id, back_id=back_id)
    if row is None:
        return False
    _judged(tx, case_id, row["kind"], "fix_recurred", {"record_id": record_id})
    return True


def _judged(tx: Transaction, case_id: UUID, kind: Kind, action: str, details: dict[str, object]) -> None:
    note(tx, case_id, _APPLIANCE, action, details)
    tx.run("outbox_add", collection=COLLECTION[kind], entity_id=case_id, operation="upsert")
