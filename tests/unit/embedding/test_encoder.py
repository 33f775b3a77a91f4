"""The encoder gives one text one vector, whatever its company, and refuses a model that is not what it says."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.embedding import DIMENSION, Encoder
from edge.embedding.encoder import fingerprint_of
from edge.embedding.manifest import digest, read_manifest, write_manifest
from edge.errors import Stop

TEXTS = [
    "",
    "หยุด",
    "มอเตอร์สายพานไหม้",
    "ไลน์ 4 หยุด รออะไหล่",
    "conveyor motor burned out",
    "CONV-002 sensor สกปรก เช็ดแล้วเดินต่อ",
    "the pneumatic cylinder of station 4 does not extend because the end sensor is dirty and the air pressure is low",
    "พนักงานไม่สวมหมวกนิรภัยเดินผ่านช่องรถยก หัวหน้ากะแจ้งเตือนแล้ว",
    *(f"pump {i} leaking oil at the shaft seal" for i in range(40)),
    *(f"ปั๊มตัวที่ {i} น้ำมันรั่วซึมที่ซีล" for i in range(40)),
]

WORDS = ["มอเตอร์", "ร้อน", "สายพาน", "หยุด", "motor", "CONV-002", "3 bar", "leaking", "ซีล", "ฟฟฟ", "the", "น้ำมัน"]

TRANSLATIONS = [
    ("ซองปิดปากไม่สนิท ของรั่ว", "pouch mouth not sealed, contents leaking"),
    ("รถยกเกือบชนคนเดินเท้า", "forklift nearly hit a pedestrian"),
    ("ลมรั่วที่ข้อต่อ", "air leak at the fitting"),
    ("ดอกสว่านหักคาชิ้นงาน", "drill bit broke in the workpiece"),
    ("พื้นเปียก พนักงานลื่นล้ม", "worker slipped on the wet floor"),
    ("ไฟตกเครื่องดับทั้งไลน์", "voltage dip stopped the whole line"),
    ("กล้องตรวจสอบฟ้องเสียทั้งที่งานดี", "inspection camera rejects good parts"),
    ("น้ำมันไฮดรอลิกร้อนเกิน", "hydraulic oil too hot"),
]


def test_a_text_alone_and_in_any_batch_is_bit_identical(model_dir: Path) -> None:
    together = Encoder.open(model_dir).encode(TEXTS)
    alone = Encoder.open(model_dir)
    for text, vector in zip(TEXTS, together, strict=True):
        assert np.array_equal(alone.encode([text])[0], vector)
    mixed = list(range(len(TEXTS)))
    random.Random(3).shuffle(mixed)
    again = Encoder.open(model_dir, threads=2).encode([TEXTS[i] for i in mixed])
    assert np.array_equal(again, together[mixed])


@pytest.fixture(scope="module")
def fresh(model_dir: Path) -> Encoder:
    """Without a cache: every text is computed every time."""
    return Encoder.open(model_dir, cache_texts=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=24), st.data())
def test_no_company_changes_a_vector(fresh: Encoder, words: list[str], data: st.DataObject) -> None:
    one = " ".join(words)
    others = data.draw(st.lists(st.lists(st.sampled_from(WORDS), max_size=24).map(" ".join), max_size=12))
    place = data.draw(st.integers(0, len(others)))
    alone = fresh.encode([one])[0]
    assert np.array_equal(fresh.encode([*others[:place], one, *others[place:]])[place], alone)


def test_vectors_have_unit_length_and_the_collections_dimension(encoder: Encoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (len(TEXTS), DIMENSION)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert encoder.encode([]).shape == (0, DIMENSION)


def test_a_thai_telling_finds_its_english_one_and_back(encoder: Encoder) -> None:
    thai = encoder.encode([pair[0] for pair in TRANSLATIONS])
    english = encoder.encode([pair[1] for pair in TRANSLATIONS])
    product = thai @ english.T
    assert product.argmax(axis=1).tolist() == product.argmax(axis=0).tolist() == list(range(len(TRANSLATIONS)))


def test_typing_habits_give_the_same_vector(encoder: Encoder) -> None:
    one, other = encoder.encode(["เเบริ่งเเตก น\u0e4d\u0e49\u0e32มันรั่ว", "แบริ่งแตก น้ำมันรั่ว"])
    assert np.array_equal(one, other)


def test_threads_share_one_encoder(model_dir: Path) -> None:
    expected = Encoder.open(model_dir).encode(TEXTS)
    shared = Encoder.open(model_dir)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(shared.encode, [TEXTS] * 16):
            assert np.array_equal(found, expected)
    assert shared.stats().texts == 16 * len(TEXTS)


def test_a_text_seen_before_comes_from_the_cache_and_can_not_be_spoilt(model_dir: Path) -> None:
    encoder = Encoder.open(model_dir)
    first = encoder.encode(["Motor ร้อน"])
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(encoder.encode(["motor  ร้อน "]), kept)
    assert (encoder.stats().texts, encoder.stats().cache_hits) == (2, 1)


def test_the_cache_forgets_what_was_not_asked_for_longest(model_dir: Path) -> None:
    encoder = Encoder.open(model_dir, cache_texts=2)
    for text in ("one", "two", "one", "three", "one", "two"):
        encoder.encode([text])
    assert encoder.stats().cache_hits == 2
    without = Encoder.open(model_dir, cache_texts=0)
    without.encode(["one"])
    without.encode(["one"])
    assert without.stats().cache_hits == 0


def test_tokens_beyond_the_limit_are_counted_not_hidden(model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder.open(model_dir)
    long = "มอเตอร์ ร้อน " * 100
    assert encoder.token_count(long) == 202
    encoder.encode([long])
    stats = encoder.stats()
    assert (stats.truncated_texts, stats.truncated_tokens) == (1, 202 - encoder.max_tokens)
    assert "202 tokens" in caplog.text


def test_words_the_model_does_not_know_are_counted(model_dir: Path) -> None:
    encoder = Encoder.open(model_dir)
    encoder.encode(["มอเตอร์ซซูชิไหม้"])
    assert (encoder.stats().tokens, encoder.stats().unknown_tokens) == (2, 1)
    assert encoder.unknown_rate("มอเตอร์ซซูชิไหม้") == pytest.approx(1 / 3)
    assert encoder.unknown_rate("motor") == encoder.unknown_rate("") == 0


@pytest.fixture
def copy(model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_dir, tmp_path / "model"))


def _tamper_hash(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)


def _tamper_golden(folder: Path) -> None:
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.with_golden({text: -vector for text, vector in manifest.golden.items()}))


def _tamper_dimension(folder: Path) -> None:
    path = folder / "manifest.toml"
    path.write_text(path.read_text("utf-8").replace("dimension = 768", "dimension = 512"), "utf-8")


def _tamper_spread(folder: Path) -> None:
    path = folder / "manifest.toml"
    path.write_text(path.read_text("utf-8").replace('spread = "hadamard"', 'spread = "none"'), "utf-8")


def _tamper_missing(folder: Path) -> None:
    (folder / "manifest.toml").unlink()


def _tamper_syntax(folder: Path) -> None:
    (folder / "manifest.toml").write_text("name = 3", "utf-8")


def _tamper_graph(folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / "model.onnx").write_bytes(b"not a graph")
    files = {**manifest.files, "model.onnx": digest(folder / "model.onnx")}
    path = folder / "manifest.toml"
    path.write_text(path.read_text("utf-8").replace(manifest.files["model.onnx"], files["model.onnx"]), "utf-8")


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (_tamper_hash, "model.onnx .* does not have the hash"),
        (_tamper_golden, "does not answer as it should here"),
        (_tamper_dimension, "has 512 dimensions; the collections have 768"),
        (_tamper_spread, "answers with 384 dimensions"),
        (_tamper_missing, "No embedding model in"),
        (_tamper_syntax, "not a complete model manifest"),
        (_tamper_graph, "can not be loaded"),
    ],
)
def test_a_model_that_is_not_what_it_says_is_refused(copy: Path, tamper: Callable[[Path], None], sentence: str) -> None:
    tamper(copy)
    with pytest.raises(Stop, match=sentence):
        Encoder.open(copy)


def test_the_fingerprint_changes_with_everything_that_changes_a_vector(
    model_dir: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(model_dir)
    assert encoder.fingerprint == fingerprint_of(manifest)
    seen = {encoder.fingerprint}
    path = manifest.files
    for name in path:
        changed = read_manifest(model_dir)
        object.__setattr__(changed, "files", {**path, name: "0" * 64})
        seen.add(fingerprint_of(changed))
    for attribute, value in (
        ("NORMALISATION", "another"), ("SEGMENTATION", "another"), ("LEXICAL", "another"), ("TEXT_RULE", "another"),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(f"edge.embedding.encoder.{attribute}", value)
            seen.add(fingerprint_of(manifest))
    assert len(seen) == 1 + len(path) + 4
    assert fingerprint_of(manifest.with_golden({})) == encoder.fingerprint
