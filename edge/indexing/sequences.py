"""Sessions as the index shows them: which steps were done, in which order, how long each took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any
from uuid import UUID

from edge.db import Row, Transaction
from edge.indexing.source import Entity, Source

#: Steps of a sequence that are told: the encoder reads no more than this many words.
TOLD = 20


def _load(tx: Transaction, ids: Sequence[UUID]) -> list[Entity]:
    cycles: dict[UUID, list[Row]] = {}
    for row in tx.all("cycles_of", ids=list(ids)):
        cycles.setdefault(row["session_id"], []).append(row)
    return [_entity(row, cycles.get(row["id"], [])) for row in tx.all("sequence_by_ids", ids=list(ids))]


def typical(cycles: Sequence[Mapping[str, Any]]) -> list[tuple[str, float | None]]:
    """The order of steps most cycles had, with the median seconds of each step."""
    orders = Counter(tuple(step["name"] for step in cycle["steps"]) for cycle in cycles)
    if not orders:
        return []
    times: dict[str, list[float]] = {}
    for cycle in cycles:
        for step in cycle["steps"]:
            if step["seconds"] is not None:
                times.setdefault(step["name"], []).append(step["seconds"])
    order = max(orders, key=lambda names: (orders[names], names))
    return [(name, median(times[name]) if name in times else None) for name in order]


def _entity(row: Row, cycles: Sequence[Row]) -> Entity:
    steps = typical(cycles)
    told = " → ".join(name.replace("_", " ") for name, _ in steps[:TOLD])
    product = f" {row['product_type']}" if row["product_type"] else ""
    text = f"{row['name_th']} {row['name_en']}{product}: {told}"
    return Entity(
        id=row["id"],
        version=row["version"],
        site_id=row["site_id"],
        record_id=f"{row['worker_id']} {row['day']} {row['started_at']:%H:%M}",
        # Places carry both names, steps the names machines gave them.
        language="mixed",
        texts={"text": text},
        lexical=text,
        fields={
            "zone_id": row["zone_id"],
            "product_type": row["product_type"],
            "worker_skill_level": row["skill"],
            "avg_duration_seconds": round(row["cycle_seconds"]) if row["cycle_seconds"] is not None else None,
            "created_at": row["ended_at"],
        },
        title=f"{row['zone_id']} {row['day']}",
        text=text,
        facts={**row, "steps": [{"name": name, "seconds": seconds} for name, seconds in steps]},
    )


SEQUENCE_SOURCE = Source("work_sequences", _load)
