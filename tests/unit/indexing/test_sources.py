"""What a source gives is exactly what its collection indexes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from edge.cases import KINDS, Case, Kind
from edge.indexing import case_entity
from edge.vectors import COLLECTIONS

ALWAYS = {"site_id", "language", "fingerprint"}


def case(kind: Kind) -> Case:
    when = datetime(2026, 1, 5, tzinfo=UTC)
    return Case(
        id=UUID(int=7), site_id="s1", record_id="R-7", kind=kind, status="closed", type="jam", severity="high",
        origin="import", description="สายพานติด", language="th", root_cause="เศษติด", resolution=None, outcome="held",
        zone_id="ASM-1", camera_id=None, worker_id="w1", tags=("a",), occurred_at=when, last_seen_at=when,
        occurrences=1, acknowledged_at=None, acknowledged_by=None, closed_at=when, closed_by="x",
        minutes_to_restore=5, version=3, zone=None,
    )  # fmt: skip


def keys(fields: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from keys(value, f"{before}{name}.")
        else:
            yield before + name


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_fills_every_indexed_field_of_its_collection(kind: Kind) -> None:
    collection = COLLECTIONS["anomaly_patterns" if kind == "anomaly" else "incident_reports"]
    entity = case_entity(case(kind))
    assert set(keys(entity.fields)) == {index.key for index in collection.indexes} - ALWAYS
    payload = entity.payload("print")
    assert ALWAYS | {"key", "record_id"} <= payload.keys()
    assert set(entity.texts) == {"symptom", "cause"}
    assert set(entity.texts) <= set(collection.vectors)


def test_the_digest_changes_with_what_is_embedded_and_with_nothing_else() -> None:
    one = case_entity(case("incident"))
    assert (
        case_entity(replace(case("incident"), status="open", severity="low", version=9)).texts_digest
        == one.texts_digest
    )
    assert case_entity(replace(case("incident"), description="สายพานขาด")).texts_digest != one.texts_digest
    assert case_entity(replace(case("incident"), tags=("b",))).texts_digest != one.texts_digest
