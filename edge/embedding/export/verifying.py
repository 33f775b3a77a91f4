"""`edge model verify`: whether a model still is, and answers, what its manifest says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.embedding.encoder import Encoder
from edge.embedding.export.gate import Fidelity, Runner, measure, read_vectors
from edge.embedding.export.making import GOLDEN_FILE, Progress, hub_tokens, stored
from edge.embedding.export.reference import read_reference
from edge.embedding.manifest import Manifest, read_manifest, verify_files
from edge.embedding.tokens import open_tokens
from edge.errors import Stop

__all__ = ["Verified", "verify_model"]

# The reference on another processor rounds otherwise; another model is far below.
_SAME_REFERENCE = 0.9999


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found true. `fidelity` is None for a model that brings no reference answers, such as the starter.

    `reference`: whether the float32 model itself was at hand and asked once more.
    """

    folder: Path
    manifest: Manifest
    fidelity: Fidelity | None
    reference: bool


def verify_model(folder: Path, progress: Progress | None = None) -> Verified:
    """Check hashes, dimension, golden vectors and, for an export, the bar. Raises Stop, in a sentence, for what fails."""
    tell = progress or (lambda _words, _done, _total: None)
    tell("Checking the files", 0, 0)
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    encoder = None
    if manifest.provider == "cpu":
        tell("Loading it as the box does", 0, 0)
        encoder = Encoder.open(folder)
    if GOLDEN_FILE not in manifest.proofs:
        if encoder is None:
            raise Stop(f"The model {manifest.name} in {folder} brings no {GOLDEN_FILE} to be checked against.")
        texts = list(manifest.golden)
        alone = np.stack([Encoder.open(folder).encode([text])[0] for text in texts])
        if not np.array_equal(alone, Encoder.open(folder).encode(texts)):
            raise Stop(f"The model {manifest.name} in {folder} answers otherwise in a batch than alone; rebuild it.")
        return Verified(folder, manifest, None, reference=False)
    texts, answers = read_vectors(folder / GOLDEN_FILE)
    asked = False
    reference = read_reference(folder.parent / ".work" / "reference")
    if reference is not None and reference.identity == manifest.sources.get("weights"):
        source = reference.source
        whole = Runner(
            reference.graph, hub_tokens(reference.folder), pooling=source.pooling, max_tokens=source.max_tokens
        )
        now = whole.alone(texts, lambda done, total: tell("Asking the reference", done, total))
        if not float(np.sum(now * answers, axis=1).min()) >= _SAME_REFERENCE:
            raise Stop(
                f"The reference in {reference.folder} does not answer as it did when {folder} was exported; export again."
            )
        asked = True
    if encoder is not None:
        answers = stored(answers, manifest.spread)
        alone_rows = []
        for number, text in enumerate(texts, 1):
            alone_rows.append(encoder.encode([text])[0])
            tell("Asking the model", number, len(texts))
        alone, batched = np.stack(alone_rows), Encoder.open(folder).encode(texts)
    else:
        runner = Runner(
            folder / "model.onnx",
            open_tokens(folder, manifest.tokens),
            pooling=manifest.pooling,
            max_tokens=manifest.max_tokens,
        )
        alone = runner.alone(texts, lambda done, total: tell("Asking the model", done, total))
        batched = runner.batched(texts)
    fidelity = measure(answers, alone, batched)
    if short := fidelity.short_of(manifest.sources.get("precision", "int8")):
        raise Stop(f"The model in {folder} is below the bar: {'; '.join(short)}. Export it again.")
    return Verified(folder, manifest, fidelity, reference=asked)
