"""A bundle: written from a real appliance, proven to the byte, and brought back where nothing was."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import scratch

from edge import config
from edge.cases import Casebook
from edge.config import Settings, words_file
from edge.db import Database
from edge.embedding import Encoder
from edge.embedding.starter import use_words
from edge.errors import Rejected, Stop
from edge.indexing import Indexer, reconcile
from edge.roles import snapshot
from edge.roles.parts import open_encoder
from edge.roles.teach import teach
from edge.search import Question, SearchEngine
from edge.simulation import load_sample
from edge.upkeep import snapshots
from edge.vectors import EmbeddedStore, RemoteStore, StoreHost

QUESTIONS = ("conveyor stops by itself", "ลมรั่ว แรงดันลมตกทุกเช้า", "forklift nearly hit a person", "M-204", "มอเตอร์ร้อน")
Answers = list[list[tuple[object, float]]]
Change = Callable[[str, bytes], list[tarfile.TarInfo | tuple[str, bytes]]]


def settle(db: Database, index: EmbeddedStore, encoder: Encoder) -> None:
    indexer = Indexer(db, index, encoder)
    indexer.open()
    while indexer.step(64):
        pass


def answers(settings: Settings, db: Database, index: EmbeddedStore, encoder: Encoder) -> Answers:
    engine = SearchEngine(Casebook(db), index, encoder, settings.search)
    return [[(hit.case.id, hit.score) for hit in engine.search(Question(text)).hits] for text in QUESTIONS]


def filled(settings: Settings, encoder: Encoder) -> Answers:
    """Load the sample history, index it, and give what it answers."""
    with (
        Database(settings.database.dsn.get_secret_value()).wait() as db,
        EmbeddedStore(settings.data.dir / "vectors") as index,
    ):
        load_sample(db)
        settle(db, index, encoder)
        return answers(settings, db, index, encoder)


def elsewhere(data: Path, dsn: str = "", **more: str) -> Settings:
    environ = {f"EDGE__{key.upper()}": value for key, value in more.items()}
    return config.load(environ={"EDGE__DATA__DIR": str(data), "EDGE__DATABASE__DSN": dsn, **environ})


class Source:
    """An appliance with the sample history, what it answers, and its bundle."""

    def __init__(self, settings: Settings, encoder: Encoder) -> None:
        self.settings = settings
        self.answers = filled(settings, encoder)
        self.bundle = snapshot.create(settings)


@pytest.fixture(scope="module")
def source(server: str, template: str, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    with scratch.database(server, "snapshot_source", template) as dsn:
        yield Source(elsewhere(tmp_path_factory.mktemp("source"), dsn), encoder)


@pytest.fixture(scope="module")
def bundle(source: Source) -> Path:
    return source.bundle


def test_restored_into_an_empty_directory_it_gives_the_same_answers(
    source: Source, encoder: Encoder, short_folder: Path
) -> None:
    bundle = source.bundle
    assert bundle.parent == source.settings.snapshot_dir
    assert bundle.stat().st_mode & 0o077 == 0, "it holds personal data"
    data = short_folder / "restored"
    restored = elsewhere(data)
    snapshot.restore(restored, bundle)
    assert sorted(path.name for path in data.iterdir()) == ["lock", "postgres", "restored-settings.toml", "vectors"]
    with snapshot.Postgres(restored) as dsn, Database(dsn).wait() as db, EmbeddedStore(data / "vectors") as index:
        Indexer(db, index, encoder).open()
        assert Casebook(db).counts()["outbox_pending"] == 0, "nothing needs to be indexed again"
        assert answers(restored, db, index, encoder) == source.answers
        assert reconcile(db, index, fingerprint=encoder.fingerprint).agree
        with pytest.raises(Rejected, match="not empty"):
            snapshot.restore(restored, bundle)
    # And alone, without a server that somebody else runs.
    again = snapshot.create(restored, short_folder)
    assert snapshot.verify(again).postgres.tables == snapshot.verify(bundle).postgres.tables


@pytest.fixture
def untaught() -> Iterator[None]:
    yield
    use_words(None)


def test_taught_words_come_along(settings: Settings, db: Database, short_folder: Path, untaught: None) -> None:
    teach(settings, "word,meaning\nน้องส้ม,stretch wrapper\n".encode())
    encoder = open_encoder(settings)
    expected = filled(settings, encoder)
    restored = elsewhere(short_folder / "taught")
    snapshot.restore(restored, snapshot.create(settings))
    assert words_file(restored).read_bytes() == words_file(settings).read_bytes()
    again = open_encoder(restored)
    assert again.fingerprint == encoder.fingerprint
    with (
        snapshot.Postgres(restored) as dsn,
        Database(dsn).wait() as there,
        EmbeddedStore(restored.data.dir / "vectors") as index,
    ):
        assert Casebook(there).counts()["outbox_pending"] == 0, "nothing needs to be indexed again"
        assert answers(restored, there, index, again) == expected


def test_restored_into_an_empty_database_of_somebody_elses_server(
    source: Source, server: str, encoder: Encoder, bundle: Path, tmp_path: Path
) -> None:
    with scratch.database(server, "restored") as dsn:
        restored = elsewhere(tmp_path / "restored", dsn)
        snapshot.restore(restored, bundle)
        with Database(dsn).wait() as db, EmbeddedStore(tmp_path / "restored" / "vectors") as index:
            assert answers(restored, db, index, encoder) == source.answers
            assert reconcile(db, index, fingerprint=encoder.fingerprint).agree
        with pytest.raises(Stop, match="database to restore into is not empty"):
            snapshot.restore(elsewhere(tmp_path / "third", dsn), bundle)


def test_beside_a_running_appliance_nothing_stops(
    settings: Settings, db: Database, encoder: Encoder, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through what it wrote about itself: its database, and the socket of the process that holds the index."""
    filled(settings, encoder)
    socket = short_folder / "beside.sock"
    stop = threading.Event()
    index = EmbeddedStore(settings.data.dir / "vectors")
    host = threading.Thread(target=StoreHost(index, socket).serve_forever, args=(stop,))
    host.start()
    try:
        with RemoteStore(socket) as remote:
            remote.wait(10)
            card = {"dsn": settings.database.dsn.get_secret_value(), "vectors": f"unix:{socket}"}
            monkeypatch.setattr(snapshot, "read_card", lambda _: card)
            manifest = snapshot.verify(snapshot.create(elsewhere(settings.data.dir)))
            assert manifest.vectors.points == {name: remote.count(name) for name in manifest.vectors.points}
            assert sum(manifest.vectors.points.values()) == manifest.postgres.tables["cases"]
    finally:
        stop.set()
        host.join(20)


