"""What survives: kill -9, a cut of the power, a restore, a lost host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from vector_sides import CASES, PRINT, case, hosted, number, vector

from edge.errors import Rejected, Stop, Unavailable
from edge.vectors import EmbeddedStore, Filter, Match, RemoteStore, SearchRequest, open_store

NAME = "anomaly_patterns"
CHILD = Path(__file__).with_name("vector_child.py")


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(CHILD), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(*arguments: object):
    """A child that is killed -9 at the end, whatever happens."""
    child = start(*arguments)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()


def test_no_acknowledged_point_is_lost_by_kill_9(folder):
    path = folder / "vectors"
    acknowledged = 0
    for round_ in range(5):
        with running("write", path) as child:
            for line, _ in zip(child.stdout, range(5 + round_ * 7), strict=False):
                acknowledged = int(line)
        with EmbeddedStore(path) as store:
            ids = [number(index) for index in range(1, acknowledged + 1)]
            points = store.get(NAME, ids, with_vectors=True)
            assert [point.id for point in points] == ids
            assert all("symptom" in point.vectors for point in points)
            assert store.count(NAME, Filter([Match("status", ["fixed"])])) >= acknowledged // 7
            assert store.search(NAME, SearchRequest(vector(3), "symptom"))[0].id == number(3)
    assert acknowledged > 5 * 7


def test_the_log_alone_carries_what_was_acknowledged_since_the_last_flush(folder):
    """The power goes: every file is as the last flush left it, except the log, which each write waits for."""
    with EmbeddedStore(folder / "live") as store:
        physical = store.ensure(CASES, fingerprint=PRINT)
        store.upsert(physical, [case(index, n=1) for index in range(1, 50)])
        store.snapshot(folder / "flushed")
        shutil.copytree(folder / "live", folder / "cut")
        store.upsert(physical, [case(index, n=2) for index in range(30, 100)])
        store.delete(physical, [number(1)])
        store.set_payload(physical, [number(2)], {"n": 3})
        inside = Path("g1", physical, "shard", "wal")
        shutil.rmtree(folder / "cut" / inside)
        shutil.copytree(folder / "live" / inside, folder / "cut" / inside)
    with EmbeddedStore(folder / "cut") as store:
        assert store.count(NAME) == 98
        assert [point.payload["n"] for point in store.get(NAME, [number(i) for i in (1, 2, 3, 30, 99)])] == [3, 1, 2, 2]


def test_a_restored_snapshot_can_be_written_to(folder):
    with EmbeddedStore(folder / "vectors") as store:
        physical = store.ensure(CASES, fingerprint=PRINT)
        store.upsert(physical, [case(index, n=1) for index in range(1, 101)])
        store.snapshot(folder / "snapshots" / "monday")
        store.upsert(physical, [case(index, n=2) for index in range(50, 201)])
        store.delete(physical, [number(1)])
        store.build_beside(CASES, fingerprint="model-b")
        store.switch(NAME, fingerprint="model-b")

        store.restore(folder / "snapshots" / "monday")
        assert store.versions(NAME).built == (PRINT,)
        assert store.count(NAME) == 100
        assert {point.payload["n"] for point in store.get(NAME, store.scroll_ids(NAME))} == {1}

        # Updating points the snapshot already held is what a restore without the log silently loses.
        store.upsert(NAME, [case(index, n=3) for index in range(1, 51)])
        store.set_payload(NAME, [number(60)], {"n": 4})
        assert store.count(NAME, Filter([Match("n", [3])])) == 50
    with EmbeddedStore(folder / "vectors") as store:
        assert store.count(NAME, Filter([Match("n", [3, 4])])) == 51
        assert store.count(NAME) == 100
    assert sorted(entry.name for entry in (folder / "vectors").iterdir()) == ["CURRENT", "g2", "lock"]


def test_segments_that_the_engine_prepares_meanwhile_disturb_neither_writes_nor_snapshots(folder):
    """A thread of the engine makes the next segment of the log under another name. Seen at 98,000 cases in one go: the
    name was listed, and gone when its file was to be synced."""
    stop = threading.Event()
    with EmbeddedStore(folder / "vectors") as store:
        physical = store.ensure(CASES, fingerprint=PRINT)
        log = folder / "vectors/g1" / physical / "shard/wal"

        def prepare() -> None:
            while not stop.is_set():
                for turn in range(20):
                    (log / f"tmp-open-9{turn:02}").write_bytes(b"")
                for turn in range(20):
                    (log / f"tmp-open-9{turn:02}").unlink()

        thread = threading.Thread(target=prepare)
        thread.start()
        try:
            for index in range(1, 300):
                store.upsert(physical, [case(index)])
            store.snapshot(folder / "whole")
        finally:
            stop.set()
            thread.join()
    with EmbeddedStore(folder / "again") as store:
        store.restore(folder / "whole")
        assert store.count(NAME) == 299


def test_a_snapshot_taken_while_others_write_and_search_is_whole(folder):
    stop = threading.Event()
    written = [0]
    with EmbeddedStore(folder / "vectors") as store:
        store.ensure(CASES, fingerprint=PRINT)

        def write() -> None:
            while not stop.is_set():
                first = written[0]
                store.upsert(NAME, [case(index) for index in range(first + 1, first + 6)])
                written[0] = first + 5

        thread = threading.Thread(target=write)
        thread.start()
        counts = []
        for turn in range(3):
            before = written[0]
            store.snapshot(folder / f"s{turn}")
            counts.append((before, written[0]))
            store.search(NAME, SearchRequest(vector(1), "symptom"))
        stop.set()
        thread.join()
    for turn, (before, after) in enumerate(counts):
        with EmbeddedStore(folder / f"r{turn}") as store:
            store.restore(folder / f"s{turn}")
            assert before <= store.count(NAME) <= after + 5


def test_a_damaged_or_foreign_snapshot_changes_nothing(folder):
    with EmbeddedStore(folder / "vectors") as store:
        physical = store.ensure(CASES, fingerprint=PRINT)
        store.upsert(physical, [case(1)])
        store.snapshot(folder / "good")
        with pytest.raises(Rejected, match="already"):
            store.snapshot(folder / "good")
        damages = {
            "missing": lambda path: (path / physical / "collection.json").unlink(),
            "altered": lambda path: (path / physical / "collection.json").write_text("{}"),
            "unfinished": lambda path: (path / "snapshot.json").unlink(),
        }
        for name, damage in damages.items():
            shutil.copytree(folder / "good", folder / name)
            damage(folder / name)
            with pytest.raises(Rejected):
                store.restore(folder / name)
            assert store.count(NAME) == 1
        with pytest.raises(Rejected):
            store.restore(folder / "nowhere")
        store.upsert(NAME, [case(2)])
        assert store.count(NAME) == 2


def test_leftovers_of_an_interrupted_creation_or_restore_are_cleared(folder):
    path = folder / "vectors"
    with EmbeddedStore(path) as store:
        store.ensure(CASES, fingerprint=PRINT)
        store.upsert(NAME, [case(1)])
    (path / "g2" / "half").mkdir(parents=True)
    (path / "g1" / ".new-x__y").mkdir()
    with EmbeddedStore(path) as store:
        assert store.versions("x").built == ()
        assert store.count(NAME) == 1
    assert sorted(entry.name for entry in path.iterdir()) == ["CURRENT", "g1", "lock"]


def test_unreadable_files_stop_with_a_sentence_and_are_left_alone(folder):
    path = folder / "vectors"
    with EmbeddedStore(path) as store:
        physical = store.ensure(CASES, fingerprint=PRINT)
    described = path / "g1" / physical / "collection.json"
    described.write_text("{")
    with EmbeddedStore(path) as store, pytest.raises(Stop, match="rebuilt"):
        store.count(NAME)
    assert described.read_text() == "{"


def test_a_second_process_is_refused_in_words(folder):
    path = folder / "vectors"
    with EmbeddedStore(path) as store:
        store.ensure(CASES, fingerprint=PRINT)
        child = start("write", path)
        _, said = child.communicate(timeout=30)
        assert child.returncode == 1
        assert said.startswith("Unavailable:")
        for named in ("data.dir", "vectors.url"):
            assert named in said
        with pytest.raises(Unavailable, match="already open"):
            EmbeddedStore(path)
        assert store.count(NAME) == 0
    with EmbeddedStore(path) as store:
        assert store.count(NAME) == 0


def test_a_client_survives_its_host_being_killed_and_started_again(folder):
    path, socket_path = folder / "vectors", folder / "run" / "v.sock"
    acknowledged = 0
    with open_store(socket_path=socket_path) as remote:
        with pytest.raises(Unavailable, match="does not answer"):
            remote.count(NAME)
        for _ in range(3):
            with running("host", path, socket_path) as child:
                remote.wait(20)
                remote.ensure(CASES, fingerprint=PRINT)
                assert remote.count(NAME) == acknowledged
                for _ in range(5):
                    points = [case(index) for index in range(acknowledged + 1, acknowledged + 11)]
                    remote.upsert(NAME, points)
                    acknowledged += 10
                child.send_signal(signal.SIGKILL)
                child.wait()
                with pytest.raises(Unavailable):
                    remote.count(NAME)


def test_a_host_killed_in_the_middle_of_writing_loses_nothing_it_acknowledged(folder):
    path, socket_path = folder / "vectors", folder / "run" / "v.sock"
    acknowledged: set[int] = set()
    with running("host", path, socket_path) as child, RemoteStore(socket_path) as remote:
        remote.wait(20)
        remote.ensure(CASES, fingerprint=PRINT)

        def write(worker: int) -> None:
            try:
                for index in range(worker * 10_000, worker * 10_000 + 10_000):
                    remote.upsert(NAME, [case(index)])
                    acknowledged.add(index)
            except Unavailable:
                pass

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(1, 5)]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        child.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    assert len(acknowledged) > 20
    with EmbeddedStore(path) as store:
        assert len(store.get(NAME, [number(index) for index in acknowledged])) == len(acknowledged)


def test_a_hosted_store_takes_and_restores_snapshots(folder):
    with hosted(EmbeddedStore(folder / "vectors"), folder / "v.sock") as remote:
        remote.ensure(CASES, fingerprint=PRINT)
        remote.upsert(NAME, [case(1)])
        remote.snapshot(folder / "s")
        remote.upsert(NAME, [case(2)])
        remote.restore(folder / "s")
        assert remote.count(NAME) == 1


def test_above_the_configured_size_vectors_are_quantized_and_rescored(folder):
    with EmbeddedStore(folder / "vectors", quantize_above=500) as store:
        store.ensure(CASES, fingerprint=PRINT)
        store.upsert(NAME, [case(index) for index in range(1, 2001)])
        assert not store.stats(NAME).quantized
        store.optimize(NAME)
        assert store.stats(NAME).quantized
        hits = store.search(NAME, SearchRequest(vector(0), "symptom", limit=10))
        exact = store.search(NAME, SearchRequest(vector(0), "symptom", limit=10, exact=True))
        assert len({hit.id for hit in hits} & {hit.id for hit in exact}) >= 9
        assert hits[0].score == pytest.approx(exact[0].score, abs=1e-5)
        store.upsert(NAME, [case(5, n=9)])
        store.snapshot(folder / "s")
        store.restore(folder / "s")
        assert store.count(NAME, Filter([Match("n", [9])])) == 1
        assert store.stats(NAME).quantized
