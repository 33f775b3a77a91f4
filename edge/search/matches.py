"""Gives each live case its most similar past cases, so that the board needs no search of its own, and knows a problem
that came back by its words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from edge.cases import Case
from edge.cases.casebook import Casebook, case_from, tell
from edge.cases.model import VAGUE_TYPES
from edge.cases.outcome import recurred
from edge.db import Database
from edge.search.engine import SearchEngine
from edge.search.filters import Filters
from edge.search.fixes import returned
from edge.search.model import Hit

#: Closed cases looked at in one statement.
BATCH = 100

#: Later cases of the same zone that are compared with a closed one.
LIKE = 20


class Matcher:
    """`days`: a vague case that is judged the same problem as one closed at most so long before is its return."""

    def __init__(
        self, database: Database, casebook: Casebook, engine: SearchEngine, *, limit: int, days: int = 30
    ) -> None:
        self._database = database
        self._casebook = casebook
        self._engine = engine
        self._limit = limit
        self._days = days

    def step(self, batch: int = 2) -> bool:
        """Look up to `batch` live cases up. True if there were any. Raises `Unavailable`.

        Few at once: while it searches, new events wait to be understood and cases to be learnt.
        """
        with self._database.transaction() as tx:
            rows = tx.all("case_unmatched", limit=batch)
        for row in rows:
            case = case_from(row)
            answer = self._engine.similar(case, limit=self._limit, filters=Filters(statuses=("closed",)), explain=False)
            with self._database.transaction() as tx:
                before = tx.value("match_alike", case_id=case.id)
                tx.run("match_clear", case_id=case.id)
                tx.many(
                    "match_put",
                    [
                        {
                            "case_id": case.id, "rank": rank, "match_id": hit.case.id, "score": hit.score,
                            "band": hit.band,
                        }
                        for rank, hit in enumerate(answer.hits, 1)
                    ],
                )  # fmt: skip
                alike = [hit for hit in answer.hits if hit.band != "weak"]
                if [hit.case.id for hit in alike] != before:
                    tell(tx, case.id, "appliance", "matched", {"matches": [_told(hit) for hit in alike]})
                if case.type in VAGUE_TYPES:
                    for hit in answer.hits:
                        if hit.band == "same" and returned(hit.case, case, self._days):
                            recurred(tx, hit.case.id, case.id, case.record_id)
                tx.run("lookup_put", case_id=case.id, version=case.version, complete=not row["learning"])
        return bool(rows)


def came_back(database: Database, casebook: Casebook, engine: SearchEngine, *, days: int) -> int:
    """Closed cases of vague types of which a later case in the same zone is judged the same problem. How many there were.

    For what was closed or opened while nobody looked; `Matcher` sees the others at once. Raises `Unavailable`.
    """
    count, after = 0, None
    since = datetime.now(UTC) - timedelta(days=2 * days)
    while True:
        with database.transaction() as tx:
            rows = tx.all(
                "case_perhaps_returned", days=days, vague=list(VAGUE_TYPES), since=since, after=after, limit=BATCH
            )
        cases = casebook.by_ids([row["id"] for row in rows])
        for case in cases.values():
            count += _look_for(database, engine, case, days)
        if len(rows) < BATCH:
            return count
        after = rows[-1]["id"]


def _look_for(database: Database, engine: SearchEngine, case: Case, days: int) -> bool:
    if case.closed_at is None or case.zone_id is None:
        return False
    there = Filters(
        zone_ids=(case.zone_id,), since=case.closed_at, until=case.closed_at + timedelta(days=days, seconds=1)
    )
    hits = engine.similar(case, limit=LIKE, filters=there, explain=False).hits
    back = [hit.case for hit in hits if hit.band == "same" and returned(case, hit.case, days)]
    if not back:
        return False
    first = min(back, key=lambda one: (one.occurred_at, one.id))
    with database.transaction() as tx:
        return recurred(tx, case.id, first.id, first.record_id)


def _told(hit: Hit) -> dict[str, Any]:
    case = hit.case
    return {
        "record_id": case.record_id, "score": round(hit.score, 4), "probability": round(hit.probability, 4),
        "band": hit.band, "description": case.description, "root_cause": case.root_cause,
        "resolution": case.resolution, "outcome": case.outcome,
    }  # fmt: skip
