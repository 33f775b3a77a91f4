"""The vector door: five collections, one store interface, three ways to reach it. Nothing of Qdrant leaves this package.

from edge.vectors import COLLECTIONS, open_store

with open_store(path=data_dir / "vectors") as store:            # alone in this process
    physical = store.ensure(COLLECTIONS["incident_reports"], fingerprint=encoder.fingerprint)
    store.upsert(physical, points)
    hits = store.search("incident_reports", SearchRequest(vector, using="symptom", limit=10))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import Stop
from edge.vectors.catalogue import (
    COLLECTIONS,
    DIMENSION,
    SPARSE_NAME,
    Collection,
    Hnsw,
    PayloadIndex,
    physical_name,
)
from edge.vectors.embedded import EmbeddedStore
from edge.vectors.model import (
    DEFAULT_QUANTIZE_ABOVE,
    MAX_WINDOW,
    Condition,
    FacetCount,
    Filter,
    HasId,
    Hit,
    IsEmpty,
    Match,
    Point,
    Range,
    SearchRequest,
    SparseVector,
    Stats,
    TimeRange,
    VectorStore,
    Versions,
)
from edge.vectors.remote import RemoteStore, StoreHost

if TYPE_CHECKING:
    from edge.vectors.server import ServerStore

__all__ = [
    "COLLECTIONS",
    "DEFAULT_QUANTIZE_ABOVE",
    "DIMENSION",
    "MAX_WINDOW",
    "SPARSE_NAME",
    "Collection",
    "Condition",
    "EmbeddedStore",
    "FacetCount",
    "Filter",
    "HasId",
    "Hit",
    "Hnsw",
    "IsEmpty",
    "Match",
    "PayloadIndex",
    "Point",
    "Range",
    "RemoteStore",
    "SearchRequest",
    "ServerStore",
    "SparseVector",
    "Stats",
    "StoreHost",
    "TimeRange",
    "VectorStore",
    "Versions",
    "open_store",
    "physical_name",
]


def open_store(
    *,
    path: Path | None = None,
    socket_path: Path | None = None,
    url: str | None = None,
    api_key: str | None = None,
    prefer_grpc: bool = True,
    grpc_port: int = 6334,
    timeout_s: float = 30.0,
    ca_file: Path | None = None,
    quantize_above: int | None = DEFAULT_QUANTIZE_ABOVE,
    shards: int = 1,
    replicas: int = 1,
) -> VectorStore:
    """The store behind exactly one of `path` (embedded here), `socket_path` (hosted beside) and `url` (a server).

    `timeout_s` bounds every request to a host or server; the rest is explained at each store.
    Raises Stop unless exactly one way is named, and whatever opening that way raises.
    """
    if sum(way is not None for way in (path, socket_path, url)) != 1:
        raise Stop("The vector store needs exactly one of a directory below data.dir, a host's socket or vectors.url.")
    if url is not None:
        from edge.vectors.server import ServerStore

        return ServerStore(
            url,
            api_key,
            prefer_grpc=prefer_grpc,
            grpc_port=grpc_port,
            timeout_s=max(1, round(timeout_s)),
            ca_file=ca_file,
            quantize_above=quantize_above,
            shards=shards,
            replicas=replicas,
        )
    if socket_path is not None:
        return RemoteStore(socket_path, timeout_s=timeout_s)
    assert path is not None
    return EmbeddedStore(path, quantize_above=quantize_above)


def __getattr__(name: str) -> Any:
    # The server's client takes seconds and 90 MB to import; a box that needs no server never pays for it.
    if name == "ServerStore":
        from edge.vectors.server import ServerStore

        return ServerStore
    raise AttributeError(name)
