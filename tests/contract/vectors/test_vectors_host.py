"""The socket between the processes of one appliance: who is let in, what is let through, who must wait."""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pytest
from vector_sides import CASES, PRINT, case, hosted, number, vector

from edge.errors import Rejected, Stop, Unavailable
from edge.vectors import (
    EmbeddedStore,
    Filter,
    HasId,
    IsEmpty,
    Match,
    Point,
    Range,
    RemoteStore,
    SearchRequest,
    SparseVector,
    StoreHost,
    TimeRange,
    remote,
    wire,
)

NAME = "anomaly_patterns"


def through(value, **options):
    left, right = socket.socketpair()
    with left, right:
        deadline = time.monotonic() + 5
        sender = threading.Thread(target=wire.send, args=(left, wire.encode(value), deadline))
        sender.start()
        try:
            return wire.receive(right, deadline, **options)
        finally:
            sender.join()


def test_every_record_survives_the_wire():
    when = datetime(2026, 1, 5, tzinfo=UTC)
    filter = Filter(
        [Match("a", ["x", 1, True]), Range("n", gt=0.1)], [HasId([number(1)]), IsEmpty("z")], [TimeRange("t", lt=when)]
    )
    assert through({"f": filter, "l": [1, None, "ไทย"], "$": {"$": [number(2)]}}) == {
        "f": filter,
        "l": [1, None, "ไทย"],
        "$": {"$": [number(2)]},
    }
    assert through((CASES, PRINT)) == (CASES, PRINT)
    point = through([Point(number(3), {"a": vector(1), "b": vector(2)}, SparseVector([5, 2], [1, 2]), {"k": [1.5]})])[0]
    assert (point.id, point.payload, point.sparse.indices.tolist()) == (number(3), {"k": [1.5]}, [2, 5])
    assert all(np.array_equal(point.vectors[name], vector(seed)) for name, seed in (("a", 1), ("b", 2)))
    assert point.vectors["a"].dtype == np.float32
    words = through([Point(number(n), {}, SparseVector(range(n, 2 * n), range(n))) for n in (3, 1, 2)])
    assert [(each.id, each.vectors, each.payload) for each in words] == [(number(n), {}, {}) for n in (3, 1, 2)]
    assert [each.sparse.indices.tolist() for each in words] == [[3, 4, 5], [1], [2, 3]]
    assert [each.sparse.values.tolist() for each in words] == [[0, 1, 2], [0], [0, 1]]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"raw", float("nan"), {"x": socket.AF_UNIX.__class__}])
def test_what_has_no_form_on_the_wire_is_refused(value):
    with pytest.raises(Rejected):
        wire.encode(value)


@pytest.mark.parametrize(
    "header",
    [
        b'{"$":"Path","v":{}}',
        b'{"$":"array","t":"|O","n":1}',
        b'{"$":"array","t":"<f4","n":99}',
        b'{"$":"words","ids":"00","sizes":[9]}',
        b"{",
        b"\x80",
    ],
)
def test_bytes_that_are_no_message_are_malformed_and_build_nothing(header):
    left, right = socket.socketpair()
    with left, right:
        left.sendall(struct.pack(">4sII", b"AEV1", len(header), 0) + header)
        with pytest.raises(wire.Malformed):
            wire.receive(right, time.monotonic() + 5)


@pytest.fixture
def host(folder):
    with hosted(EmbeddedStore(folder / "vectors"), folder / "run" / "v.sock") as client:
        client.ensure(CASES, fingerprint=PRINT)
        client.upsert(NAME, [case(1)])
        yield folder / "run" / "v.sock", client


def test_the_socket_is_private(host):
    path, _ = host
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_another_user_is_turned_away(host, monkeypatch):
    path, _ = host
    monkeypatch.setattr(remote, "_peer_uid", lambda _: os.getuid() + 1)
    with RemoteStore(path) as client, pytest.raises((Stop, Unavailable)):
        client.count(NAME)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(5)
        raw.connect(str(path))
        assert raw.recv(1) == b""


