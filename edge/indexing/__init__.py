"""Rows → outbox → text → vector → point, for every collection, and the reconciliation that proves both stores agree."""

from edge.indexing.cases import case_entity, lexical_text
from edge.indexing.indexer import Indexer
from edge.indexing.reconcile import Reconciliation, reconcile
from edge.indexing.source import Entity, Source, point_id
from edge.indexing.sources import SOURCES, load_entities

__all__ = [
    "SOURCES",
    "Entity",
    "Indexer",
    "Reconciliation",
    "Source",
    "case_entity",
    "lexical_text",
    "load_entities",
    "point_id",
    "reconcile",
]
