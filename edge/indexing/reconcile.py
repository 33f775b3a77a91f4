"""Proves that Postgres and the index agree, and mends what does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from edge.db import Database
from edge.vectors import COLLECTIONS, VectorStore, physical_name

_PAGE = 1_000
_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """`missing`: in Postgres, not in the index. `orphaned`: the other way round. `stale`: an older version.

    A row that waits in the outbox counts as well: the index does not show it yet.
    """

    missing: int
    orphaned: int
    stale: int

    @property
    def agree(self) -> bool:
        return not (self.missing or self.orphaned or self.stale)


def reconcile(database: Database, store: VectorStore, *, fingerprint: str, mend: bool = True) -> Reconciliation:
    """Walk both sides in id order, for every collection and what this encoder's version of it holds.

    With `mend`, orphans are deleted, and missing and stale rows go into the outbox; without, nothing is touched.
    Raises `Unavailable` when either side does not answer; nothing is half-mended, a repeat goes on.
    """
    lost: dict[str, set[UUID]] = {}
    orphaned = 0
    for collection in COLLECTIONS:
        physical = physical_name(collection, fingerprint)
        known = set(_known(database, collection, fingerprint))
        indexed = set(_indexed(store, physical)) if fingerprint in store.versions(collection).built else set()
        lost[collection] = known - indexed
        extra = indexed - known
        if extra and mend:
            store.delete(physical, extra)
        orphaned += len(extra)
    with database.transaction() as tx:
        # Before anything is mended, so that each is counted for what it is.
        found = {
            row["how"]: row["rows"]
            for row in tx.all(
                "index_difference",
                fingerprint=fingerprint,
                lost=[each for points in lost.values() for each in points],
            )
        }
        if mend:
            for collection, points in lost.items():
                tx.run("point_drop", fingerprint=fingerprint, collection=collection, ids=list(points))
            tx.one("outbox_add_stale", fingerprint=fingerprint)
    return Reconciliation(found.get("missing", 0), orphaned + found.get("orphaned", 0), found.get("stale", 0))


def _known(database: Database, collection: str, fingerprint: str) -> Iterator[UUID]:
    after = _FIRST
    while True:
        with database.transaction() as tx:
            rows = tx.all("point_ids", fingerprint=fingerprint, collection=collection, after=after, limit=_PAGE)
        yield from (row["point_id"] for row in rows)
        if len(rows) < _PAGE:
            return
        after = rows[-1]["point_id"]


def _indexed(store: VectorStore, physical: str) -> Iterator[UUID]:
    after: UUID | None = None
    while True:
        page = store.scroll_ids(physical, after, _PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1]
