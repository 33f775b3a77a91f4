"""Which collection is fed by what. A new source is one line here, its loader, and its view in a migration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from edge.db import Transaction
from edge.indexing.behaviors import BEHAVIOR_SOURCE
from edge.indexing.cases import CASE_SOURCES
from edge.indexing.knowledge import KNOWLEDGE_SOURCE
from edge.indexing.sequences import SEQUENCE_SOURCE
from edge.indexing.source import Entity, Source

SOURCES: Mapping[str, Source] = {
    source.collection: source for source in (*CASE_SOURCES, SEQUENCE_SOURCE, KNOWLEDGE_SOURCE, BEHAVIOR_SOURCE)
}
"""The sources by collection. A collection without one exists and stays empty."""


def load_entities(tx: Transaction, collection: str, ids: Sequence[UUID]) -> dict[UUID, Entity]:
    """The rows of `collection` that exist, by id; none where nothing feeds it."""
    source = SOURCES.get(collection)
    return {entity.id: entity for entity in source.load(tx, ids)} if source and ids else {}
