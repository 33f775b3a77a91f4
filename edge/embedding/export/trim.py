"""A vocabulary of Thai and Latin alone, in which every Thai or Latin text has the same pieces as before.

A Unigram tokenizer takes the best-scoring way to cut a text into pieces. A text made of kept characters can only be cut
into pieces made of kept characters, so keeping *all* of those, with their scores, keeps every segmentation. Cutting by
frequency would not. The lowest-scoring piece stays because the score of an unknown character hangs on it.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from edge.errors import Stop

__all__ = ["Trimmed", "kept_character", "trim"]

_SPACE = "\u2581"
# Letters of units and tolerances that a Thai or English text holds.
_UNITS = frozenset("\u0394\u03a3\u03a9\u03b1\u03b2\u03bc\u03c0\u03c6\u00b5\u2126")


@dataclass(frozen=True, slots=True)
class Trimmed:
    """`tokenizer`: the JSON text. `kept[new id]`: the old id, int64. `pieces`: how many there were."""

    tokenizer: str
    kept: npt.NDArray[np.int64]
    pieces: int

    def differences(self, whole: Tokenizer, texts: Iterable[str]) -> list[str]:
        """Those of `texts` that the trimmed tokenizer cuts otherwise than `whole`."""
        small = Tokenizer.from_str(self.tokenizer)
        return [text for text in texts if self.kept[small.encode(text).ids].tolist() != whole.encode(text).ids]


@lru_cache(maxsize=65_536)
def kept_character(character: str) -> bool:
    """Thai, Latin, ASCII digits, and whatever is neither letter nor mark nor foreign digit."""
    if character.isascii() or "\u0e00" <= character <= "\u0e7f" or character in _UNITS:
        return True
    kind = unicodedata.category(character)
    if kind[0] in "PSZC" or kind in ("No", "Nl") or "\u0300" <= character <= "\u036f":
        return True
    return kind[0] == "L" and "LATIN" in unicodedata.name(character, "")


def trim(tokenizer: str) -> Trimmed | None:
    """Trim a tokenizer.json of the Unigram kind; None for another kind, which has no such guarantee.

    Raises Stop when its special tokens are not where XLM-R has them.
    """
    data: dict[str, Any] = json.loads(tokenizer)
    model = data["model"]
    if model.get("type") != "Unigram" or model.get("byte_fallback"):
        return None
    vocabulary: list[list[Any]] = model["vocab"]
    # Added tokens count by their id, wherever it lies: at the front, at the end, or behind the model's own pieces.
    special = {int(token["id"]): str(token["content"]) for token in data.get("added_tokens", [])}
    special[int(model["unk_id"])] = str(vocabulary[int(model["unk_id"])][0])
    lowest = min(range(len(vocabulary)), key=lambda place: vocabulary[place][1])
    keep = [
        place
        for place, (piece, _) in enumerate(vocabulary)
        if place in special or place == lowest or all(c == _SPACE or kept_character(c) for c in piece)
    ]
    behind = sorted(place for place in special if place >= len(vocabulary))
    if behind and behind != list(range(len(vocabulary), len(vocabulary) + len(behind))):
        raise Stop("The tokenizer has added tokens with gaps between their ids; export it with --whole-vocabulary.")
    new = {old: place for place, old in enumerate([*keep, *behind])}
    model["vocab"] = [vocabulary[place] for place in keep]
    model["unk_id"] = new[int(model["unk_id"])]
    for token in data.get("added_tokens", []):
        token["id"] = new[int(token["id"])]
    _renumber(data.get("post_processor"), new)
    data["truncation"] = data["padding"] = None
    return Trimmed(
        json.dumps(data, ensure_ascii=False), np.array([*keep, *behind], np.int64), len(vocabulary) + len(behind)
    )


def _renumber(part: Any, new: dict[int, int]) -> None:
    """Give the special tokens of a post-processor their new ids, in whichever of its forms they stand."""
    if not isinstance(part, dict):
        return
    for inner in part.get("processors", []):
        _renumber(inner, new)
    for entry in (part.get("special_tokens") or {}).values():
        entry["ids"] = [new[old] for old in entry["ids"]]
    for side in ("sep", "cls"):  # RobertaProcessing: [token, id]
        if isinstance(part.get(side), list):
            part[side][1] = new[part[side][1]]