def test_garbage_ends_one_connection_and_no_other(host):
    path, client = host
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", struct.pack(">4sII", b"AEV1", 2**31, 2**31), b"AEV1"):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(5)
            raw.connect(str(path))
            raw.sendall(garbage)
            if len(garbage) > 4:
                # A hang-up on unread bytes arrives as a reset.
                try:
                    assert raw.recv(1) == b""
                except ConnectionResetError:
                    pass
        assert client.count(NAME) == 1


def test_only_the_stores_own_requests_are_known(host):
    _, client = host
    for method in ("close", "_shard", "__class__", "serve_forever"):
        with pytest.raises(Rejected, match="does not know"):
            client._call(method)
    with pytest.raises(Unavailable, match="TypeError"):
        client._call("count", nonsense=1)
    assert client.count(NAME) == 1


def test_a_message_larger_than_allowed_is_refused_and_a_large_upsert_is_split(folder):
    with hosted(EmbeddedStore(folder / "vectors"), folder / "v.sock") as big:
        big.ensure(CASES, fingerprint=PRINT)
        with RemoteStore(folder / "v.sock", max_bytes=20_000) as client:
            client.upsert(NAME, [case(index, text="x" * 1000) for index in range(1, 200)])
            assert client.count(NAME) == 199
            with pytest.raises(Rejected, match="exceeds"):
                client.upsert(NAME, [case(1, text="x" * 30_000)])
        assert big.count(NAME) == 199


def test_more_clients_than_allowed_are_told_to_retry(folder):
    stop = threading.Event()
    server = StoreHost(EmbeddedStore(folder / "vectors"), folder / "v.sock", max_connections=2)
    thread = threading.Thread(target=server.serve_forever, args=(stop,))
    thread.start()
    clients = [RemoteStore(folder / "v.sock") for _ in range(3)]
    try:
        for client in clients[:2]:
            client.wait(10)
        with pytest.raises(Unavailable):
            clients[2].versions(NAME)
        clients[0].close()
        clients[2].wait(5)
    finally:
        for client in clients:
            client.close()
        stop.set()
        thread.join(10)


def test_a_silent_host_is_given_up_in_time_and_turns_are_bounded(folder):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "v.sock"))
        listener.listen(8)
        with RemoteStore(folder / "v.sock", timeout_s=0.5, pool_size=1) as client:
            started = time.monotonic()
            with ThreadPoolExecutor(3) as pool:
                answers = [pool.submit(client.count, NAME) for _ in range(3)]
                assert all(isinstance(answer.exception(), Unavailable) for answer in answers)
            assert time.monotonic() - started < 3


def test_a_second_host_on_the_same_socket_is_refused_and_a_stale_socket_is_not(host, folder):
    path, client = host
    with pytest.raises(Unavailable, match="already answers"):
        StoreHost(EmbeddedStore(folder / "other"), path).serve_forever(threading.Event())
    assert client.count(NAME) == 1
    stale = folder / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    with hosted(EmbeddedStore(folder / "third"), stale) as fresh:
        assert fresh.versions(NAME).built == ()


def test_a_socket_is_not_put_where_others_could_replace_it(folder):
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    with pytest.raises(Stop, match="0700"):
        StoreHost(EmbeddedStore(folder / "v"), folder / "open" / "v.sock").serve_forever(threading.Event())
    with pytest.raises(Stop, match="longer"):
        StoreHost(EmbeddedStore(folder / "v"), folder / ("x" * 120)).serve_forever(threading.Event())


def test_a_request_that_runs_when_the_host_is_stopped_still_gets_its_answer(folder):
    stop = threading.Event()
    store = EmbeddedStore(folder / "vectors")
    entered = threading.Event()
    real = store.count

    def slow(name, filter=None):
        entered.set()
        time.sleep(0.5)
        return real(name, filter)

    store.count = slow
    store.ensure(CASES, fingerprint=PRINT)
    thread = threading.Thread(target=StoreHost(store, folder / "v.sock").serve_forever, args=(stop,))
    thread.start()
    with RemoteStore(folder / "v.sock") as client:
        client.wait(10)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.count, NAME)
            entered.wait(5)
            stop.set()
            assert answer.result() == 0
        thread.join(10)
        with pytest.raises(Unavailable):
            client.search(NAME, SearchRequest(vector(1), "symptom"))
    assert not (folder / "v.sock").exists()
