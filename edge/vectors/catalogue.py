"""The five collections as data. What a collection *is* stands here and nowhere else; engines only carry it out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from edge.errors import Rejected

IndexKind = Literal["keyword", "integer", "float", "datetime", "bool"]

DIMENSION = 768
"""Length of every dense vector of the appliance."""

SPARSE_NAME = "terms"
"""Name of the lexical vector. The engine multiplies its values by the inverse document frequency."""

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_FINGERPRINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,127}")


@dataclass(frozen=True, slots=True)
class PayloadIndex:
    """One indexed payload field. `key` may be a dotted path; `tenant` asks the engine to group a tenant's points."""

    key: str
    kind: IndexKind
    tenant: bool = False


@dataclass(frozen=True, slots=True)
class Hnsw:
    """The graph's parameters. Both thresholds are kilobytes of vector data in one segment, as Qdrant counts them."""

    m: int = 16
    ef_construct: int = 100
    full_scan_threshold: int = 10_000
    indexing_threshold: int = 20_000


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection: named dense vectors of `dimension` float32 under cosine, one sparse vector, payload indexes.

    Raises Rejected where the name could not be told from a physical name (`<name>__<fingerprint>`).
    """

    name: str
    vectors: tuple[str, ...]
    indexes: tuple[PayloadIndex, ...]
    dimension: int = DIMENSION
    sparse: str = SPARSE_NAME
    hnsw: Hnsw = Hnsw()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Rejected(f"A collection cannot be called {self.name!r}: use lower-case words joined by single '_'.")

    def facetable(self, key: str) -> bool:
        """Whether values of `key` can be counted: engines count only what they index by value."""
        return any(index.key == key and index.kind in ("keyword", "integer", "bool") for index in self.indexes)


def physical_name(name: str, fingerprint: str) -> str:
    """`<name>__<fingerprint>`: the collection one encoder filled. Raises Rejected on a fingerprint unfit for a name."""
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise Rejected(
            f"The fingerprint {fingerprint!r} cannot name a collection: use 1 to 128 letters, digits, '.' or '-'."
        )
    return f"{name}__{fingerprint}"


def split_physical(name: str) -> tuple[str, str | None]:
    """`(logical name, fingerprint)`; the fingerprint is None where `name` is the alias itself."""
    logical, mark, fingerprint = name.partition("__")
    return logical, fingerprint if mark else None


def _indexes(
    *, keyword: str, integer: str = "", floating: str = "", datetime: str = "", case: bool = False
) -> tuple[PayloadIndex, ...]:
    """The listed fields plus those every collection has; `case` adds what both kinds of past cases share."""
    shared = "fingerprint" + (" status outcome camera_id worker_id" if case else "")
    kinds: tuple[tuple[IndexKind, Iterable[str]], ...] = (
        ("keyword", f"{keyword} {shared}".split()),
        ("integer", integer.split()),
        ("float", floating.split()),
        ("datetime", datetime.split()),
    )
    found = {"site_id": PayloadIndex("site_id", "keyword", tenant=True)}
    for kind, keys in kinds:
        for key in keys:
            found.setdefault(key, PayloadIndex(key, kind))
    return tuple(found.values())


_CASE_VECTORS = ("symptom", "cause", "fix")

COLLECTIONS: Mapping[str, Collection] = MappingProxyType(
    {
        collection.name: collection
        for collection in (
            Collection(
                name="work_sequences",
                vectors=("text",),
                indexes=_indexes(
                    keyword="zone_id product_type worker_skill_level language",
                    integer="avg_duration_seconds",
                    datetime="created_at",
                ),
            ),
            Collection(
                name="anomaly_patterns",
                vectors=_CASE_VECTORS,
                indexes=_indexes(
                    keyword="anomaly_type severity zone_id worker_id language tags",
                    integer="index_number",
                    datetime="timestamp",
                    case=True,
                ),
            ),
            Collection(
                name="knowledge_base",
                vectors=("text",),
                indexes=_indexes(
                    keyword="document_type section zone_applicable language tags",
                    datetime="effective_date",
                ),
                hnsw=Hnsw(m=32, ef_construct=200),
            ),
            Collection(
                name="worker_behaviors",
                vectors=("text",),
                indexes=_indexes(
                    keyword="worker_id time_period zone_id language metadata.skill_level",
                    floating="metrics.productivity_score",
                ),
            ),
            Collection(
                name="incident_reports",
                vectors=_CASE_VECTORS,
                indexes=_indexes(
                    keyword="incident_type severity zone_id status language tags",
                    datetime="timestamp",
                    case=True,
                ),
            ),
        )
    }
)
"""The five collections by name."""
