"""The index of another model: built beside, compared, switched to and back, while searches go on all the time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import onnx
import psycopg
import pytest

from edge.config import Settings, resources
from edge.db import Database
from edge.embedding import Encoder, ensure_built
from edge.embedding.graph import kinds_int8
from edge.embedding.kinds import Kinds
from edge.embedding.manifest import digest, read_manifest, write_manifest
from edge.errors import Rejected, Stop
from edge.indexing import point_id, reconcile
from edge.indexing.versions import index_versions
from edge.roles import reindex as role
from edge.roles.parts import Parts, open_parts
from edge.search import Question
from edge.simulation import load_sample
from edge.vectors import COLLECTIONS, EmbeddedStore, StoreHost

CASES = 30


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter, and `other`: the same network with its output's dimensions in another order.

    It finds the same cases, but its vectors have nothing to do with the starter's: whoever compares them finds noise.
    """
    folder = tmp_path_factory.mktemp("models")
    (folder / "starter").symlink_to(resources() / "models" / "starter")
    built = ensure_built(resources() / "models")
    other = folder / "other"
    shutil.copytree(built, other)
    model = onnx.load(other / "model.onnx")
    (output,) = model.graph.output
    width = output.type.tensor_type.shape.dim[-1].dim_value or 384
    order = np.random.default_rng(1).permutation(width)
    for node in model.graph.node:
        node.output[:] = ["unordered" if name == output.name else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(order.astype(np.int64), "order"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["unordered", "order"], [output.name], axis=2))
    onnx.save(model, other / "model.onnx")
    product, centres, scale = kinds_int8(Kinds.read(other / Kinds.FILE).vectors()[:, order])
    Kinds(centres, scale).write(other / Kinds.FILE)
    (other / Kinds.PRODUCT).write_bytes(product)
    manifest = read_manifest(other)
    files = {**manifest.files, **{name: digest(other / name) for name in ("model.onnx", Kinds.FILE, Kinds.PRODUCT)}}
    fresh = type(manifest)(
        **{name: getattr(manifest, name) for name in manifest.__slots__ if name not in ("name", "files", "golden")},
        name="other",
        files=files,
        golden={},
    )
    write_manifest(other, fresh)
    encoder = Encoder.open(other)
    write_manifest(other, fresh.with_golden({"สายพานหยุด": encoder.encode(["สายพานหยุด"])[0]}))
    return folder


@pytest.fixture
def hosted(settings: Settings, short_folder: Path, db: Database, models: Path) -> Iterator[Settings]:
    """Settings of an appliance that runs: its index is shared by a host, and some cases are in its database."""
    load_sample(db)
    with psycopg.connect(db._dsn) as connection:
        connection.execute(
            "DELETE FROM cases WHERE id NOT IN (SELECT id FROM cases ORDER BY record_id LIMIT %s)", [CASES]
        )
        connection.execute("DELETE FROM outbox")
    stopping = threading.Event()
    path = short_folder / f"v{os.getpid()}-{time.monotonic_ns()}.sock"
    host = StoreHost(EmbeddedStore(settings.data.dir / "vectors"), path)
    thread = threading.Thread(target=host.serve_forever, args=(stopping,))
    thread.start()
    vectors = settings.vectors.model_copy(update={"url": f"unix:{path}"})
    encoder = settings.encoder.model_copy(update={"models_dir": models})
    yield settings.model_copy(update={"vectors": vectors, "encoder": encoder})
    stopping.set()
    thread.join(30)


@pytest.fixture
def parts(hosted: Settings) -> Iterator[Parts]:
    """As the roles have it; everything is indexed by the starter."""
    for _ in range(100):
        if Path(hosted.vectors.url.removeprefix("unix:")).exists():
            break
        time.sleep(0.05)
    parts = open_parts(hosted, name="test")
    parts.indexer.open()
    settle(parts)
    yield parts
    parts.close()


def settle(parts: Parts) -> None:
    while parts.indexer.step(64):
        pass


def states(parts: Parts) -> dict[str, str]:
    return {each.model: each.state for each in index_versions(parts.database)}


