"""The whole way with PyTorch, optimum and sentence-transformers: what is exported answers as the published library does."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from export_parts import GOLDEN, minilm_folder, sentence_folder

from edge.embedding import Encoder, normalise
from edge.embedding.export import export_model, golden_sentences, verify_model
from edge.embedding.export.making import stored
from edge.embedding.export.reference import read_reference

TEXTS = golden_sentences(GOLDEN)

pytestmark = [
    pytest.mark.timeout(600),
    # Of the libraries' own making; ours are errors.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


def _by_sentence_transformers(folder: Path) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    vectors = model.encode([normalise(text) for text in TEXTS], batch_size=16, normalize_embeddings=True)
    return np.asarray(vectors, np.float32)


@pytest.mark.parametrize(("kind", "pooling"), [("xlm-roberta", "mean"), ("mpnet", "mean"), ("bert", "cls")])
def test_a_small_model_of_each_family(kind: str, pooling: str, tmp_path: Path) -> None:
    source = sentence_folder(tmp_path / kind, kind, pooling, layers=2)
    models = tmp_path / "models"
    export = export_model(str(source), models, GOLDEN, precision="fp32")
    expected = stored(_by_sentence_transformers(source), export.manifest.spread)
    found = Encoder.open(export.folder).encode(TEXTS)
    assert np.sum(found * expected, axis=1).min() > 0.99999
    reference = read_reference(models / kind / ".work" / "reference")
    assert reference is not None
    assert reference.source.licence == "mit"
    shutil.rmtree(source)
    # The reference is kept: from here on neither the source nor PyTorch is needed.
    for provider in ("cpu", "cuda", "tensorrt"):
        made = export_model(kind, models, GOLDEN, provider=provider)
        assert verify_model(made.folder).reference


def test_the_published_minilm(tmp_path: Path) -> None:
    source = Path(shutil.copytree(minilm_folder(), tmp_path / "all-MiniLM-L6-v2"))
    made = export_model(str(source), tmp_path / "models", GOLDEN)
    expected = stored(_by_sentence_transformers(source), made.manifest.spread)
    cosines = np.sum(Encoder.open(made.folder).encode(TEXTS) * expected, axis=1)
    assert cosines.mean() >= 0.997
    assert cosines.min() >= 0.99
    assert made.manifest.licence == "apache-2.0"
