"""Anomalies and incidents as the index shows them: symptom, cause and fix apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from uuid import UUID

from edge.cases import COLLECTION, Case, Kind
from edge.cases.casebook import case_from
from edge.db import Transaction
from edge.indexing.source import Entity, Source


def lexical_text(case: Case) -> str:
    """The text whose words a case is found by."""
    return "\n".join(part for part in (case.description, case.root_cause, case.resolution, " ".join(case.tags)) if part)


def case_entity(case: Case) -> Entity:
    """A case as its point shows it. `facts` holds the whole case by field."""
    texts = {"symptom": case.description, "cause": case.root_cause, "fix": case.resolution}
    fields = {
        f"{case.kind}_type": case.type,
        "severity": case.severity,
        "status": case.status,
        "outcome": case.outcome,
        "zone_id": case.zone_id,
        "camera_id": case.camera_id,
        "worker_id": case.worker_id,
        "tags": list(case.tags),
        "timestamp": case.occurred_at,
    }
    if case.kind == "anomaly":
        # Counted by the machine per cycle; no case carries one yet.
        fields["index_number"] = None
    return Entity(
        id=case.id,
        version=case.version,
        site_id=case.site_id,
        record_id=case.record_id,
        language=case.language,
        texts={name: text for name, text in texts.items() if text},
        lexical=lexical_text(case),
        fields=fields,
        title=case.record_id,
        text=case.description,
        facts=asdict(case),
    )


def _load(kind: Kind, tx: Transaction, ids: Sequence[UUID]) -> list[Entity]:
    cases = (case_from(row) for row in tx.all("case_by_ids", ids=list(ids)))
    return [case_entity(case) for case in cases if case.kind == kind]


CASE_SOURCES = tuple(Source(collection, partial(_load, kind)) for kind, collection in COLLECTION.items())
