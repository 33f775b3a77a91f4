"""A plant's slang finds its case only after it was taught; the index is rebuilt beside and switched."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge.cases import Casebook, NewCase
from edge.cli import app
from edge.config import Settings
from edge.db import Database
from edge.embedding import Encoder
from edge.embedding.lexicon import take_up
from edge.errors import Rejected
from edge.indexing import Indexer
from edge.roles.parts import open_encoder
from edge.search import Question, SearchEngine
from edge.vectors import EmbeddedStore

#: Nobody could guess it: the plant calls its stretch wrapper so.
SLANG = "ซูบิ๊กบึ้ม"
RIGHT = "Stretch wrapper stands still in the middle of a pallet"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What this test teaches, the next does not know."""
    yield
    take_up("")


def indexed(db: Database, index: EmbeddedStore, encoder: Encoder) -> str:
    indexer = Indexer(db, index, encoder)
    indexer.open()
    while indexer.step(64):
        pass
    return index.versions("anomaly_patterns").active or ""


def place_of(record_id: str, db: Database, index: EmbeddedStore, encoder: Encoder, settings: Settings) -> int:
    """Where a case stands among the answers to a question in the plant's words; 99 where it is not among them."""
    found = SearchEngine(Casebook(db), index, encoder, settings.search).search(Question(f"{SLANG}หยุด", limit=20))
    ids = [hit.case.record_id for hit in found.hits]
    return ids.index(record_id) if record_id in ids else 99


def test_a_slang_word_finds_its_case_only_after_it_was_taught(
    settings: Settings, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE__DATA__DIR", str(settings.data.dir))
    monkeypatch.setenv("EDGE__DATABASE__DSN", settings.database.dsn.get_secret_value())
    monkeypatch.setenv("COLUMNS", "200")
    for text in ("คอมเพรสเซอร์หยุด น้ำมันร้อน", "Robot stopped, gate open", "สายพานหยุดเพราะมอเตอร์ร้อน", RIGHT):
        case = Casebook(db).open(
            NewCase(
                kind="anomaly", type="report", severity="medium", origin="person", language="en",
                description=text, occurred_at=datetime.now(UTC),
            ),
            actor="nok",
        )  # fmt: skip
    with EmbeddedStore(tmp_path / "vectors") as index:
        plain = open_encoder(settings)
        assert indexed(db, index, plain) == plain.fingerprint
        assert place_of(case.record_id, db, index, plain, settings) > 0

        words = tmp_path / "words.csv"
        words.write_text(f"word,meaning\n{SLANG},\n", "utf-8")
        refused = CliRunner().invoke(app, ["model", "teach", str(words)])
        assert isinstance(refused.exception, Rejected)
        assert "row 2" in refused.stderr
        words.write_text(f"word,meaning\n{SLANG},stretch wrapper; เครื่องพันฟิล์ม\n", "utf-8")
        taught = CliRunner().invoke(app, ["model", "teach", str(words)], catch_exceptions=False)
        assert "1 words taught" in taught.stdout
        assert "4 cases" in taught.stdout
        assert SLANG in CliRunner().invoke(app, ["model", "teach", "--list"], catch_exceptions=False).stdout

        knowing = open_encoder(settings)
        assert knowing.fingerprint != plain.fingerprint
        assert indexed(db, index, knowing) == knowing.fingerprint
        assert place_of(case.record_id, db, index, knowing, settings) == 0

        CliRunner().invoke(app, ["model", "teach", "--remove", SLANG], catch_exceptions=False)
        assert open_encoder(settings).fingerprint == plain.fingerprint
