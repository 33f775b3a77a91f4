"""A Unigram tokenizer.json as a SentencePiece model: the same pieces, at an eighth of the memory.

The library `tokenizers` keeps a Unigram vocabulary in a tree of hash tables, some 600 MB for 250,000 pieces; SentencePiece,
for which such vocabularies are made, keeps them in a double array. What a model file holds is described in
sentencepiece_model.proto of that project; of it only what the tokenizers of XLM-R use is written here.
"""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import sentencepiece
from tokenizers import Tokenizer

from edge.embedding.tokens import HubTokens, PieceTokens, read_pieces

__all__ = ["as_pieces", "differences", "drawn_texts"]

_SPACE = "\u2581"
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_UNIGRAM = 1


def as_pieces(tokenizer: str) -> bytes | None:
    """The model file for a tokenizer.json, or None where SentencePiece has no equal of what stands there.

    Nothing is taken on trust: the caller holds both against each other with `differences`.
    """
    data: dict[str, Any] = json.loads(tokenizer)
    model = data["model"]
    charsmap = _charsmap(data.get("normalizer"))
    ends = _ends(data.get("post_processor"))
    if model.get("type") != "Unigram" or model.get("byte_fallback") or charsmap is None or ends is None:
        return None
    if not _by_spaces(data.get("pre_tokenizer")):
        return None
    vocabulary: list[tuple[str, float]] = [(str(piece), float(score)) for piece, score in model["vocab"]]
    special = {int(token["id"]): str(token["content"]) for token in data.get("added_tokens", [])}
    for place in sorted(place for place in special if place >= len(vocabulary)):
        if place != len(vocabulary):
            return None
        vocabulary.append((special[place], 0.0))
    if len({piece for piece, _ in vocabulary}) != len(vocabulary):
        return None
    unknown = int(model["unk_id"])
    padding = next((place for place, name in special.items() if name in ("<pad>", "[PAD]")), -1)
    pieces = []
    for place, (piece, score) in enumerate(vocabulary):
        kind = _UNKNOWN if place == unknown else _CONTROL if place in special or place in ends else _NORMAL
        body = _text(1, piece.encode()) + _number(2, 5, struct.pack("<f", score))
        pieces.append(_text(1, body + (_count(3, kind) if kind != _NORMAL else b"")))
    names = [vocabulary[place][0].encode() if place >= 0 else b"" for place in (unknown, *ends, padding)]
    trained = _count(3, _UNIGRAM)
    for at, (place, name) in enumerate(zip((unknown, *ends, padding), names, strict=True)):
        trained += _count(40 + at, place) + (_text(45 + at, name) if name else b"")
    # A space before the first word, no others but single ones between words.
    spelt = (_text(2, charsmap) if charsmap else b"") + _count(3, 1) + _count(4, 1) + _count(5, 1)
    return b"".join(pieces) + _text(2, trained) + _text(3, spelt)


def differences(tokenizer: str, model: bytes, texts: Sequence[str]) -> list[str]:
    """Those of `texts`, which should be normalised as the encoder does it, that the two do not cut alike."""
    theirs, ours = HubTokens(Tokenizer.from_str(tokenizer)), PieceTokens(read_pieces(model))
    found = zip(texts, theirs(texts), ours(texts), strict=True)
    return [text for text, one, other in found if one != other]


def drawn_texts(tokenizer: str, count: int = 4_000, seed: int = 1) -> Iterator[str]:
    """Texts of pieces drawn by chance, with and without spaces, some with signs no piece may hold."""
    chance = random.Random(seed)  # noqa: S311 - the same texts every time
    pieces = [piece.replace(_SPACE, " ") for piece, _ in json.loads(tokenizer)["model"]["vocab"] if "<" not in piece]
    signs = ["", " ", "  ", ". ", "-", "/", "12", "CONV-002", " M8", "\u200b", "\u00a0", "☃", "😀", "…", "½", "ﬁ"]
    for _ in range(count):
        parts = chance.choices(pieces, k=chance.randint(1, 12))
        yield "".join(part + (chance.choice(signs) if chance.random() < 0.3 else "") for part in parts)


def _charsmap(part: Any) -> bytes | None:
    """The compiled spelling rules of a normaliser, empty for none; None for one that SentencePiece does not have."""
    if part is None:
        return b""
    match part.get("type"):
        case "Precompiled":
            return base64.b64decode(part["precompiled_charsmap"])
        case "NFKC":
            return _rules("nfkc")
        case "Sequence":
            # Runs of spaces are folded by SentencePiece itself.
            inner = [one for one in part.get("normalizers", []) if one.get("type") not in ("Replace", "Strip")]
            return _charsmap(inner[0]) if len(inner) == 1 else b"" if not inner else None
    return None


def _rules(name: str) -> bytes | None:
    """SentencePiece's own rules of this name, read from the model it makes of them."""
    proto = sentencepiece.SentencePieceNormalizer(rule_name=name).serialized_model_proto()
    for field, value in _fields(proto):
        if field == 3:
            return next((inner for number, inner in _fields(value) if number == 2), b"")
    return None


def _by_spaces(part: Any) -> bool:
    """Whether words are cut at spaces, each with the sign for a space before it."""
    if part is None:
        return False
    steps = part.get("pretokenizers", []) if part.get("type") == "Sequence" else [part]
    kinds = [step.get("type") for step in steps]
    last = steps[-1]
    before = last.get("prepend_scheme", "always" if last.get("add_prefix_space", True) else "never")
    return kinds in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]) and before in ("always", "first")


def _ends(part: Any) -> tuple[int, int] | None:
    """The ids put before and behind a text."""
    match part:
        case {"type": "TemplateProcessing", "single": single, "special_tokens": special}:
            names = [next(iter(step.values()))["id"] for step in single]
            if len(names) == 3 and "Sequence" in single[1]:
                first, last = (special[name]["ids"] for name in (names[0], names[2]))
                return (int(first[0]), int(last[0])) if len(first) == len(last) == 1 else None
        case {"type": "RobertaProcessing", "cls": cls, "sep": sep}:
            return int(cls[1]), int(sep[1])
    return None


# --- protocol buffers: a field is its number and kind, then its value -------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    # Negative numbers are written as 64 bits.
    value &= (1 << 64) - 1
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, kind: int, value: bytes) -> bytes:
    return _varint(field << 3 | kind) + value


def _count(field: int, value: int) -> bytes:
    return _number(field, 0, _varint(value))


def _text(field: int, value: bytes) -> bytes:
    return _number(field, 2, _varint(len(value)) + value)


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The texts and inner messages of a message."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        field, kind = divmod(number(), 8)
        if kind == 0:
            number()
        elif kind == 2:
            size = number()
            yield field, data[at : at + size]
            at += size
        else:
            at += 4 if kind == 5 else 8
