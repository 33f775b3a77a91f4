"""Passages of the plant's documents as the index shows them, each with what is needed to cite it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time
from uuid import UUID

from edge.db import Row, Transaction
from edge.indexing.source import Entity, Source

#: Characters of title and headings that are embedded with a passage.
ABOUT = 120


def told(title: str, section: str, text: str) -> str:
    """What is embedded of a passage: its text after the words that say what it is about."""
    about = " › ".join(part for part in (title, section) if part)
    return f"{about[:ABOUT]}: {text}"


def _load(tx: Transaction, ids: Sequence[UUID]) -> list[Entity]:
    return [_entity(row) for row in tx.all("passage_by_ids", ids=list(ids))]


def _entity(row: Row) -> Entity:
    effective = row["effective_date"]
    document = str(row["document_id"])
    return Entity(
        id=row["id"],
        version=row["version"],
        site_id=row["site_id"],
        record_id=f"{document}#p{row['position']}",
        language=row["language"],
        texts={"text": told(row["title"], row["section"], row["text"])},
        lexical="\n".join((row["title"], row["section"], row["text"], " ".join(row["tags"]))),
        fields={
            "document_type": row["document_type"],
            "section": row["section"],
            "zone_applicable": list(row["zones"]),
            "tags": list(row["tags"]),
            "effective_date": datetime.combine(effective, time(), UTC) if effective else None,
        },
        title=row["title"],
        text=row["text"],
        facts={
            "document_id": document,
            "document_version": row["document_version"],
            "document_type": row["document_type"],
            "section": row["section"],
            "page": row["page"],
            "position": row["position"],
            "effective_date": effective.isoformat() if effective else None,
            "zones": list(row["zones"]),
            "tags": list(row["tags"]),
            "file_name": row["file_name"],
            "format": row["format"],
        },
    )


KNOWLEDGE_SOURCE = Source("knowledge_base", _load)
