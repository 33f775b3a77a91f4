"""What can be said of the server side without a server: its refusals, its time-outs, its collections."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from qdrant_client.conversions.conversion import RestToGrpc
from test_vectors_contract import FILTERS
from vector_sides import CASES, PRINT

from edge.errors import Rejected, Stop, Unavailable
from edge.vectors import COLLECTIONS, ServerStore, open_store
from edge.vectors import server as server_side

NAME = "anomaly_patterns"


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


@pytest.fixture
def closed() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("grpc", [True, False], ids=["grpc", "rest"])
def test_a_server_that_is_not_there_is_unavailable_in_words(grpc, closed):
    with ServerStore(f"http://127.0.0.1:{closed}", prefer_grpc=grpc, grpc_port=closed, timeout_s=1) as store:
        for call in (lambda: store.count(NAME), lambda: store.ensure(CASES, fingerprint=PRINT)):
            with pytest.raises(Unavailable, match="vectors.url"):
                call()


@pytest.mark.parametrize("grpc", [True, False], ids=["grpc", "rest"])
def test_a_server_that_stays_silent_is_given_up_in_time(grpc, silent):
    with ServerStore(f"http://127.0.0.1:{silent}", prefer_grpc=grpc, grpc_port=silent, timeout_s=1) as store:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            store.versions(NAME)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("status", "error"), [(401, Stop), (403, Stop), (400, Rejected), (500, Unavailable), (429, Unavailable)]
)
def test_each_refusal_of_a_server_tells_the_caller_what_to_do(status, error):
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as refusing:
        thread = threading.Thread(target=refusing.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{refusing.server_port}"
            with ServerStore(url, "secret-key", prefer_grpc=False, timeout_s=5) as store:
                with pytest.raises(error) as caught:
                    store.versions(NAME)
                assert "secret-key" not in str(caught.value)
        finally:
            refusing.shutdown()
            thread.join()


def test_a_key_in_the_clear_is_warned_of_once_it_leaves_the_machine(caplog):
    ServerStore("http://127.0.0.1:1", "key").close()
    assert caplog.records == []
    ServerStore("http://vectors.example:1", "key").close()
    assert "unencrypted" in caplog.text


def test_exactly_one_way_must_be_named(folder):
    for ways in ({}, {"path": folder / "v", "url": "http://x"}, {"socket_path": folder / "s", "path": folder / "v"}):
        with pytest.raises(Stop, match="exactly one"):
            open_store(**ways)
    for url in ("vectors", "ftp://x", ""):
        with pytest.raises(Stop, match="vectors.url"):
            open_store(url=url)
    with pytest.raises(Stop, match=r"vectors\.url"):
        open_store(url="https://x", ca_file=folder / "absent.pem")


@pytest.mark.parametrize("filter", [filter for _, filter, _ in FILTERS], ids=[name for name, _, _ in FILTERS])
def test_every_filter_can_be_said_over_grpc(filter):
    RestToGrpc.convert_filter(server_side._filter(filter))


def test_a_box_without_a_server_never_imports_its_client():
    code = "import sys, edge.vectors; sys.exit('qdrant_client' in sys.modules or 'grpc' in sys.modules)"
    paths = os.pathsep.join(filter(None, sys.path))
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=False).returncode
        == 0
    )


def test_the_collections_are_the_ones_agreed_upon():
    assert set(COLLECTIONS) == {
        "work_sequences",
        "anomaly_patterns",
        "knowledge_base",
        "worker_behaviors",
        "incident_reports",
    }
    for collection in COLLECTIONS.values():
        assert (collection.dimension, collection.sparse) == (768, "terms")
        indexes = {index.key: index for index in collection.indexes}
        assert len(indexes) == len(collection.indexes)
        assert indexes["site_id"].tenant
        assert indexes["fingerprint"].kind == "keyword"
        assert [index.key for index in collection.indexes if index.tenant] == ["site_id"]
    for cases in ("anomaly_patterns", "incident_reports"):
        assert COLLECTIONS[cases].vectors == ("symptom", "cause", "fix")
        assert {"status", "outcome", "camera_id", "worker_id"} <= {index.key for index in COLLECTIONS[cases].indexes}
    assert (COLLECTIONS["knowledge_base"].hnsw.m, COLLECTIONS["knowledge_base"].hnsw.ef_construct) == (32, 200)
    with pytest.raises(TypeError):
        COLLECTIONS["more"] = CASES