def test_an_older_server_takes_the_dump_of_a_newer_one(
    bundle: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not know what pg_restore sets: the line is left out on its way through psql."""
    load = snapshots._Tools.load
    monkeypatch.setattr(snapshots._Tools, "load", lambda self, dsn, dump, data, _: load(self, dsn, dump, data, 15))
    manifest = snapshot.verify(bundle)
    with scratch.database(server, "older") as dsn:
        snapshot.restore(elsewhere(tmp_path / "older", dsn), bundle)
        with psycopg.connect(dsn) as connection:
            (found,) = connection.execute("SELECT count(*) FROM cases").fetchone() or (0,)
    assert found == manifest.postgres.tables["cases"]


def test_the_manifest_names_every_file_and_every_count(source: Source, encoder: Encoder, bundle: Path) -> None:
    manifest = snapshot.verify(bundle)
    with tarfile.open(bundle) as tar:
        assert {*manifest.files, "MANIFEST.json", "SHA256"} == set(tar.getnames())
        kept = tomllib.loads(tar.extractfile("settings.toml").read().decode())
        assert "wal" in " ".join(tar.getnames()), "without its log an index silently drops updates"
    assert kept["search"]["limit_max"] == source.settings.search.limit_max
    assert "dsn" not in kept["database"]
    assert manifest.model.fingerprint == encoder.fingerprint
    assert manifest.postgres.tables["cases"] == sum(manifest.vectors.points.values()) >= 200
    assert manifest.postgres.migration >= 1
    assert set(manifest.vectors.fingerprints.values()) == {encoder.fingerprint}


def test_browser_sessions_are_not_in_it(settings: Settings, db: Database, encoder: Encoder) -> None:
    with psycopg.connect(settings.database.dsn.get_secret_value(), autocommit=True) as connection:
        connection.execute("INSERT INTO account (username, password_hash, role) VALUES ('nok', 'x', 'viewer')")
        connection.execute(
            "INSERT INTO login_session (token_hash, account_id, expires_at) SELECT 'x', id, '2100-01-01' FROM account"
        )
    tables = snapshot.verify(snapshot.create(settings)).postgres.tables
    assert tables["account"] == 1
    assert tables["login_session"] == 0


def test_no_secret_is_in_it(server: str, settings: Settings, tmp_path: Path, encoder: Encoder) -> None:
    file = tmp_path / "edge.toml"
    text = '[broker]\npassword = "hushhush"  # ours\n[web]\nport = 8111\n[vectors]\n  api_key="hushtoo"\n'
    file.write_text(text, "utf-8")
    loaded = config.load(file, environ={}).model_copy(update={"data": settings.data, "database": settings.database})
    bundle = snapshot.create(loaded, settings_file=file)
    with tarfile.open(bundle) as tar:
        texts = [tar.extractfile(name).read() for name in tar.getnames() if name.endswith((".toml", ".json"))]
        assert b"8111" in tar.extractfile("settings-file.toml").read()
    assert not any(b"hush" in text for text in texts)
    assert not any(b"postgresql://" in text for text in texts)
    file.write_text('broker = { password = "hushhush" }\n', "utf-8")
    with tarfile.open(snapshot.create(loaded, settings_file=file)) as tar:
        assert b"left out" in tar.extractfile("settings-file.toml").read()


def test_a_changed_byte_anywhere_is_refused(settings: Settings, db: Database, tmp_path: Path) -> None:
    bundle = snapshot.create(settings)
    whole = bundle.read_bytes()
    changed = tmp_path / "changed.tar"
    for place in {*range(0, len(whole), max(1, len(whole) // 60)), *range(len(whole) - 40, len(whole)), 100, 1000}:
        changed.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Rejected, match="bundle"):
            snapshot.verify(changed)
    with pytest.raises(Rejected, match="bundle"):
        snapshot.restore(elsewhere(tmp_path / "never"), changed)
    assert not (tmp_path / "never").exists()


def test_a_bundle_cut_off_is_refused(settings: Settings, db: Database, tmp_path: Path) -> None:
    whole = snapshot.create(settings).read_bytes()
    cut = tmp_path / "cut.tar"
    for length in (0, 100, 512, 5_000, len(whole) // 2, len(whole) - 10_240, len(whole) - 512, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(Rejected, match="bundle"):
            snapshot.verify(cut)


def rewritten(bundle: Path, target: Path, change: Change) -> Path:
    """The bundle with other members, its hashes right: what somebody who means harm would send."""
    files: dict[str, dict[str, object]] = {}
    raw = io.BytesIO()
    with tarfile.open(bundle) as old, tarfile.open(fileobj=raw, mode="w") as new:
        for member in old:
            content = old.extractfile(member).read()
            if member.name == "SHA256":
                content = hashlib.sha256(raw.getvalue()).hexdigest().encode() + b"\n"
            if member.name == "MANIFEST.json":
                said = json.loads(content)
                said["files"] = files
                content = json.dumps(said).encode()
            for made in change(member.name, content):
                if isinstance(made, tarfile.TarInfo):
                    new.addfile(made)
                    continue
                name, content = made
                info = tarfile.TarInfo(name)
                info.size = len(content)
                new.addfile(info, io.BytesIO(content))
                if name not in ("SHA256", "MANIFEST.json"):
                    files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    target.write_bytes(raw.getvalue())
    return target


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "vectors/../../evil", "./evil", "a\\..\\evil"])
def test_a_bundle_that_reaches_outside_is_refused(settings: Settings, db: Database, tmp_path: Path, name: str) -> None:
    bundle = snapshot.create(settings)
    bad = rewritten(bundle, tmp_path / "bad.tar", lambda n, c: [(name, b"x")] * (n == "model.toml") + [(n, c)])
    with pytest.raises(Rejected, match="outside itself"):
        snapshot.restore(elsewhere(tmp_path / "deep" / "never"), bad)
    assert not list(tmp_path.rglob("evil"))


def test_links_devices_repeats_and_strangers_are_refused(settings: Settings, db: Database, tmp_path: Path) -> None:
    bundle = snapshot.create(settings)

    def link(name: str, content: bytes) -> list[tarfile.TarInfo | tuple[str, bytes]]:
        info = tarfile.TarInfo("vectors")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        return [info, (name, content)] if name == "settings.toml" else [(name, content)]

    with pytest.raises(Rejected, match="no file"):
        snapshot.verify(rewritten(bundle, tmp_path / "link.tar", link))
    twice = rewritten(bundle, tmp_path / "twice.tar", lambda n, c: [(n, c)] * (2 if n == "model.toml" else 1))
    with pytest.raises(Rejected, match="twice"):
        snapshot.verify(twice)
    for name in ("postgres.dump", "MANIFEST.json"):
        short = rewritten(bundle, tmp_path / "short.tar", lambda n, c, name=name: [] if n == name else [(n, c)])
        with pytest.raises(Rejected, match=r"lacks|no bundle"):
            snapshot.verify(short)
    broken = rewritten(bundle, tmp_path / "dump.tar", lambda n, c: [(n, b"PGDMP?" if n == "postgres.dump" else c)])
    with pytest.raises(Rejected, match=r"dump in .* cannot be read"):
        snapshot.verify(broken)
    (tmp_path / "text.tar").write_text("nothing of the kind", "utf-8")
    with pytest.raises(Rejected, match="no whole bundle"):
        snapshot.verify(tmp_path / "text.tar")


def test_counts_that_do_not_agree_stop_a_restore(settings: Settings, db: Database, short_folder: Path) -> None:
    load_sample(db)

    def lie(name: str, content: bytes) -> list[tarfile.TarInfo | tuple[str, bytes]]:
        if name == "MANIFEST.json":
            said = json.loads(content)
            said["postgres"]["tables"]["cases"] += 1
            content = json.dumps(said).encode()
        return [(name, content)]

    liar = rewritten(snapshot.create(settings), short_folder / "liar.tar", lie)
    with pytest.raises(Stop, match="restored table cases has"):
        snapshot.restore(elsewhere(short_folder / "liar"), liar)
    assert not (short_folder / "liar" / "postgres").exists()
    assert not list((short_folder / "liar").glob("*.partial"))


def test_another_model_means_everything_is_indexed_again(
    server: str, encoder: Encoder, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def other(name: str, content: bytes) -> list[tarfile.TarInfo | tuple[str, bytes]]:
        if name == "MANIFEST.json":
            said = json.loads(content)
            said["vectors"]["fingerprints"] = dict.fromkeys(said["vectors"]["fingerprints"], "0123456789abcdef")
            content = json.dumps(said).encode()
        return [(name, content)]

    changed = rewritten(bundle, tmp_path / "other.tar", other)
    with scratch.database(server, "othermodel") as dsn:
        snapshot.restore(elsewhere(tmp_path / "other", dsn), changed)
        assert "made by another model" in caplog.text
        assert not (tmp_path / "other" / "vectors").exists()
        with Database(dsn).wait() as db:
            assert Casebook(db).counts()["outbox_pending"] == snapshot.verify(bundle).postgres.tables["cases"]


def test_what_changed_while_it_was_written_is_indexed_once_more(
    settings: Settings, server: str, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(settings, encoder)
    dsn = settings.database.dsn.get_secret_value()
    with Database(dsn).wait() as db, EmbeddedStore(settings.data.dir / "vectors") as index:
        snap = EmbeddedStore.snapshot

        def late(self: EmbeddedStore, target: Path) -> None:
            # Between the dump and the copy of the index one case is closed anew and one disappears.
            with psycopg.connect(dsn) as connection:
                connection.execute(
                    "UPDATE cases SET version = version + 1, severity = 'critical' WHERE record_id = 'UTL-2025-002'"
                )
                connection.execute(
                    "INSERT INTO outbox (collection, entity_id, operation) SELECT"
                    " CASE kind WHEN 'incident' THEN 'incident_reports' ELSE 'anomaly_patterns' END, id, 'upsert'"
                    " FROM cases WHERE record_id IN ('UTL-2025-002', 'SAF-2025-001')"
                )
                connection.execute("DELETE FROM cases WHERE record_id = 'SAF-2025-001'")
            settle(db, index, encoder)
            snap(self, target)

        monkeypatch.setattr(EmbeddedStore, "snapshot", late)
        bundle = snapshots.write(settings, db, dsn, index)
        monkeypatch.undo()
    assert sum(map(len, snapshot.verify(bundle).vectors.touched.values())) == 2
    with scratch.database(server, "touched") as other:
        restored = elsewhere(tmp_path / "restored", other)
        snapshot.restore(restored, bundle)
        with Database(other).wait() as db, EmbeddedStore(tmp_path / "restored" / "vectors") as index:
            assert Casebook(db).counts()["outbox_pending"] == 2
            settle(db, index, encoder)
            assert reconcile(db, index, fingerprint=encoder.fingerprint).agree
            engine = SearchEngine(Casebook(db), index, encoder, restored.search)
            found = engine.search(Question("forklift nearly hit a pedestrian")).hits
            assert "SAF-2025-001" in [hit.case.record_id for hit in found], "the dump still has this case"


def test_an_index_on_a_server_is_built_anew(
    settings: Settings, server: str, db: Database, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with scratch.database(server, "withserver") as dsn:
        snapshot.restore(elsewhere(tmp_path / "s", dsn, vectors__url="http://127.0.0.1:9"), bundle)
        assert "vector server" in caplog.text
        with Database(dsn).wait() as db:
            assert Casebook(db).counts()["outbox_pending"] > 200
    without = snapshot.verify(snapshot.create(settings)).vectors
    assert not without.kept
    assert "no index" in without.words


def test_the_daily_job_keeps_so_many(settings: Settings, db: Database, encoder: Encoder) -> None:
    kept = settings.model_copy(update={"snapshot": settings.snapshot.model_copy(update={"keep": 2})})
    folder = settings.snapshot_dir
    folder.mkdir(parents=True)
    (folder / "andon-20250101-000000.tar.partial").write_text("cut off", "utf-8")
    (folder / "somebody-elses.tar").write_text("keep me", "utf-8")
    with EmbeddedStore(settings.data.dir / "vectors") as index:
        Indexer(db, index, encoder).open()
        results = [snapshots.scheduled(kept, db, index) for _ in range(3)]
    assert [result["removed"] for result in results] == [0, 0, 1]
    names = sorted(path.name for path in folder.iterdir())
    assert names == [results[1]["bundle"], results[2]["bundle"], "somebody-elses.tar"]
    assert not list(settings.data.dir.glob("*.partial"))


def test_a_power_cut_while_writing_leaves_nothing_that_counts(settings: Settings, db: Database) -> None:
    first = snapshot.create(settings)
    code = (
        "import os, pathlib; from edge import config; from edge.roles import snapshot\n"
        "pathlib.Path.rename = lambda *_: os._exit(9)\n"
        "snapshot.create(config.load())"
    )
    environ = {
        **os.environ,
        "EDGE__DATA__DIR": str(settings.data.dir),
        "EDGE__DATABASE__DSN": settings.database.dsn.get_secret_value(),
    }
    assert subprocess.run([sys.executable, "-c", code], env=environ, timeout=100).returncode == 9
    (partial,) = settings.snapshot_dir.glob("*.partial")
    assert sorted(settings.snapshot_dir.glob("*.tar")) == [first]
    with pytest.raises(Rejected, match="already something"):
        snapshot.create(settings, first)
    second = snapshot.create(settings)
    assert sorted(settings.snapshot_dir.iterdir()) == [first, second]
    assert not partial.exists()
    assert not (settings.data.dir / "snapshot-work.partial").exists()


def test_words_for_what_a_person_can_get_wrong(
    settings: Settings, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stop, match="no appliance in"):
        snapshot.create(elsewhere(tmp_path / "nothing"))
    with pytest.raises(Rejected, match="not there"):
        snapshot.create(settings, tmp_path / "missing")
    bundle = snapshot.create(settings, tmp_path / "mine.tar")
    assert bundle == tmp_path / "mine.tar"
    with pytest.raises(Rejected, match="already something"):
        snapshot.create(settings, bundle)
    newer = rewritten(
        bundle,
        tmp_path / "newer.tar",
        lambda n, c: [(n, c.replace(b'"migration": ', b'"migration": 99') if n == "MANIFEST.json" else c)],
    )
    with pytest.raises(Stop, match="newer version"):
        snapshot.restore(elsewhere(tmp_path / "x"), newer)
    monkeypatch.setattr(snapshots.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1_000_000))
    with pytest.raises(Stop, match="Only 1 MB are free"):
        snapshot.create(settings)


@pytest.mark.parametrize(
    ("dsn", "address", "password"),
    [
        (
            "postgresql://edge:s%40c@db:5432/edge?sslmode=require",
            "postgresql://edge@db:5432/edge?sslmode=require",
            "s@c",
        ),
        ("postgresql://edge@/edge?host=%2Frun%2Fx&password=abc", "postgresql://edge@/edge?host=%2Frun%2Fx", "abc"),
        ("postgres://db1,db2/edge", "postgres://db1,db2/edge", None),
        ("host=db password='it''s' dbname=edge", "host=db  dbname=edge", None),
        (r"host=db password='a\' b' dbname=edge", "host=db  dbname=edge", "a' b"),
        ("host=db dbname=edge", "host=db dbname=edge", None),
    ],
)
def test_a_password_never_stands_on_a_command_line(
    dsn: str, address: str, password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    found, environment = snapshots._address(dsn)
    if "''" not in dsn:
        assert (found, environment.get("PGPASSWORD")) == (address, password)
    assert password is None or password not in found
