"""One starter model for all tests of this folder, built where nothing else lives."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.embedding import Encoder, ensure_built

MODELS = Path(__file__).resolve().parents[3] / "models"


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_built(MODELS, built_dir=tmp_path_factory.mktemp("starter") / "built")


@pytest.fixture(scope="session")
def encoder(model_dir: Path) -> Encoder:
    return Encoder.open(model_dir)
