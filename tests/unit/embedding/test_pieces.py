"""The lean form of a vocabulary cuts every text as the published one does, or is not taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from export_parts import GOLDEN, minilm_folder, xlmr_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.embedding import normalise
from edge.embedding.export.gate import golden_sentences
from edge.embedding.export.pieces import as_pieces, differences, drawn_texts
from edge.embedding.export.trim import trim
from edge.embedding.tokens import HubTokens, PieceTokens, open_tokens, read_pieces
from edge.errors import Stop

WHOLE = xlmr_tokenizer().to_str()
MODEL = as_pieces(WHOLE)
assert MODEL is not None
THEIRS, OURS = HubTokens(xlmr_tokenizer()), PieceTokens(read_pieces(MODEL))


def _trimmed() -> str:
    found = trim(WHOLE)
    assert found is not None
    return found.tokenizer


@pytest.mark.parametrize("tokenizer", [WHOLE, _trimmed()], ids=["whole", "trimmed"])
def test_golden_sentences_and_drawn_texts_are_cut_alike(tokenizer: str) -> None:
    model = as_pieces(tokenizer)
    assert model is not None
    texts = [normalise(text) for text in (*golden_sentences(GOLDEN), *drawn_texts(tokenizer, 3_000))]
    assert len(set(texts)) > 2_500
    assert differences(tokenizer, model, texts) == []


@settings(max_examples=400, deadline=None)
@given(st.lists(st.text(max_size=12) | st.sampled_from(golden_sentences(GOLDEN)), max_size=6))
def test_any_text_is_cut_alike(texts: list[str]) -> None:
    read = [normalise(text) for text in texts]
    assert OURS(read) == THEIRS(read)


def test_ids_special_tokens_and_what_is_unknown_are_counted_as_before() -> None:
    (read,) = OURS(["มอเตอร์ ☃ CONV-002"])
    assert (read.ids[0], read.ids[-1]) == (0, 2)
    assert read.words == len(read.ids) - 2
    assert read.unknown == read.ids.count(3) > 0
    assert OURS([""])[0].ids == (0, 2)
    assert OURS([]) == []


def test_a_difference_is_found() -> None:
    """What the check is for: another spelling rule, and the score of one piece."""
    other = json.loads(WHOLE)
    other["normalizer"] = None
    changed = as_pieces(json.dumps(other))
    assert changed is not None
    assert differences(WHOLE, changed, ["กำลังทำ ＣＮＣ"])
    other = json.loads(WHOLE)
    # A piece that one of the golden sentences is cut into.
    sentence = golden_sentences(GOLDEN)[0]
    place = THEIRS([sentence])[0].ids[2]
    other["model"]["vocab"][place][1] -= 50
    changed = as_pieces(json.dumps(other))
    assert changed is not None
    assert differences(WHOLE, changed, [sentence]) == [sentence]


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data["model"].update(byte_fallback=True),
        lambda data: data.update(normalizer={"type": "Lowercase"}),
        lambda data: data.update(pre_tokenizer={"type": "Whitespace"}),
        lambda data: data.update(post_processor=None),
    ],
)
def test_what_has_no_equal_is_left_as_it_is(edit: object) -> None:
    data = json.loads(WHOLE)
    edit(data)  # type: ignore[operator]
    assert as_pieces(json.dumps(data)) is None


def test_word_pieces_are_left_as_they_are() -> None:
    assert as_pieces((minilm_folder() / "tokenizer.json").read_text("utf-8")) is None


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"pieces\.model"):
        open_tokens(tmp_path, "pieces")
    assert MODEL is not None
    (tmp_path / "pieces.model").write_bytes(MODEL[: len(MODEL) // 2])
    with pytest.raises(Stop, match=r"pieces\.model"):
        open_tokens(tmp_path, "pieces")
    with pytest.raises(Stop, match="tokens = “riddles”"):
        open_tokens(tmp_path, "riddles")
