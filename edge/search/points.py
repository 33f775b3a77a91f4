"""The index as an operator sees it: collections, single points, and texts as the encoder reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from edge.cases import Casebook
from edge.embedding import Encoder
from edge.errors import Rejected
from edge.indexing import point_id
from edge.vectors import COLLECTIONS, Point, VectorStore, physical_name


@dataclass(frozen=True, slots=True)
class CollectionFacts:
    """`indexed`: vectors that stand in a graph; the others are scanned. `by_language`: points of each.

    `fields`: what can be filtered on, and of which kind its values are.
    """

    name: str
    fingerprint: str
    vectors: tuple[str, ...]
    dimension: int
    points: int
    indexed: int
    segments: int
    quantized: bool
    by_language: Mapping[str, int]
    fields: Mapping[str, str]


class Operator:
    """Reads the index, and takes points out of it. Thread-safe. Everything raises `Unavailable` without the index."""

    def __init__(self, casebook: Casebook, store: VectorStore, encoder: Encoder) -> None:
        self._casebook = casebook
        self._store = store
        self._encoder = encoder

    def collections(self) -> list[CollectionFacts]:
        """What each of the five holds for the encoder in use."""
        return [self.collection(name) for name in COLLECTIONS]

    def collection(self, name: str) -> CollectionFacts:
        """Raises `Rejected` for a name that is none."""
        physical, defined = self._physical(name), COLLECTIONS[name]
        stats = self._store.stats(physical)
        return CollectionFacts(
            name=name,
            fingerprint=stats.fingerprint,
            vectors=defined.vectors,
            dimension=stats.dimension,
            points=stats.points,
            indexed=stats.indexed_vectors,
            segments=stats.segments,
            quantized=stats.quantized,
            by_language={str(one.value): one.count for one in self._store.facet(physical, "language")},
            fields={index.key: index.kind for index in defined.indexes},
        )

    def point(self, name: str, identity: str, *, with_vectors: bool = False) -> Point | None:
        """A point by its own id or by the id of its case. Raises `Rejected` for a collection that is none."""
        found = self._store.get(self._physical(name), self._ids(name, identity), with_vectors=with_vectors)
        return found[0] if found else None

    def delete(self, name: str, identity: str) -> UUID | None:
        """Take a point out of the index, and note in Postgres that it is not there; None where there was none.

        The row it came from stays, and so the next reconciliation, or the next change of the row, brings the point back.
        """
        point = self.point(name, identity)
        if point is None:
            return None
        self._store.delete(self._physical(name), [point.id])
        with self._casebook.database.transaction() as tx:
            tx.run("point_drop", fingerprint=self._encoder.fingerprint, collection=name, ids=[point.id])
        return point.id

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], list[int]]:
        """Unit vectors [len(texts), dimension] of the encoder in use, and how many tokens of each were not read."""
        unread = [max(0, self._encoder.token_count(text) - self._encoder.max_tokens) for text in texts]
        return self._encoder.encode(texts), unread

    @property
    def model(self) -> str:
        return self._encoder.name

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    def _ids(self, name: str, identity: str) -> list[UUID]:
        try:
            return [UUID(identity)]
        except ValueError:
            case = self._casebook.get(identity) if "\x00" not in identity else None
            return [point_id(name, case.id)] if case else []

    def _physical(self, name: str) -> str:
        if name not in COLLECTIONS:
            raise Rejected(f"There is no collection {name!r}. Known are {', '.join(COLLECTIONS)}.")
        return physical_name(name, self._encoder.fingerprint)
