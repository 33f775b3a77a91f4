"""The five collections are what was asked for, to the letter; the engines are given exactly that."""

from __future__ import annotations

import pytest

from edge.vectors import COLLECTIONS, DIMENSION, Hnsw
from edge.vectors.embedded import _config

ASKED = {
    "work_sequences": (
        "keyword: zone_id product_type worker_skill_level language; integer: avg_duration_seconds; datetime: created_at"
    ),
    "anomaly_patterns": (
        "keyword: anomaly_type severity zone_id worker_id language tags; datetime: timestamp; integer: index_number"
    ),
    "knowledge_base": ("keyword: document_type section zone_applicable language tags; datetime: effective_date"),
    "worker_behaviors": (
        "keyword: worker_id time_period zone_id language metadata.skill_level; float: metrics.productivity_score"
    ),
    "incident_reports": ("keyword: incident_type severity zone_id status language tags; datetime: timestamp"),
}


def test_there_are_five() -> None:
    assert COLLECTIONS.keys() == ASKED.keys()


@pytest.mark.parametrize("name", ASKED)
def test_every_field_is_indexed_by_its_type_and_site_id_is_the_tenant(name: str) -> None:
    indexes = {index.key: index for index in COLLECTIONS[name].indexes}
    for part in ASKED[name].split("; "):
        kind, keys = part.split(": ")
        for key in keys.split():
            assert indexes[key].kind == kind, key
    assert [key for key, index in indexes.items() if index.tenant] == ["site_id"]


@pytest.mark.parametrize("name", ASKED)
def test_graphs_and_dimension(name: str) -> None:
    collection = COLLECTIONS[name]
    wanted = Hnsw(m=16, ef_construct=100, full_scan_threshold=10_000, indexing_threshold=20_000)
    if name == "knowledge_base":
        wanted = Hnsw(m=32, ef_construct=200, full_scan_threshold=10_000, indexing_threshold=20_000)
    assert (collection.hnsw, collection.dimension, DIMENSION) == (wanted, 768, 768)


@pytest.mark.parametrize("quantized", [False, True])
def test_the_embedded_engine_is_told_all_of_it(quantized: bool) -> None:
    for collection in COLLECTIONS.values():
        told = _config(collection, quantized=quantized)
        graph = told.hnsw_config
        assert (graph.m, graph.ef_construct, graph.full_scan_threshold) == (
            collection.hnsw.m, collection.hnsw.ef_construct, collection.hnsw.full_scan_threshold,
        )  # fmt: skip
        assert told.optimizers.indexing_threshold == collection.hnsw.indexing_threshold
        assert set(told.vectors) == set(collection.vectors)
        assert {vector.size for vector in told.vectors.values()} == {768}
        assert (told.quantization_config is not None) == quantized
