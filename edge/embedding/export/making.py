"""Export: reference, vocabulary, graph, gate, manifest. Every finished step is kept, and the folder appears whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from edge.embedding import graph
from edge.embedding.encoder import DIMENSION, Encoder, spread
from edge.embedding.export.gate import Runner, golden_sentences, measure, read_vectors, write_vectors
from edge.embedding.export.pieces import as_pieces, differences, drawn_texts
from edge.embedding.export.reference import Reference, make_reference, read_reference
from edge.embedding.export.source import fetch, read_source, weights_file
from edge.embedding.export.trim import Trimmed, trim
from edge.embedding.manifest import Floats, Manifest, digest, read_manifest, verify_files, write_manifest
from edge.embedding.starter import one_builder, put_in_place
from edge.embedding.text import NORMALISATION, normalise
from edge.embedding.tokens import PIECES_FILE, HubTokens, open_tokens, read_tokenizer
from edge.errors import Stop

__all__ = ["GOLDEN_FILE", "TARGETS", "Exported", "Progress", "export_model", "hub_tokens", "work_folder"]

RECIPE = "export-3"
"""Change it with anything in this room or the graph that changes a vector: exports are then made again."""

GOLDEN_FILE = "golden.safetensors"
# Every start encodes them, so they are few: of each language, short and long.
_LOADED = 6

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much; 0 of 0 where nobody knows."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    precision: str
    words: str
    write: Callable[[Path, Mapping[str, Floats], Floats, graph.BertShape, graph.Progress], None]


def _on_cpu(linear: graph.Linear) -> Callable[..., None]:
    def write(
        folder: Path, weights: Mapping[str, Floats], words: Floats, shape: graph.BertShape, told: graph.Progress
    ) -> None:
        graph.write_cpu(folder, weights, words, shape, linear, told)

    return write


_ATTEMPTS: Mapping[tuple[str, str], tuple[_Attempt, ...]] = MappingProxyType(
    {
        ("cpu", "int8"): (
            _Attempt("int8", "int8, one scale per token and per output", _on_cpu(graph.Int8())),
            _Attempt("int8", "int8, queries, keys and values in float32", _on_cpu(graph.Int8(("qkv",)))),
            _Attempt(
                "int8",
                "int8, attention and last product in float32",
                _on_cpu(graph.Int8(("qkv", "attended", "narrow"))),
            ),
            _Attempt("int8", "int8 weights in blocks of 32 (MatMulNBits)", _on_cpu(graph.Int8Blocks())),
        ),
        ("cpu", "fp32"): (_Attempt("fp32", "float32", _on_cpu(graph.Float())),),
        ("cuda", "fp16"): (_Attempt("fp16", "float16, fused operators", graph.write_cuda),),
        ("tensorrt", "fp16"): (_Attempt("fp16", "float16, layer norms in float32", graph.write_tensorrt),),
    }
)
#: Provider → the precisions it has, the usual one first.
TARGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"cpu": ("int8", "fp32"), "cuda": ("fp16",), "tensorrt": ("fp16",)}
)


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export made. `refused`: the attempts before it and what they fell short of. `fresh`: made just now."""

    folder: Path
    manifest: Manifest
    refused: Sequence[str]
    fresh: bool


def work_folder(models: Path, name: str) -> Path:
    """Where the reference of a model is kept, so that the next export of it starts there."""
    return models / name / ".work"


def hub_tokens(folder: Path) -> HubTokens:
    """The tokenizer of a reference, as it was published."""
    return HubTokens(read_tokenizer(folder / "tokenizer.json"))


