"""The sides the vector contract is held against, and the small data they are fed."""

from __future__ import annotations

import os
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge.vectors import COLLECTIONS, EmbeddedStore, Point, RemoteStore, StoreHost, VectorStore

DIMENSION = 16
CASES = replace(COLLECTIONS["anomaly_patterns"], dimension=DIMENSION)
PRINT = "model-a.1"


def number(index: int) -> uuid.UUID:
    """A readable id: number(3) ends in …0003."""
    return uuid.UUID(int=index)


def vector(seed: int, dimension: int = DIMENSION) -> np.ndarray:
    """float32 [dimension], the same for the same seed."""
    return np.random.default_rng(seed).normal(size=dimension).astype(np.float32)


def case(index: int, **payload: object) -> Point:
    return Point(number(index), {"symptom": vector(index)}, payload={"site_id": "s1", **payload})


@contextmanager
def hosted(store: VectorStore, socket_path: Path) -> Iterator[RemoteStore]:
    """A host in a thread of this process and a client of it."""
    stop = threading.Event()
    thread = threading.Thread(target=StoreHost(store, socket_path).serve_forever, args=(stop,))
    thread.start()
    try:
        with RemoteStore(socket_path, timeout_s=20) as remote:
            remote.wait(10)
            yield remote
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@dataclass(frozen=True)
class Side:
    """One way to a store. `durable`: it can be closed and opened again. `threads`: it may be shared between threads."""

    name: str
    open: Callable[[Path], contextmanager]
    durable: bool = True
    threads: bool = True


@contextmanager
def _embedded(folder: Path) -> Iterator[VectorStore]:
    with EmbeddedStore(folder / "vectors") as store:
        yield store


@contextmanager
def _remote(folder: Path) -> Iterator[VectorStore]:
    with hosted(EmbeddedStore(folder / "vectors"), folder / "run" / "vectors.sock") as store:
        yield store


@contextmanager
def _local(folder: Path) -> Iterator[VectorStore]:
    # Imported where it is used: it takes seconds, and the child processes of the durability tests do without.
    from qdrant_client import QdrantClient

    from edge.vectors import ServerStore

    with warnings.catch_warnings():
        # The client's local mode scans everything and says so at the first index.
        warnings.filterwarnings("ignore", message="Payload indexes have no effect in the local Qdrant")
        warnings.filterwarnings("ignore", message="Local mode performs exact")
        with ServerStore.over(QdrantClient(":memory:")) as store:
            yield store


@contextmanager
def _server(folder: Path) -> Iterator[VectorStore]:
    from edge.vectors import ServerStore

    grpc_port = int(os.environ.get("EDGE_TEST_QDRANT_GRPC_PORT", "6334"))
    with ServerStore(
        os.environ["EDGE_TEST_QDRANT_URL"], os.environ.get("EDGE_TEST_QDRANT_API_KEY"), grpc_port=grpc_port
    ) as store:
        for collection in COLLECTIONS:
            for fingerprint in store.versions(collection).built:
                store._client.delete_collection(f"{collection}__{fingerprint}")
        yield store


# Local mode is the oracle of what filters mean. It keeps nothing (":memory:") and is not safe between threads.
SIDES = [
    Side("embedded", _embedded),
    Side("remote", _remote),
    Side("local", _local, durable=False, threads=False),
]
if os.environ.get("EDGE_TEST_QDRANT_URL"):
    SIDES.append(Side("server", _server, durable=False))
