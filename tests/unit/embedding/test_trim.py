"""A trimmed vocabulary cuts every Thai or Latin text as the whole one does, and gives the same vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from export_parts import FOREIGN, GOLDEN, random_weights, xlmr_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edge.embedding.export.gate import golden_sentences
from edge.embedding.export.trim import Trimmed, kept_character, trim
from edge.embedding.graph import BertShape, Int8, write_cpu

WHOLE = xlmr_tokenizer()
SMALL = trim(WHOLE.to_str())
assert SMALL is not None
NEW: Tokenizer = Tokenizer.from_str(SMALL.tokenizer)

THAI = "".join(chr(c) for c in (*range(0x0E01, 0x0E3B), *range(0x0E3F, 0x0E5C)))
LATIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZàéñöüß"
SIGNS = " 0123456789.,:;-_/()%°±×½²\u200b\t\u00a0“”…ﬁ㎏℃Ωµ"


def _old(text: str) -> list[int]:
    assert SMALL is not None
    return [int(i) for i in SMALL.kept[NEW.encode(text).ids]]


def test_a_good_part_of_the_pieces_is_gone_and_the_special_ones_are_where_they_were() -> None:
    assert SMALL is not None
    assert 0 < len(SMALL.kept) < SMALL.pieces
    assert SMALL.kept[:4].tolist() == [0, 1, 2, 3]
    assert SMALL.kept[-1] == SMALL.pieces - 1 == WHOLE.token_to_id("<mask>")
    assert NEW.token_to_id("<mask>") == len(SMALL.kept) - 1 == NEW.get_vocab_size() - 1
    assert not any(
        "\u3040" <= c <= "\u30ff" or "\u0400" <= c <= "\u04ff" for piece in NEW.get_vocab() for c in piece[:-1]
    )
    lost = set(WHOLE.get_vocab()) - set(NEW.get_vocab())
    assert all(any(not kept_character(c) for c in piece if c != "\u2581") for piece in lost)


def test_the_golden_sentences_are_cut_as_before() -> None:
    assert SMALL is not None
    assert SMALL.differences(WHOLE, golden_sentences(GOLDEN)) == []
    assert SMALL.differences(WHOLE, FOREIGN) == FOREIGN


@settings(max_examples=250, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(alphabet=THAI + LATIN + SIGNS, max_size=12),
            st.sampled_from([word for line in golden_sentences(GOLDEN) for word in line.split()]),
            st.sampled_from(["น้ำมัน", "กำลัง", "น\u0e4d\u0e49\u0e32", "CONV-002", "M-114", "≤", "😀"]),
        ),
        max_size=12,
    )
)
def test_any_thai_or_latin_text_is_cut_as_before(parts: list[str]) -> None:
    for text in ("".join(parts), " ".join(parts)):
        assert _old(text) == WHOLE.encode(text).ids


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=20))
def test_a_text_of_any_script_is_still_read(text: str) -> None:
    ids = NEW.encode(text).ids
    assert (ids[0], ids[-1]) == (0, 2)
    if all(kept_character(c) for c in WHOLE.normalizer.normalize_str(text)):
        assert _old(text) == WHOLE.encode(text).ids


def test_the_vectors_are_bit_identical(tmp_path: Path) -> None:
    from edge.embedding.export.gate import Runner
    from edge.embedding.tokens import HubTokens

    assert SMALL is not None
    shape = BertShape(layers=2, inner=768, positions=64, first=2, epsilon=1e-5)
    weights = random_weights(shape, WHOLE.get_vocab_size(), "xlm-roberta")
    words = weights["embeddings.word_embeddings.weight"]
    sides = []
    for name, table, tokenizer in (("whole", words, WHOLE), ("small", words[SMALL.kept], NEW)):
        (tmp_path / name).mkdir()
        write_cpu(tmp_path / name, weights, table, shape, Int8())
        runner = Runner(tmp_path / name / "model.onnx", HubTokens(tokenizer), pooling="mean", max_tokens=64)
        sides.append(runner.alone(golden_sentences(GOLDEN)[::7]))
    assert np.array_equal(*sides)


def test_a_frequency_cut_would_have_changed_segmentation() -> None:
    """What the rule is for: the same check fails for a vocabulary that lost pieces of kept characters."""
    data = json.loads(WHOLE.to_str())
    vocabulary = data["model"]["vocab"]
    kept = [i for i, (piece, _) in enumerate(vocabulary) if i < 4 or len(piece) < 4 or piece == "<mask>"]
    place = {old: new for new, old in enumerate(kept)}
    data["model"]["vocab"] = [vocabulary[i] for i in kept]
    for token in data["added_tokens"]:
        token["id"] = place[token["id"]]
    cut = Trimmed(json.dumps(data), np.array(kept), len(vocabulary))
    assert cut.differences(WHOLE, golden_sentences(GOLDEN))


def test_a_tokenizer_of_word_pieces_is_left_alone() -> None:
    from export_parts import minilm_folder

    assert trim((minilm_folder() / "tokenizer.json").read_text("utf-8")) is None


@pytest.mark.parametrize(
    ("character", "kept"),
    [("ก", True), ("ำ", True), ("é", True), ("Ω", True), ("→", True), ("停", False), ("ж", False), ("٣", False)],
)
def test_which_characters_are_kept(character: str, kept: bool) -> None:
    assert kept_character(character) is kept
