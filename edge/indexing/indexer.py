"""Brings the index up to what Postgres says, outbox row by outbox row."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from edge.db import Database, Row
from edge.embedding import Encoder, sparse_terms
from edge.errors import Rejected, Unavailable
from edge.indexing.reconcile import reconcile
from edge.indexing.source import Entity, point_id
from edge.indexing.sources import load_entities
from edge.vectors import COLLECTIONS, Point, SparseVector, VectorStore, physical_name

_log = logging.getLogger(__name__)

#: Seconds a worker may take over one batch before another may have it: what a killed worker held waits no longer than
#: this. A batch takes a fraction of a second, and doing it twice changes nothing.
LEASE = 15

#: Seconds between two looks whether the index has lost points.
LOOK = 60.0

#: Where a row of the truth stands in the index.
Place = tuple[str, UUID]


class Indexer:
    """Owns the writing side of the index. `open` makes sure the collections exist for this encoder."""

    def __init__(self, database: Database, store: VectorStore, encoder: Encoder) -> None:
        self._database = database
        self._store = store
        self._encoder = encoder
        self._beside: set[str] = set()
        self._look_at = 0.0

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    def open(self) -> None:
        """Create or check the five collections for this encoder, and queue what the index lacks.

        Raises `Stop`, `Unavailable`.
        """
        fingerprint = self._encoder.fingerprint
        for collection in COLLECTIONS.values():
            active = self._store.versions(collection.name).active
            if active in (None, fingerprint):
                self._store.ensure(collection, fingerprint=fingerprint)
            else:
                # A new model: its points are built beside the old ones, which stay for the way back.
                _log.warning("The index %s is built anew for the model %s.", collection.name, self._encoder.name)
                self._store.build_beside(collection, fingerprint=fingerprint)
                self._beside.add(collection.name)
        with self._database.transaction() as tx:
            tx.run("index_version_put", fingerprint=fingerprint, model=self._encoder.name)
            if not self._beside:
                self._serve(tx)
            tx.one("outbox_add_stale", fingerprint=fingerprint)
        self._look_at = time.monotonic() + LOOK
        if self._lost():
            # Files were taken away, or an older copy was put back: what is left is compared point by point.
            found = reconcile(self._database, self._store, fingerprint=fingerprint)
            _log.warning("The index has lost %d points. They are made again.", found.missing)

    def step(self, batch: int = 32) -> bool:
        """Index up to `batch` outbox rows. True if there were any. Raises `Unavailable`; the lease brings them back."""
        with self._database.transaction() as tx:
            claimed = tx.all("outbox_claim", lease=LEASE, limit=batch)
        if not claimed:
            self._switch()
            return self._look()
        try:
            self._settle(claimed)
        except Unavailable as error:
            self._fail(claimed, str(error))
            raise
        except Rejected as error:
            if self._gone():
                self.open()
                return True
            if len(claimed) == 1:
                self._refused(claimed[0], error)
                return True
            # One bad row must not hold up its neighbours: find it by going one at a time.
            for row in claimed:
                try:
                    self._settle([row])
                except Rejected as alone:
                    self._refused(row, alone)
        return True

    def bring(self, places: Iterable[Place]) -> None:
        """Make the points of these rows what the rows are now: written, only their payload changed, or deleted.

        A row that belongs to another collection by now leaves the one it was in. Doing it twice changes nothing.
        Raises `Rejected` for a row that cannot be indexed, `Unavailable` when either side does not answer.
        """
        # Encoding and upserting happen outside any transaction: a slow index must not hold row locks.
        asked = set(places)
        ids = sorted({entity_id for _, entity_id in asked})
        with self._database.transaction() as tx:
            belongs = {(row["collection"], row["entity_id"]) for row in tx.all("indexable_of", ids=ids)}
            known = {
                (row["collection"], row["entity_id"]): row
                for row in tx.all("point_of", fingerprint=self.fingerprint, ids=ids)
            }
            entities = {
                collection: load_entities(
                    tx, collection, [entity_id for name, entity_id in belongs if name == collection]
                )
                for collection in sorted({name for name, _ in belongs})
            }
        written = []
        for collection, loaded in entities.items():
            self._write(collection, loaded.values(), known)
            written += [
                {
                    "collection": collection,
                    "point_id": point_id(collection, entity.id),
                    "entity_id": entity.id,
                    "version": entity.version,
                    "fingerprint": self.fingerprint,
                    "texts_digest": entity.texts_digest,
                }
                for entity in loaded.values()
            ]
        unwanted: dict[str, list[UUID]] = {}
        for collection, entity_id in asked | known.keys():
            if entity_id not in entities.get(collection, {}) and collection in COLLECTIONS:
                unwanted.setdefault(collection, []).append(point_id(collection, entity_id))
        for collection, points in unwanted.items():
            self._store.delete(self._physical(collection), points)
        with self._database.transaction() as tx:
            tx.many("point_put", written)
            for collection, points in unwanted.items():
                tx.run("point_drop", fingerprint=self.fingerprint, collection=collection, ids=points)

    def _physical(self, collection: str) -> str:
        return physical_name(collection, self.fingerprint)

    def _switch(self) -> None:
        """What was built beside becomes the index, once nothing is waiting to be learnt."""
        if self._beside:
            with self._database.transaction() as tx:
                waiting = tx.one("outbox_pending")
            if waiting is None or waiting["pending"]:
                return
            for name in sorted(self._beside):
                self._store.switch(name, fingerprint=self._encoder.fingerprint)
            with self._database.transaction() as tx:
                self._serve(tx)
            self._beside.clear()
            _log.warning("The new index is in use. The old one stays until it is dropped.")

    def _look(self) -> bool:
        """Now and then, while there is nothing else to do: is the index still there?"""
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + LOOK
        if not self._gone() and not self._lost():
            return False
        self.open()
        return True

    def _gone(self) -> bool:
        return any(self.fingerprint not in self._store.versions(name).built for name in COLLECTIONS)

    def _lost(self) -> bool:
        """Whether the index holds fewer points than it was told."""
        with self._database.transaction() as tx:
            told = {row["collection"]: row["points"] for row in tx.all("point_count", fingerprint=self.fingerprint)}
        return any(self._store.count(self._physical(name)) < points for name, points in told.items())

    def _serve(self, tx: Any) -> None:
        tx.run("index_version_retire", fingerprint=self.fingerprint)
        tx.run("index_version_serve", fingerprint=self.fingerprint)

    def _settle(self, claimed: Sequence[Row]) -> None:
        self.bring((row["collection"], row["entity_id"]) for row in claimed)
        with self._database.transaction() as tx:
            tx.run("outbox_done", ids=[row["id"] for row in claimed])

    def _write(self, collection: str, entities: Iterable[Entity], known: Mapping[Place, Row]) -> None:
        """Encode and upsert; where the texts are those of the point that is there, set its payload alone."""
        physical = self._physical(collection)
        whole = []
        for entity in entities:
            before = known.get((collection, entity.id))
            if before is not None and before["texts_digest"] == entity.texts_digest:
                payload = entity.payload(self.fingerprint)
                if not self._store.set_payload(physical, [point_id(collection, entity.id)], payload):
                    continue
                # The index has lost the point.
            whole.append(entity)
        if whole:
            self._store.upsert(physical, self._points(collection, whole))

    def _points(self, collection: str, entities: Sequence[Entity]) -> list[Point]:
        places = [(number, name) for number, entity in enumerate(entities) for name in entity.texts]
        texts = [entities[number].texts[name] for number, name in places]
        vectors: list[dict[str, Any]] = [{} for _ in entities]
        for (number, name), vector in zip(places, self._encoder.encode(texts), strict=True):
            vectors[number][name] = vector
        return [
            Point(
                point_id(collection, entity.id),
                vectors[number],
                _sparse(entity.lexical),
                entity.payload(self.fingerprint),
            )
            for number, entity in enumerate(entities)
        ]

    def _refused(self, row: Row, error: Rejected) -> None:
        _log.error("The row %s of %s cannot be indexed: %s", row["entity_id"], row["collection"], error)
        self._fail([row], str(error))

    def _fail(self, claimed: Sequence[Row], error: str) -> None:
        with self._database.transaction() as tx:
            tx.run("outbox_failed", ids=[row["id"] for row in claimed], error=error[:2_000])


def _sparse(text: str) -> SparseVector:
    found = sparse_terms(text)
    return SparseVector(found.indices, found.values)
