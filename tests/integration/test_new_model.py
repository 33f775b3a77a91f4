"""Another encoder: its index is built beside the old one, and vectors of the two are never compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.cases import Casebook
from edge.config import Settings
from edge.db import Database
from edge.embedding import Encoder
from edge.errors import Stop
from edge.indexing import Indexer
from edge.roles.parts import Parts
from edge.search import Question, SearchEngine
from edge.simulation import load_sample
from edge.vectors import COLLECTIONS, EmbeddedStore


def test_a_new_model_gets_an_index_of_its_own(
    settings: Settings, db: Database, tmp_path: Path, encoder: Encoder
) -> None:
    load_sample(db)
    with EmbeddedStore(tmp_path / "vectors") as index:
        for collection in COLLECTIONS.values():
            index.ensure(collection, fingerprint="an-older-model")
        indexer = Indexer(db, index, encoder)
        indexer.open()
        assert index.versions("anomaly_patterns").active == "an-older-model"
        while indexer.step(64):
            pass
        versions = index.versions("anomaly_patterns")
        assert versions.active == encoder.fingerprint
        assert "an-older-model" in versions.built
        engine = SearchEngine(Casebook(db), index, encoder, settings.search)
        assert engine.search(Question("conveyor stops by itself")).hits


def test_the_settings_of_the_encoder_hold_for_the_model_that_serves(
    settings: Settings, db: Database, tmp_path: Path, encoder: Encoder
) -> None:
    with EmbeddedStore(tmp_path / "vectors") as index:
        Indexer(db, index, encoder).open()
        chosen = settings.encoder.model_copy(update={"cache_texts": 0})
        parts = Parts(settings.model_copy(update={"encoder": chosen}), db, index)
        assert parts.encoder.fingerprint == encoder.fingerprint
        parts.encoder.encode(["belt slips"])
        parts.encoder.encode(["belt slips"])
        assert parts.encoder.stats().cache_hits == 0
        named = settings.encoder.model_copy(update={"provider": "tensorrt"})
        with pytest.raises(Stop, match="tensorrt"):
            Parts(settings.model_copy(update={"encoder": named}), db, index)
