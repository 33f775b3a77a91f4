"""What the index takes from a table: one `Source` a collection, one `Entity` a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from edge.db import Transaction


@dataclass(frozen=True, slots=True)
class Entity:
    """One row of the truth, as its point shows it and as a search presents it.

    `texts`: what each named vector of the collection is made from; without a text there is no vector. `lexical`: the
    words it is found by. `fields`: a value for every indexed field of the collection but `site_id`, `language` and
    `fingerprint`, dotted keys nested; None where it has none. `facts`: whatever else a reader may want to see.
    """

    id: UUID
    version: int
    site_id: str
    record_id: str
    language: str
    texts: Mapping[str, str]
    lexical: str
    fields: Mapping[str, Any]
    title: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def payload(self, fingerprint: str) -> dict[str, Any]:
        """What stands beside the vectors: the indexed fields and the way back to the row."""
        return {
            "site_id": self.site_id,
            "key": str(self.id),
            "record_id": self.record_id,
            "language": self.language,
            "fingerprint": fingerprint,
            **self.fields,
        }

    @property
    def texts_digest(self) -> bytes:
        """SHA-256 over everything that is embedded: while it stays the same, so do the vectors of one encoder."""
        embedded = json.dumps([sorted(self.texts.items()), self.lexical], ensure_ascii=False)
        return hashlib.sha256(embedded.encode()).digest()


@dataclass(frozen=True, slots=True)
class Source:
    """Feeds `collection`.

    `load` reads the rows of these ids in the given transaction, leaving out what is gone or belongs elsewhere. Which
    rows there are, and at which version, the database's view `indexable_<collection>` says.
    """

    collection: str
    load: Callable[[Transaction, Sequence[UUID]], list[Entity]]


def point_id(collection: str, entity_id: UUID) -> UUID:
    """The same row always has the same point: an upsert done twice changes nothing."""
    return uuid5(NAMESPACE_URL, f"andon-edge:{collection}/{entity_id}")
