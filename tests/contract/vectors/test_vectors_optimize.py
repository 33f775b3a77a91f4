"""The embedded index is optimized on a copy: searches and writes go on, and nothing written meanwhile is lost."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from vector_sides import CASES, PRINT, hosted, number, vector

from edge.errors import Unavailable
from edge.vectors import EmbeddedStore, Filter, Hnsw, Match, Point, SearchRequest, SparseVector

NAME = "anomaly_patterns"
# A kilobyte of vectors is enough for a graph here, so that a small collection goes the way of a large one.
SMALL = replace(CASES, hnsw=Hnsw(indexing_threshold=1, full_scan_threshold=1))
POINTS = 1_500


def fill(store: EmbeddedStore, start: int, end: int, **payload: object) -> None:
    store.upsert(
        NAME,
        [
            Point(
                number(index),
                {"symptom": vector(index), "fix": vector(index + 10**6)},
                SparseVector([index % 50], [1.0]),
                {"site_id": "s1", "n": index, **payload},
            )
            for index in range(start, end)
        ],
    )


def state(store: EmbeddedStore) -> dict[int, tuple]:
    """Everything that is there, vectors included."""
    found = {}
    after = None
    while ids := store.scroll_ids(NAME, after, 500):
        after = ids[-1]
        for point in store.get(NAME, ids, with_vectors=True):
            found[point.id.int] = (
                {name: np.round(each, 5).tolist() for name, each in point.vectors.items()},
                point.sparse and point.sparse.indices.tolist(),
                dict(point.payload),
            )
    return found


@pytest.fixture
def store(folder: Path):
    with EmbeddedStore(folder / "vectors", quantize_above=1_000) as store:
        store.ensure(SMALL, fingerprint=PRINT)
        fill(store, 1, POINTS + 1)
        yield store


def test_the_graph_is_built_and_finds_what_the_scan_finds(store, folder):
    before = state(store)
    assert store.stats(NAME).indexed_vectors == POINTS, "the sparse ones"
    assert store.optimize(NAME)
    stats = store.stats(NAME)
    assert (stats.points, stats.indexed_vectors, stats.quantized) == (POINTS, 3 * POINTS, True)
    assert not store.optimize(NAME), "there is nothing left to do"
    assert state(store) == before
    found = wanted = 0
    for seed in range(50):
        query = SearchRequest(vector(5_000_000 + seed), "symptom", limit=10)
        exact = {hit.id for hit in store.search(NAME, replace(query, exact=True))}
        found += len(exact & {hit.id for hit in store.search(NAME, query)})
        wanted += 10
    assert found / wanted >= 0.98
    store.close()
    with EmbeddedStore(folder / "vectors", quantize_above=1_000) as again:
        assert state(again) == before
        assert again.stats(NAME).indexed_vectors == 3 * POINTS
        assert not again.optimize(NAME)


def test_what_is_written_while_it_runs_is_in_the_new_index(store, folder, monkeypatch):
    """Writes of every sort arrive between the copy and the moment it takes over."""
    original = EmbeddedStore._optimize_copy

    def late(self, copy, quantized, name):
        changed = original(self, copy, quantized, name)
        fill(store, POINTS + 1, POINTS + 400)
        fill(store, 1, 200, severity="high")
        store.delete(NAME, [number(index) for index in range(300, 600)])
        store.set_payload(NAME, [number(700)], {"status": "closed"})
        late.expected = state(store)
        return changed

    monkeypatch.setattr(EmbeddedStore, "_optimize_copy", late)
    assert store.optimize(NAME)
    assert state(store) == late.expected
    assert store.stats(NAME).indexed_vectors > 2 * POINTS
    assert store.count(NAME, Filter([Match("severity", ["high"])])) == 199
    store.close()
    with EmbeddedStore(folder / "vectors") as again:
        assert state(again) == late.expected


def test_searches_and_writes_go_on_all_the_while(store, folder):
    with hosted(store, folder / "run" / "v.sock") as remote:
        done = threading.Event()
        failures: list[Exception] = []
        asked = []

        def ask() -> None:
            while not done.is_set():
                try:
                    index = 1 + len(asked) % POINTS
                    hits = remote.search(NAME, SearchRequest(vector(index), "symptom", limit=1))
                    assert hits[0].id == number(index), index
                    asked.append(index)
                except Exception as error:
                    failures.append(error)
                    return

        thread = threading.Thread(target=ask)
        thread.start()
        for turn in range(2):
            if turn:
                fill(remote, 10_000, 10_300)
            before = len(asked)
            assert remote.optimize(NAME)
            assert len(asked) > before
        done.set()
        thread.join(30)
        assert not failures, failures
        assert remote.count(NAME) == POINTS + 300


def test_a_host_that_is_killed_meanwhile_loses_nothing_and_leaves_no_process(store, folder):
    expected = state(store)
    store.close()
    script = (
        "import sys; from pathlib import Path; from edge.vectors import EmbeddedStore\n"
        f"store = EmbeddedStore(Path(sys.argv[1]), quantize_above=1_000); print('ready', flush=True); store.optimize({NAME!r})"
    )
    copy = folder / "vectors" / "g1" / f"{NAME}__{PRINT}" / "shard-2"
    command = [sys.executable, "-c", script, str(folder / "vectors")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 30
        while not copy.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    with EmbeddedStore(folder / "vectors", quantize_above=1_000) as again:
        assert state(again) == expected
        assert not copy.exists()
        assert again.optimize(NAME)
        assert state(again) == expected


def test_a_failure_leaves_the_index_as_it_was(store, folder, monkeypatch):
    expected = state(store)

    def broken(self, copy, quantized, name):
        shutil.rmtree(copy / "segments")
        (copy / "segments").write_text("not a folder")
        return EmbeddedStore.__dict__["_unbroken"](self, copy, quantized, name)

    monkeypatch.setattr(EmbeddedStore, "_unbroken", EmbeddedStore._optimize_copy, raising=False)
    monkeypatch.setattr(EmbeddedStore, "_optimize_copy", broken)
    with pytest.raises(Unavailable, match="stays as it was"):
        store.optimize(NAME)
    assert state(store) == expected
    assert [entry.name for entry in (folder / "vectors" / "g1" / f"{NAME}__{PRINT}").glob("shard*")] == ["shard"]


def test_closing_the_store_gives_up_an_optimize(store, monkeypatch):
    started = threading.Event()
    original = subprocess.Popen

    def slow(command, **options):
        started.set()
        return original(["sleep", "60"], **options)

    monkeypatch.setattr("edge.vectors.embedded.subprocess.Popen", slow)
    outcome: list[Exception] = []

    def optimize() -> None:
        try:
            store.optimize(NAME)
        except Unavailable as error:
            outcome.append(error)

    thread = threading.Thread(target=optimize)
    thread.start()
    assert started.wait(30)
    store.close()
    thread.join(30)
    assert "given up" in str(outcome[0])
