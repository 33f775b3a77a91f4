"""The index of another encoder: built beside the one that serves, compared with it, switched to, and back."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from edge.db import Database, Transaction
from edge.embedding import Encoder
from edge.errors import Rejected, Stop
from edge.indexing.indexer import Indexer, Place
from edge.indexing.sources import load_entities
from edge.vectors import COLLECTIONS, SearchRequest, VectorStore, physical_name

_log = logging.getLogger(__name__)

#: Rows looked up at once of those that are to be built.
_PAGE = 5_000


@dataclass(frozen=True, slots=True)
class IndexVersion:
    """One encoder's index. `state`: building, serving or kept. `lacking`: rows that it does
    not show yet, or not as they are now."""

    fingerprint: str
    model: str
    state: str
    started_at: datetime
    served_at: datetime | None
    compared: dict[str, Any] | None
    points: int
    lacking: int

    @property
    def ready(self) -> bool:
        return not self.lacking


@dataclass(frozen=True, slots=True)
class Comparison:
    """`overlap`: the share of the first ten that both find, mean over `questions`; `same_first`: of equal first ones."""

    questions: int
    overlap: float
    same_first: float


def index_versions(database: Database) -> list[IndexVersion]:
    """Every version there is, oldest first."""
    with database.transaction() as tx:
        return [
            IndexVersion(lacking=int(tx.value("index_lacking", fingerprint=row["fingerprint"]) or 0), **row)
            for row in tx.all("index_versions")
        ]


def serving_fingerprint(database: Database, store: VectorStore) -> str | None:
    """The encoder that answers now; None on a first start."""
    with database.transaction() as tx:
        row = tx.one("index_serving")
    # A database from before versions were kept knows it from the index alone.
    return row["fingerprint"] if row else store.versions(next(iter(COLLECTIONS))).active


class Reindex:
    """Fills the index of `encoder` beside the one that serves. Whatever is done stays done: a new one goes on.

    Searches and the worker's own indexing are not touched; `step` takes one batch at a time.
    """

    def __init__(self, database: Database, store: VectorStore, encoder: Encoder) -> None:
        self._database = database
        self._store = store
        self._encoder = encoder
        self._indexer = Indexer(database, store, encoder)
        self._waiting: deque[Place] = deque()
        self._refused: dict[Place, str] = {}

    def start(self) -> None:
        """Make the collections and say that they are being built. Raises `Stop` where they do not fit."""
        for collection in COLLECTIONS.values():
            self._store.build_beside(collection, fingerprint=self._encoder.fingerprint)
        with self._database.transaction() as tx:
            tx.run("index_version_put", fingerprint=self._encoder.fingerprint, model=self._encoder.name)

    def left(self) -> int:
        """How many rows are still to be built, those that were refused left out."""
        with self._database.transaction() as tx:
            lacking = int(tx.value("index_lacking", fingerprint=self._encoder.fingerprint) or 0)
        return max(0, lacking - len(self._refused))

    @property
    def refused(self) -> dict[Place, str]:
        """Rows that cannot be indexed, with the reason."""
        return self._refused

    def step(self, batch: int = 64) -> bool:
        """Build up to `batch` rows. False when the index shows everything. Raises `Unavailable`."""
        if not self._waiting:
            with self._database.transaction() as tx:
                rows = tx.all("index_lacks", fingerprint=self._encoder.fingerprint, limit=_PAGE + len(self._refused))
            places = ((row["collection"], row["entity_id"]) for row in rows)
            self._waiting.extend(place for place in places if place not in self._refused)
        part = [self._waiting.popleft() for _ in range(min(batch, len(self._waiting)))]
        try:
            self._indexer.bring(part)
        except Rejected:
            for place in part:
                try:
                    self._indexer.bring([place])
                except Rejected as error:
                    self._refused[place] = str(error)
                    _log.error("The row %s of %s cannot be indexed: %s", place[1], place[0], error)
        return bool(part)

    def compare(
        self, serving: Encoder, questions: Sequence[str], progress: Callable[[int, int], None] = lambda _d, _t: None
    ) -> Comparison:
        """Ask both indexes the same, each by its own encoder, and keep what came out. Raises `Rejected` without any."""
        if not questions:
            raise Rejected("There is nothing to ask: the appliance has no cases yet.")
        shared, same = 0.0, 0
        for number, text in enumerate(questions):
            old, new = (_first_ten(self._store, encoder, text) for encoder in (serving, self._encoder))
            shared += len(set(old) & set(new)) / max(1, len(old), len(new))
            same += old[:1] == new[:1]
            progress(number + 1, len(questions))
        found = Comparison(len(questions), round(shared / len(questions), 4), round(same / len(questions), 4))
        with self._database.transaction() as tx:
            compared = {"questions": found.questions, "overlap": found.overlap, "same_first": found.same_first}
            tx.run("index_version_compared", fingerprint=self._encoder.fingerprint, compared=compared)
        return found


def switch(database: Database, store: VectorStore, fingerprint: str) -> None:
    """Let this version answer from now on. Running roles follow within seconds; the former version is kept.

    Raises `Stop` where it was never built.
    """
    for name in COLLECTIONS:
        if fingerprint not in (built := store.versions(name).built):
            raise Stop(f"{name} has not been built for {fingerprint}, only for {', '.join(built) or 'none'}.")
    with database.transaction() as tx:
        # The rows first, uncommitted: whoever reads them follows only once every alias points the new way.
        _serve(tx, fingerprint)
        for name in COLLECTIONS:
            store.switch(name, fingerprint=fingerprint)


def rollback(database: Database, store: VectorStore) -> IndexVersion:
    """Switch to the version that served last before this one. Raises `Rejected` where there is none."""
    kept = [each for each in index_versions(database) if each.state == "kept" and each.served_at is not None]
    if not kept:
        raise Rejected("There is no former index to go back to.")
    former = max(kept, key=lambda each: each.served_at)  # type: ignore[arg-type, return-value]
    switch(database, store, former.fingerprint)
    return former


def drop(database: Database, store: VectorStore, fingerprint: str) -> None:
    """Remove a version that does not serve, points and all. Raises `Stop` where it serves."""
    for name in COLLECTIONS:
        store.drop(name, fingerprint=fingerprint)
    with database.transaction() as tx:
        tx.run("point_drop_version", fingerprint=fingerprint)
        tx.run("index_version_drop", fingerprint=fingerprint)


def optimize(store: VectorStore, progress: Callable[[str, int, int], None] = lambda _n, _d, _t: None) -> list[str]:
    """Optimize every collection that answers now; the names of those where something was done."""
    changed = []
    for number, name in enumerate(COLLECTIONS):
        progress(name, number, len(COLLECTIONS))
        if store.versions(name).active is not None and store.optimize(name):
            changed.append(name)
    progress("", len(COLLECTIONS), len(COLLECTIONS))
    return changed


def real_questions(database: Database, limit: int) -> list[str]:
    """Texts to compare two encoders by: what was reported, drawn from all over the history, the same each time."""
    with database.transaction() as tx:
        places = [(row["collection"], row["entity_id"]) for row in tx.all("indexable_sample", limit=limit)]
        texts = []
        for collection in sorted({name for name, _ in places}):
            ids = [entity_id for name, entity_id in places if name == collection]
            texts += [entity.text for _, entity in sorted(load_entities(tx, collection, ids).items())]
    return texts


def _serve(tx: Transaction, fingerprint: str) -> None:
    tx.run("index_version_retire", fingerprint=fingerprint)
    if not tx.run("index_version_serve", fingerprint=fingerprint) and not any(
        row["fingerprint"] == fingerprint for row in tx.all("index_versions")
    ):
        raise Stop(f"No index was built for the encoder {fingerprint}.")


def _first_ten(store: VectorStore, encoder: Encoder, text: str) -> list[tuple[str, UUID]]:
    """The ten nearest rows over every collection and vector, by cosine alone: what the encoder decides."""
    query = encoder.encode([text])[0]
    best: dict[tuple[str, UUID], float] = {}
    for collection in COLLECTIONS.values():
        requests = [SearchRequest(query, name, limit=10) for name in collection.vectors]
        for hits in store.search_many(physical_name(collection.name, encoder.fingerprint), requests):
            for hit in hits:
                place = (collection.name, hit.id)
                best[place] = max(best.get(place, -1.0), hit.score)
    return sorted(best, key=lambda place: (-best[place], place[1].int))[:10]