class Asking(threading.Thread):
    """Asks without a pause for cases in their own words: each must be found first, whichever encoder answers."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.parts = parts
        self.cases = parts.casebook.sample(CASES)
        self.done = threading.Event()
        self.answered = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.done.is_set():
                case = self.cases[self.answered % len(self.cases)]
                hits = self.parts.engine.search(Question(case.description, limit=3)).hits
                assert case.description in [hit.case.description for hit in hits[:1]], case.record_id
                self.answered += 1
        except BaseException as error:
            self.failure = error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join(60)
        if self.failure is not None:
            raise self.failure


def test_built_compared_switched_rolled_back_and_dropped_while_people_search(parts: Parts, hosted: Settings) -> None:
    starter = parts.encoder.fingerprint
    told: list[tuple[int, int]] = []
    with Asking(parts) as asking:
        built, refused = role.start(hosted, "other", lambda done, total: told.append((done, total)))
        assert (built.state, built.points, built.lacking, refused) == ("building", CASES, 0, {})
        assert told[0] == (0, CASES)
        assert told[-1] == (CASES, CASES)
        assert parts.follow() is False, "nothing changes before it is switched to"

        _, found = role.compare(hosted, None, 30, lambda _done, _total: None)
        assert found.overlap > 0.95, "the same network in another order finds the same"
        assert index_versions(parts.database)[-1].compared["questions"] == 30

        # Something happens between the build and the switch.
        case = parts.casebook.sample(1)[0]
        parts.casebook.reopen(case, actor="engineer")
        settle(parts)
        switched = role.switch_to(hosted, None, lambda _done, _total: None)
        assert (switched.state, switched.lacking) == ("serving", 0)
        assert parts.encoder.fingerprint == starter, "until it follows, the old encoder asks the old index"
        before = asking.answered
        assert parts.follow()
        parts.indexer.open()
        assert parts.encoder.fingerprint == switched.fingerprint
        while asking.answered < before + 5 and asking.is_alive():
            time.sleep(0.01)
        assert [each.state for each in index_versions(parts.database)] == ["kept", "serving"]

        # And something after it, which the old index never hears of until it serves again.
        parts.casebook.acknowledge(parts.casebook.get(case.record_id), actor="engineer")
        settle(parts)
        collection = "anomaly_patterns" if case.kind == "anomaly" else "incident_reports"
        (point,) = parts.store.get(collection, [point_id(collection, case.id)])
        assert (point.payload["status"], point.payload["fingerprint"]) == ("acknowledged", switched.fingerprint)

        assert role.rollback(hosted).fingerprint == starter
        assert parts.follow()
        parts.indexer.open()
        settle(parts)
        (point,) = parts.store.get(collection, [point_id(collection, case.id)])
        assert (point.payload["status"], point.payload["fingerprint"]) == ("acknowledged", starter)
        assert reconcile(parts.database, parts.store, fingerprint=starter, mend=False).agree

        with pytest.raises(Rejected, match="no such index"):
            role.drop_version(hosted, starter)
        role.drop_version(hosted, None)
        assert [each.fingerprint for each in role.status(hosted)] == [starter]
        assert parts.store.versions("incident_reports").built == (starter,)
    assert asking.answered > 20


def test_killed_in_the_middle_it_goes_on_where_it_was(parts: Parts, hosted: Settings) -> None:
    environ = {
        **os.environ,
        "EDGE__DATA__DIR": str(hosted.data.dir),
        "EDGE__DATABASE__DSN": hosted.database.dsn.get_secret_value(),
        "EDGE__VECTORS__URL": hosted.vectors.url,
        "EDGE__ENCODER__MODELS_DIR": str(hosted.encoder.models_dir),
    }
    # One row at a time, so that there is a middle.
    script = (
        "import edge.indexing.versions as versions, edge.cli as cli\n"
        "step = versions.Reindex.step\n"
        "versions.Reindex.step = lambda self, batch=1: step(self, 1)\n"
        "cli.main()"
    )
    command = [sys.executable, "-c", script, "reindex", "start", "other"]

    def written() -> dict[str, object]:
        with psycopg.connect(hosted.database.dsn.get_secret_value()) as connection:
            rows = connection.execute(
                "SELECT point_id::text, indexed_at FROM point WHERE fingerprint <> %s", [parts.encoder.fingerprint]
            ).fetchall()
        return dict(rows)

    with Asking(parts):
        with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while len(written()) < 5 and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        half = written()
        assert 5 <= len(half) < CASES
        done = subprocess.run([*command[:1], "-m", "edge", *command[3:]], env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        whole = written()
        assert len(whole) == CASES
        assert half.items() <= whole.items(), "what was done is not done again"
        assert "reindex switch" in done.stdout
    shown = subprocess.run(
        [sys.executable, "-m", "edge", "reindex", "status"], env=environ, capture_output=True, text=True, check=True
    )
    assert "building" in shown.stdout
    assert "serving" in shown.stdout


def test_a_model_new_in_the_settings_is_built_by_the_worker_while_the_old_one_answers(
    parts: Parts, hosted: Settings
) -> None:
    starter = parts.encoder.fingerprint
    changed = hosted.model_copy(update={"encoder": hosted.encoder.model_copy(update={"model": "other"})})
    worker = open_parts(changed, name="worker")
    try:
        assert worker.encoder.fingerprint == starter, "the index it has is the starter's"
        worker.indexer.open()
        successor = role.Successor(worker)
        with Asking(worker) as asking:
            assert successor.step()
            assert states(worker)["other"] == "building"
            while successor.step():
                settle(worker)
            assert states(worker)["other"] == "serving"
            assert index_versions(worker.database)[-1].compared["overlap"] > 0.9
            assert worker.follow()
            worker.indexer.open()
            before = asking.answered
            while asking.answered < before + 5 and asking.is_alive():
                time.sleep(0.01)
        assert reconcile(worker.database, worker.store, fingerprint=worker.encoder.fingerprint, mend=False).agree

        # Who goes back by hand is not switched forward again by a restart.
        role.rollback(changed)
        assert worker.follow()
        again = role.Successor(worker)
        assert not again.step()
        assert worker.encoder.fingerprint == starter
        with pytest.raises(Stop, match=r"encoder\.model still names"):
            role.drop_version(changed, None)
    finally:
        worker.close()


def test_what_cannot_be_is_refused_in_words(parts: Parts, hosted: Settings) -> None:
    with pytest.raises(Rejected, match="serves already"):
        role.start(hosted, None, lambda _done, _total: None)
    with pytest.raises(Rejected, match="no former index"):
        role.rollback(hosted)
    with pytest.raises(Rejected, match="Known: none"):
        role.switch_to(hosted, None, lambda _done, _total: None)
    with pytest.raises(Stop):
        role.start(hosted, "no-such-model", lambda _done, _total: None)
    assert {name for name in COLLECTIONS if parts.store.versions(name).active} == COLLECTIONS.keys()