def export_model(
    wanted: str,
    models: Path,
    golden: Path,
    *,
    provider: str = "cpu",
    precision: str | None = None,
    revision: str | None = None,
    whole_vocabulary: bool = False,
    again: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Export `wanted`, a sentence-transformers directory or a name of the hub, to `models/<name>/<provider>-<precision>`.

    `golden`: the sentences it is measured on. `again`: make everything anew. Raises Stop, in a sentence, when the
    source is missing or of another kind, the extra is not installed, or no attempt reaches the bar.
    """
    precision = precision or TARGETS[provider][0]
    if precision not in TARGETS[provider]:
        raise Stop(f"For {provider} there is {' and '.join(TARGETS[provider])}, not {precision}.")
    tell = progress or (lambda _words, _done, _total: None)
    name = Path(wanted).resolve().name if Path(wanted).is_dir() else wanted.rstrip("/").rpartition("/")[2]
    work = work_folder(models, name)
    try:
        work.mkdir(parents=True, exist_ok=True)
        with one_builder(work / "reference"):
            reference = _reference(wanted, name, models, revision, again=again, tell=tell)
            return _export(reference, name, models, golden, provider, precision, whole_vocabulary, again, tell)
    except OSError as error:
        raise Stop(
            f"The model {name} can not be written to {models}: {error.strerror or error}. Set encoder.models_dir to a "
            "folder this process may write, with room for four times the model."
        ) from error


def _reference(wanted: str, name: str, models: Path, revision: str | None, *, again: bool, tell: Progress) -> Reference:
    target = work_folder(models, name) / "reference"
    found = None if again else read_reference(target)
    kept = models / name / "source"
    folder = Path(wanted) if Path(wanted).is_dir() else kept if kept.is_dir() else None
    if folder is None:
        if wanted.startswith((".", "/", "~")):
            raise Stop(f"There is no directory {wanted}.")
        if found and found.origin == wanted and revision in (None, found.revision):
            return found
        tell("Fetching the model", 0, 0)
        folder, commit = fetch(wanted, revision, kept)
        origin = wanted
    else:
        origin, commit = wanted.rstrip("/").rpartition("/")[2] if Path(wanted).is_dir() else wanted, revision or ""
    tell("Checking the source", 0, 0)
    source = read_source(folder)
    weights = weights_file(source.folder)
    if found and found.identity == digest(weights):
        return found
    return make_reference(source, weights, target, origin=origin, revision=commit, say=lambda words: tell(words, 0, 0))


def _export(
    reference: Reference,
    name: str,
    models: Path,
    golden: Path,
    provider: str,
    precision: str,
    whole_vocabulary: bool,
    again: bool,
    tell: Progress,
) -> Exported:
    target = models / name / f"{provider}-{precision}"
    texts = golden_sentences(golden)
    source = reference.source
    sources = {
        "precision": precision,
        "weights": reference.identity,
        "recipe": RECIPE,
        "golden": digest(golden),
        "rule": NORMALISATION,
    }
    trimmed = None
    if not whole_vocabulary:
        tell("Trimming the vocabulary", 0, 0)
        trimmed = _trimmed(reference, texts)
    if trimmed:
        sources["pieces"] = f"{len(trimmed.kept)} of {trimmed.pieces}"
    if not again and (ready := _ready(target, sources)):
        return Exported(target, ready, (), fresh=False)
    answers = _answers(reference, texts, sources, tell)
    weights = reference.weights()
    words = weights["embeddings.word_embeddings.weight"]
    if trimmed:
        words = words[trimmed.kept]
    tokenizer = trimmed.tokenizer if trimmed else (reference.folder / "tokenizer.json").read_text("utf-8")
    tell("Looking for a leaner tokenizer", 0, 0)
    pieces = _pieces(tokenizer, texts)
    reads = "hub" if pieces is None else "pieces"
    partial = target.with_name(f".{target.name}.partial")
    refused: list[str] = []
    try:
        for attempt in _ATTEMPTS[provider, precision]:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            if pieces is not None:
                (partial / PIECES_FILE).write_bytes(pieces)
            else:
                (partial / "tokenizer.json").write_text(tokenizer, "utf-8")
            said = f"Writing {attempt.words}"
            tell(said, 0, source.shape.layers)
            attempt.write(
                partial,
                weights,
                words,
                source.shape,
                lambda done, total, said=said: tell(said, done, total),  # type: ignore[misc]
            )
            runner = Runner(
                partial / "model.onnx",
                open_tokens(partial, reads),
                pooling=source.pooling,
                max_tokens=source.max_tokens,
            )
            said = f"Measuring {attempt.words}"
            alone = runner.alone(texts, lambda done, total, said=said: tell(said, done, total))  # type: ignore[misc]
            fidelity = measure(answers, alone, runner.batched(texts))
            del runner
            if short := fidelity.short_of(attempt.precision):
                refused.append(f"{attempt.words}: {'; '.join(short)}")
                continue
            write_vectors(partial / GOLDEN_FILE, texts, answers)
            manifest = Manifest(
                name=name,
                source=reference.origin,
                revision=reference.revision,
                licence=source.licence,
                tokens=reads,
                dimension=DIMENSION,
                pooling=source.pooling,
                spread=source.spread,
                max_tokens=source.max_tokens,
                precision=attempt.words,
                provider=provider,
                files={p.name: digest(p) for p in sorted(partial.iterdir()) if p.name != GOLDEN_FILE},
                proofs={GOLDEN_FILE: digest(partial / GOLDEN_FILE)},
                sources=sources,
                fidelity=fidelity.as_figures(),
            )
            manifest = manifest.with_golden(_loaded(texts, alone, source.spread))
            write_manifest(partial, manifest)
            tell("Loading it as the box does", 0, 0)
            if provider == "cpu":
                Encoder.open(partial)
            for path in partial.iterdir():
                with path.open("rb") as handle:
                    os.fsync(handle.fileno())
            put_in_place(partial, target)
            return Exported(target, manifest, tuple(refused), fresh=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    raise Stop(
        f"No export of {name} for {provider} in {precision} is true enough to its reference. "
        + ". ".join(f"{words[0].upper()}{words[1:]}" for words in refused)
        + ". Nothing was written; another precision may pass."
    )


def _ready(target: Path, sources: Mapping[str, str]) -> Manifest | None:
    try:
        manifest = read_manifest(target)
        verify_files(target, manifest)
    except Stop:
        return None
    return manifest if manifest.sources == sources else None


def _trimmed(reference: Reference, texts: Sequence[str]) -> Trimmed | None:
    path = reference.folder / "tokenizer.json"
    trimmed = trim(path.read_text("utf-8"))
    if trimmed is None:
        return None
    whole = read_tokenizer(path)
    if wrong := trimmed.differences(whole, map(normalise, texts)):
        raise Stop(
            f"The trimmed vocabulary cuts “{wrong[0]}” otherwise than the whole one; export with --whole-vocabulary."
        )
    return trimmed


def _pieces(tokenizer: str, texts: Sequence[str]) -> bytes | None:
    """The tokenizer as a SentencePiece model, where it cuts every one of some thousand texts alike."""
    model = as_pieces(tokenizer)
    if model is None or differences(tokenizer, model, [normalise(text) for text in (*texts, *drawn_texts(tokenizer))]):
        return None
    return model


def _answers(reference: Reference, texts: Sequence[str], sources: Mapping[str, str], tell: Progress) -> Floats:
    """What the reference says to the golden sentences: computed once for all exports of it."""
    kept = reference.folder.parent / f"golden-{sources['weights'][:12]}-{sources['golden'][:12]}-{NORMALISATION}"
    kept = kept.with_name(kept.name + ".safetensors")
    if kept.is_file():
        return read_vectors(kept)[1]
    source = reference.source
    runner = Runner(reference.graph, hub_tokens(reference.folder), pooling=source.pooling, max_tokens=source.max_tokens)
    vectors = runner.alone(texts, lambda done, total: tell("Asking the reference", done, total))
    partial = kept.with_name(f".{kept.name}.partial")
    write_vectors(partial, texts, vectors)
    partial.rename(kept)
    return vectors


def _loaded(texts: Sequence[str], vectors: Floats, how: str) -> dict[str, Floats]:
    """The golden texts of the manifest: evenly from the whole list, with what the export answered, as it is stored."""
    chosen = np.linspace(0, len(texts) - 1, _LOADED).astype(int).tolist()
    return {texts[place]: stored(vectors[place : place + 1], how)[0] for place in chosen}


def stored(vectors: Floats, how: str) -> Floats:
    """Unit vectors of the model as the collections hold them."""
    if how != "hadamard":
        return vectors
    wide: Floats = (spread(vectors) * np.float32(0.5**0.5)).astype(np.float32)
    return wide
