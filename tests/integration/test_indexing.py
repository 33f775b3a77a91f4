"""Rows become points, whatever table they come from; and both stores are proved to agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from edge.cases import Casebook
from edge.db import Database, Transaction
from edge.embedding import Encoder
from edge.indexing import SOURCES, Entity, Indexer, Source, point_id, reconcile, sources
from edge.simulation import load_sample
from edge.vectors import COLLECTIONS, EmbeddedStore, Filter, Match, Point, SearchRequest


class Counting(EmbeddedStore):
    """The real store; counts what is written whole and what by its payload alone."""

    upserted = 0
    payloads = 0

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        self.upserted += len(points)
        super().upsert(name, points)

    def set_payload(self, name, ids, payload):  # type: ignore[no-untyped-def]
        self.payloads += 1
        return super().set_payload(name, ids, payload)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Counting]:
    with Counting(tmp_path / "vectors") as store:
        yield store


@pytest.fixture
def indexer(db: Database, store: Counting, encoder: Encoder) -> Indexer:
    load_sample(db)
    indexer = Indexer(db, store, encoder)
    indexer.open()
    settle(indexer)
    return indexer


def settle(indexer: Indexer) -> None:
    for _ in range(100):
        if not indexer.step(64):
            return
    raise AssertionError("the outbox never ran empty")


def difference(db: Database, store: EmbeddedStore, indexer: Indexer, *, mend: bool = False) -> tuple[int, int, int]:
    found = reconcile(db, store, fingerprint=indexer.fingerprint, mend=mend)
    return found.missing, found.orphaned, found.stale


def test_every_source_has_rows_to_offer_and_every_view_a_source(db: Database) -> None:
    with db.transaction() as tx:
        tx.script("SELECT 1")
    with psycopg.connect(db._dsn) as connection:
        views = dict(
            connection.execute(
                "SELECT viewname, definition FROM pg_views WHERE viewname LIKE 'indexable\\_%'"
            ).fetchall()
        )
    assert {name.removeprefix("indexable_") for name in views} == COLLECTIONS.keys()
    fed = {
        name.removeprefix("indexable_")
        for name, definition in views.items()
        if " FROM " in " ".join(definition.split())
    }
    assert fed == SOURCES.keys()


def test_a_changed_status_is_written_without_embedding_anything(
    db: Database, store: Counting, indexer: Indexer, encoder: Encoder
) -> None:
    casebook = Casebook(db)
    case = casebook.sample(1)[0]
    before, texts = store.upserted, encoder.stats().texts
    casebook.reopen(case, actor="engineer")
    settle(indexer)
    assert (store.upserted, encoder.stats().texts, store.payloads) == (before, texts, 1)
    collection = "anomaly_patterns" if case.kind == "anomaly" else "incident_reports"
    assert store.count(collection, Filter([Match("status", ["open"])])) == 1
    (point,) = store.get(collection, [point_id(collection, case.id)], with_vectors=True)
    assert point.payload["status"] == "open"
    assert point.vectors
    assert point.sparse is not None
    assert difference(db, store, indexer) == (0, 0, 0)


def test_a_payload_whose_point_is_lost_becomes_a_whole_point(db: Database, store: Counting, indexer: Indexer) -> None:
    casebook = Casebook(db)
    case = casebook.sample(1)[0]
    collection = "anomaly_patterns" if case.kind == "anomaly" else "incident_reports"
    store.delete(collection, [point_id(collection, case.id)])
    casebook.reopen(case, actor="engineer")
    settle(indexer)
    (point,) = store.get(collection, [point_id(collection, case.id)], with_vectors=True)
    assert "symptom" in point.vectors


def test_a_case_that_becomes_another_kind_moves(db: Database, store: Counting, indexer: Indexer) -> None:
    total = sum(store.count(name) for name in COLLECTIONS)
    with psycopg.connect(db._dsn) as connection:
        moved = connection.execute(
            "UPDATE cases SET kind = 'anomaly', version = version + 1 WHERE id = (SELECT id FROM cases WHERE "
            "kind = 'incident' LIMIT 1) RETURNING id"
        ).fetchone()[0]
    assert difference(db, store, indexer) == (1, 1, 0)
    assert difference(db, store, indexer, mend=True) == (1, 1, 0)
    settle(indexer)
    assert difference(db, store, indexer) == (0, 0, 0)
    assert sum(store.count(name) for name in COLLECTIONS) == total
    assert store.get("anomaly_patterns", [point_id("anomaly_patterns", moved)])
    assert not store.get("incident_reports", [point_id("incident_reports", moved)])


def test_each_way_to_disagree_is_counted_for_what_it_is_and_mended(
    db: Database, store: Counting, indexer: Indexer
) -> None:
    name = "incident_reports"
    ids = store.scroll_ids(name, limit=5)
    store.delete(name, ids[:2])
    stranger = Point(uuid4(), {}, payload={"site_id": "s1"})
    store.upsert(name, [stranger])
    with psycopg.connect(db._dsn) as connection:
        connection.execute(
            "UPDATE cases SET version = version + 1 WHERE id IN (SELECT entity_id FROM point WHERE point_id = ANY(%s))",
            [ids[2:5]],
        )
    assert difference(db, store, indexer) == (2, 1, 3)
    assert difference(db, store, indexer) == (2, 1, 3), "looking changes nothing"
    assert difference(db, store, indexer, mend=True) == (2, 1, 3)
    settle(indexer)
    assert difference(db, store, indexer) == (0, 0, 0)
    assert not store.get(name, [stranger.id])


def test_an_index_whose_files_were_taken_away_fills_itself_again(
    db: Database, encoder: Encoder, tmp_path: Path, indexer: Indexer, store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.count("anomaly_patterns") > 100
    with EmbeddedStore(tmp_path / "empty") as empty:
        # As the host of the index comes back when its folder is gone: it knows no collection.
        monkeypatch.setattr(indexer, "_store", empty)
        monkeypatch.setattr(indexer, "_look_at", 0.0)
        settle(indexer)
        assert empty.count("anomaly_patterns") == store.count("anomaly_patterns")
        assert difference(db, empty, indexer) == (0, 0, 0)


def test_a_change_that_finds_no_collection_does_not_fail_its_row(
    db: Database, encoder: Encoder, tmp_path: Path, indexer: Indexer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedStore(tmp_path / "empty") as empty:
        monkeypatch.setattr(indexer, "_store", empty)
        with db.transaction() as tx:
            tx.script(
                "INSERT INTO outbox (collection, entity_id, operation) SELECT 'anomaly_patterns', id, 'upsert'"
                " FROM cases ORDER BY record_id LIMIT 1"
            )
        assert indexer.step(64)
        with psycopg.connect(db._dsn) as connection:
            assert connection.execute("SELECT count(*) FROM outbox WHERE last_error IS NOT NULL").fetchone() == (0,)
        with psycopg.connect(db._dsn, autocommit=True) as connection:
            connection.execute("UPDATE outbox SET due_at = clock_timestamp() WHERE done_at IS NULL")
        settle(indexer)
        assert difference(db, empty, indexer) == (0, 0, 0)


def test_a_table_and_a_loader_are_all_a_further_collection_needs(
    db: Database, store: Counting, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(db._dsn) as connection:
        connection.execute(
            "CREATE TABLE leaflet (id uuid PRIMARY KEY, version integer NOT NULL, body text NOT NULL);"
            "CREATE OR REPLACE VIEW indexable_knowledge_base (entity_id, version) AS SELECT id, version FROM leaflet"
        )
        leaflets = [(uuid4(), f"ขั้นตอนที่ {number} ปิดลมก่อนถอดกระบอกสูบ") for number in range(3)]
        for identity, body in leaflets:
            connection.execute("INSERT INTO leaflet VALUES (%s, 1, %s)", [identity, body])

    def load(tx: Transaction, ids: Sequence[UUID]) -> list[Entity]:
        fields = {"document_type": "sop", "section": "1", "zone_applicable": None, "tags": [], "effective_date": None}
        return [
            Entity(identity, 1, "demo", f"L-{number}", "th", {"text": body}, body, fields, "ใบงาน", body)
            for number, (identity, body) in enumerate(leaflets)
            if identity in ids
        ]

    monkeypatch.setattr(sources, "SOURCES", {**SOURCES, "knowledge_base": Source("knowledge_base", load)})
    indexer = Indexer(db, store, encoder)
    indexer.open()
    settle(indexer)
    assert store.count("knowledge_base") == 3
    query = encoder.encode([leaflets[1][1]])[0]
    (hit,) = store.search("knowledge_base", SearchRequest(query, "text", limit=1))
    assert hit.payload["key"] == str(leaflets[1][0])
    assert difference(db, store, indexer) == (0, 0, 0)
    with psycopg.connect(db._dsn) as connection:
        connection.execute("DELETE FROM leaflet WHERE id = %s", [leaflets[0][0]])
    leaflets.pop(0)
    assert difference(db, store, indexer, mend=True) == (0, 1, 0)
    settle(indexer)
    assert store.count("knowledge_base") == 2
    assert difference(db, store, indexer) == (0, 0, 0)
