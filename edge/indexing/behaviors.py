"""Workers' weeks as the index shows them: figures as a sentence, strengths and points to improve, in both languages."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from edge.analytics.behavior import BEHAVIORS, period
from edge.db import Row, Transaction
from edge.indexing.source import Entity, Source


def _load(tx: Transaction, ids: Sequence[UUID]) -> list[Entity]:
    return [_entity(row) for row in tx.all("behavior_by_ids", ids=list(ids))]


def _entity(row: Row) -> Entity:
    metrics, when = row["metrics"], period(row["week"])
    said = [*row["strengths"]["th"], *row["points"]["th"], *row["strengths"]["en"], *row["points"]["en"]]
    # Without the worker and the week: what is alike are the ways of working, not the names.
    text = "\n".join([f"{row['name_th']} {row['name_en']}", *said])
    return Entity(
        id=row["id"],
        version=row["version"],
        site_id=row["site_id"],
        record_id=f"{row['worker_id']} {when}",
        language="mixed",
        texts={"text": text},
        lexical=text,
        fields={
            "worker_id": row["worker_id"],
            "time_period": when,
            "zone_id": row["zone_id"],
            "metadata": {"skill_level": row["skill"]},
            "metrics": {"productivity_score": metrics["productivity_score"]},
        },
        title=f"{row['worker_id']} {when}",
        text=text,
        facts={**row, "time_period": when},
    )


BEHAVIOR_SOURCE = Source(BEHAVIORS, _load)
