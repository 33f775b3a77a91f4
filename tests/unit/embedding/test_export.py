"""The way from a reference to a model the box loads: gate, fall-backs, resuming, verifying, and every refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from export_parts import GOLDEN, minilm_folder, put_reference, sentence_folder
from typer.testing import CliRunner

from edge.cli import app
from edge.embedding import Encoder
from edge.embedding.export import export_model, golden_sentences, making, verify_model
from edge.embedding.export.gate import BAR, measure, read_vectors, write_vectors
from edge.embedding.export.source import read_source
from edge.embedding.graph import Float, Int8Blocks
from edge.embedding.manifest import digest, read_manifest, write_manifest
from edge.errors import Stop

ENGLISH = [text for text in golden_sentences(GOLDEN) if text.isascii()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the small XLM-R, exported for the CPU in int8."""
    root = tmp_path_factory.mktemp("export")
    source = sentence_folder(root / "small")
    put_reference(source, root / "models")
    export_model(str(source), root / "models", GOLDEN)
    return root / "models" / "small"


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the reference of the real all-MiniLM-L6-v2, and its export for the CPU."""
    root = tmp_path_factory.mktemp("minilm")
    source = Path(shutil.copytree(minilm_folder(), root / "all-MiniLM-L6-v2"))
    put_reference(source, root / "models")
    export_model(str(source), root / "models", GOLDEN)
    return root / "models" / "all-MiniLM-L6-v2"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "models" / "small"))


def test_the_golden_sentences_are_thai_english_and_both() -> None:
    from collections import Counter

    from edge.embedding import detect_language

    texts = golden_sentences(GOLDEN)
    count = Counter(map(detect_language, texts))
    assert len(texts) >= 200
    assert min(count.values()) >= 25
    assert set(count) == {"th", "en", "mixed"}
    assert len(ENGLISH) >= 70


def test_an_export_is_a_model_the_box_loads(made: Path) -> None:
    folder = made / "cpu-int8"
    manifest = read_manifest(folder)
    encoder = Encoder.open(folder)
    vectors = encoder.encode(ENGLISH[:5])
    assert vectors.shape == (5, 768)
    assert (manifest.licence, manifest.provider, manifest.pooling, manifest.max_tokens) == ("mit", "cpu", "mean", 48)
    assert set(manifest.files) == {"model.onnx", "model.onnx.data", "pieces.model"}
    assert set(manifest.proofs) == {"golden.safetensors"}
    kept, _, whole = manifest.sources["pieces"].partition(" of ")
    assert 0 < int(kept) < int(whole)
    assert manifest.fidelity["sentences"] == len(golden_sentences(GOLDEN))
    assert manifest.fidelity["apart"] == 0
    assert all(manifest.fidelity[name] >= least for name, least in BAR.items())
    assert sorted(path.name for path in made.iterdir()) == [".work", "cpu-int8"]


def test_real_weights_pass_the_gate_after_a_fall_back(minilm: Path) -> None:
    """An English model reads Thai by the letter, which its attention does not bear in int8: the gate says so."""
    manifest = read_manifest(minilm / "cpu-int8")
    assert manifest.precision == "int8, queries, keys and values in float32"
    assert manifest.sources.get("pieces") is None
    assert verify_model(minilm / "cpu-int8").fidelity is not None


def test_the_part_of_the_eighth_bit_brings_real_weights_nearer(minilm: Path, tmp_path: Path) -> None:
    from edge.embedding.export.gate import Runner
    from edge.embedding.export.making import hub_tokens
    from edge.embedding.export.reference import read_reference
    from edge.embedding.graph import Int8, write_cpu

    reference = read_reference(minilm / ".work" / "reference")
    assert reference is not None
    weights = reference.weights()
    found = {}
    for name, linear in (("fine", Int8()), ("coarse", Int8(paired=False))):
        (tmp_path / name).mkdir()
        write_cpu(
            tmp_path / name, weights, weights["embeddings.word_embeddings.weight"], reference.source.shape, linear
        )
        sides = [
            Runner(graph, hub_tokens(reference.folder), pooling="mean", max_tokens=256).alone(ENGLISH)
            for graph in (reference.graph, tmp_path / name / "model.onnx")
        ]
        found[name] = measure(*sides, sides[1])
    fine, coarse = found["fine"], found["coarse"]
    assert fine.cosine_mean >= BAR["cosine_mean"] > coarse.cosine_mean
    assert fine.cosine_min > coarse.cosine_min >= BAR["cosine_min"]
    assert fine.spearman > coarse.spearman > 0.995


@pytest.mark.parametrize(("provider", "precision"), [("cuda", "fp16"), ("tensorrt", "fp16"), ("cpu", "fp32")])
def test_the_other_forms_are_measured_on_the_cpu(copy: Path, provider: str, precision: str) -> None:
    export = export_model("small", copy.parent, GOLDEN, provider=provider) if precision == "fp16" else export_model(
        "small", copy.parent, GOLDEN, precision=precision
    )  # fmt: skip
    assert export.folder == copy / f"{provider}-{precision}"
    assert export.manifest.fidelity["cosine_min"] > 0.9999
    assert export.manifest.provider == provider
    found = verify_model(export.folder)
    assert found.fidelity is not None
    assert found.reference


@pytest.mark.parametrize(("kind", "pooling"), [("mpnet", "mean"), ("bert", "cls")])
def test_the_other_families_go_the_same_way(kind: str, pooling: str, tmp_path: Path) -> None:
    source = sentence_folder(tmp_path / kind, kind, pooling)
    put_reference(source, tmp_path / "models")
    export = export_model(str(source), tmp_path / "models", GOLDEN)
    assert export.manifest.pooling == pooling
    assert verify_model(export.folder).fidelity is not None


def test_a_finished_export_is_not_made_twice_and_a_damaged_one_is(copy: Path) -> None:
    before = (copy / "cpu-int8" / "manifest.toml").stat().st_mtime_ns
    assert not export_model("small", copy.parent, GOLDEN).fresh
    assert (copy / "cpu-int8" / "manifest.toml").stat().st_mtime_ns == before
    (copy / "cpu-int8" / "model.onnx.data").write_bytes(b"")
    first = read_manifest(copy / "cpu-int8").files
    said: list[str] = []
    export = export_model("small", copy.parent, GOLDEN, progress=lambda words, _done, _total: said.append(words))
    assert export.fresh
    assert export.manifest.files == first, "the same source makes the same files"
    assert not any("reference" in words.lower() for words in said), "its answers were kept"


def test_an_export_that_fails_leaves_the_one_before_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_manifest(copy / "cpu-int8")
    monkeypatch.setattr(making, "RECIPE", "another")

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(making.graph, "write_cpu", broken)
    with pytest.raises(Stop, match="No space left on device"):
        export_model("small", copy.parent, GOLDEN)
    assert read_manifest(copy / "cpu-int8").files == before.files
    assert sorted(path.name for path in copy.iterdir()) == [".work", "cpu-int8"]
    assert verify_model(copy / "cpu-int8").fidelity is not None


class _Coarse(Float):
    """Weights of two bits: far below any bar."""

    def __call__(self, g: object, x: str, name: str, weight: np.ndarray) -> str:  # type: ignore[override]
        step = np.abs(weight).max() / 2
        return Float.__call__(self, g, x, name, np.rint(weight / step) * step)  # type: ignore[arg-type]


def test_what_is_below_the_bar_is_refused_and_the_next_attempt_named(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = making._Attempt("int8", "weights of two bits", making._on_cpu(_Coarse()))
    blocks = making._Attempt("int8", "int8 weights in blocks", making._on_cpu(Int8Blocks()))
    monkeypatch.setattr(making, "_ATTEMPTS", {("cpu", "int8"): (coarse, blocks)})
    export = export_model("small", copy.parent, GOLDEN, again=False, whole_vocabulary=True)
    assert export.manifest.precision == "int8 weights in blocks"
    assert len(export.refused) == 1
    assert export.refused[0].startswith("weights of two bits: cosine_mean is 0.")

    monkeypatch.setattr(making, "_ATTEMPTS", {("cpu", "int8"): (coarse,)})
    before = digest(copy / "cpu-int8" / "model.onnx")
    with pytest.raises(
        Stop, match="No export of small for cpu in int8 is true enough.*Weights of two bits: cosine_mean"
    ):
        export_model("small", copy.parent, GOLDEN)
    assert digest(copy / "cpu-int8" / "model.onnx") == before


def test_the_measure_is_the_text_books() -> None:
    random = np.random.default_rng(1)
    rows = random.standard_normal((30, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    same = measure(rows, rows, rows)
    assert (same.cosine_mean, same.spearman, same.apart) == (pytest.approx(1), pytest.approx(1), 0)
    assert same.short_of("int8") == []
    turned = rows.copy()
    turned[3] *= -1
    other = measure(rows, turned, rows)
    assert other.cosine_min == pytest.approx(-1)
    assert other.cosine_mean == pytest.approx(28 / 30)
    assert other.spearman < 0.99
    assert other.apart == pytest.approx(2 * np.abs(rows[3]).max())
    assert [words.split()[0] for words in other.short_of("int8")] == ["cosine_mean", "cosine_min", "spearman", "a"]
    broken = measure(rows, np.full_like(rows, np.nan), rows)
    assert len(broken.short_of("int8")) == 4


def _hash(folder: Path) -> None:
    path = folder / "golden.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _other_answers(folder: Path) -> None:
    texts, vectors = read_vectors(folder / "golden.safetensors")
    write_vectors(folder / "golden.safetensors", texts, vectors[::-1])
    manifest = read_manifest(folder)
    sha = digest(folder / "golden.safetensors")
    path = folder / "manifest.toml"
    path.write_text(path.read_text("utf-8").replace(manifest.proofs["golden.safetensors"], sha), "utf-8")
    shutil.rmtree(folder.parent / ".work")


def _other_reference(folder: Path) -> None:
    _other_answers_kept = folder.parent / ".work" / "reference"
    graph = _other_answers_kept / "model.onnx.data"
    data = np.fromfile(graph, np.float32)
    data[: len(data) // 2] *= -0.5
    data.tofile(graph)


def _golden(folder: Path) -> None:
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.with_golden({text: -vector for text, vector in manifest.golden.items()}))


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (_hash, "golden.safetensors .* does not have the hash"),
        (_other_answers, "is below the bar: cosine_mean"),
        (_other_reference, "does not answer as it did when"),
        (_golden, "does not answer as it should here"),
    ],
)
def test_verify_refuses_what_is_no_longer_what_was_exported(
    copy: Path, tamper: Callable[[Path], None], sentence: str
) -> None:
    tamper(copy / "cpu-int8")
    with pytest.raises(Stop, match=sentence):
        verify_model(copy / "cpu-int8")


def test_the_starter_is_verified_by_its_own_golden_texts(model_dir: Path) -> None:
    found = verify_model(model_dir)
    assert found.fidelity is None
    assert found.manifest.name == "starter"


def _edit(name: str, **changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        data = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps({**data, **changes}), "utf-8")

    return edit


def _dense(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "modules.json").unlink(), "not a sentence-transformers directory: modules.json"),
        (_dense, "made of Transformer, Pooling, Dense"),
        (
            _edit("1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_max_tokens=True),
            "max_tokens; this",
        ),
        (_edit("1_Pooling/config.json", pooling_mode_cls_token=True), "cls_token and pooling_mode_mean_tokens"),
        (_edit("config.json", model_type="llama"), "family llama"),
        (_edit("config.json", hidden_act="relu"), "another activation"),
        (_edit("config.json", hidden_size=1024), "1024 dimensions; the collections have 768"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "There are no weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    ],
)
def test_a_source_that_can_not_be_exported_is_refused_in_words(
    spoil: Callable[[Path], None], sentence: str, made: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made / ".work" / "reference", tmp_path / "source"))
    (folder / "weights.safetensors").rename(folder / "model.safetensors")
    assert read_source(folder).max_tokens == 48
    spoil(folder)
    with pytest.raises(Stop, match=sentence):
        export_model(str(folder), tmp_path / "models", GOLDEN)
    assert not (tmp_path / "models" / "source" / "cpu-int8").exists()


def test_without_a_network_it_is_said_what_to_copy_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        Stop, match=r"neither in the hub's cache nor can it be fetched.*modules\.json.*/m/source, and run"
    ):
        export_model("example/m", tmp_path, GOLDEN)
    with pytest.raises(Stop, match="There is no directory ./m"):
        export_model("./m", tmp_path, GOLDEN)


def test_a_copied_source_stands_in_for_the_hub(made: Path, tmp_path: Path) -> None:
    target = tmp_path / "small"
    shutil.copytree(made / ".work", target / ".work")
    shutil.copytree(made / ".work" / "reference", target / "source")
    (target / "source" / "weights.safetensors").rename(target / "source" / "model.safetensors")
    assert export_model("example/small", tmp_path, GOLDEN).fresh


def test_without_the_extra_the_command_to_install_it_is_named(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for name in ("torch", "transformers", "optimum", "optimum.exporters.onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    source = Path(shutil.copytree(made / ".work" / "reference", tmp_path / "source"))
    (source / "weights.safetensors").rename(source / "model.safetensors")
    with pytest.raises(Stop, match="extra `export`.*make export-env"):
        export_model(str(source), tmp_path / "models", GOLDEN)
    assert [path.name for path in (tmp_path / "models" / "source" / ".work").iterdir()] == []


def test_the_commands_say_what_was_measured(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE__ENCODER__MODELS_DIR", str(copy.parent))
    runner = CliRunner()
    found = runner.invoke(app, ["model", "verify", "small"])
    assert found.exit_code == 0, found.output
    assert "verified, the reference asked again" in found.output
    assert "golden sentences" in found.output
    found = runner.invoke(app, ["model", "export", "small", "--for", "tensorrt"])
    assert found.exit_code == 0, found.output
    assert str(copy / "tensorrt-fp16") in found.output.replace("\n", "")
    found = runner.invoke(app, ["model", "export", "small", "--for", "cuda", "--precision", "int8"])
    assert isinstance(found.exception, Stop)
    assert "For cuda there is fp16, not int8" in str(found.exception)
