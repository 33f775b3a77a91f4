"""A document's text becomes passages: as long as the encoder reads, never across a heading, each with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from edge.indexing.knowledge import told

#: Tokens of a passage at most, whatever more the encoder could read: a citation should be read at a glance.
MOST_TOKENS = 256

#: Tokens that stay free: two texts joined may count a little more than both.
MARGIN = 6

#: The share of a passage that the one before ended with.
OVERLAP = 0.15

#: Characters of a passage at most: words the encoder does not know may count for nothing.
MOST_CHARACTERS = 1_200


@dataclass(frozen=True, slots=True)
class Passage:
    """`section`: the headings above, outermost first. `page`: where it begins, None in a format without pages."""

    section: tuple[str, ...]
    page: int | None
    text: str


def cut(blocks: Iterable[Mapping[str, Any]], title: str, count: Callable[[str], int], limit: int) -> list[Passage]:
    """Passages of at most `limit` tokens by `count`, their title and section counted in.

    `blocks` as `edge.knowledge.extract` gives them.
    """
    found: list[Passage] = []
    for section, group in groupby(blocks, key=lambda block: tuple(block["section"])):
        about = count(told(title, " › ".join(section), ""))
        room = max(24, min(limit, MOST_TOKENS) - MARGIN - about)
        pieces = [(sentence, block["page"]) for block in group for sentence in block["sentences"]]
        found += [Passage(section, page, text) for text, page in _packed(pieces, count, room)]
    return found


def _packed(
    pieces: Sequence[tuple[str, int | None]], count: Callable[[str], int], room: int
) -> list[tuple[str, int | None]]:
    """(text, page) of each passage: as many pieces as have room, beginning with the last few of the one before."""
    # A single text carries tokens of its own at either end.
    ends = count("")
    sizes = [max(1, count(text) - ends) for text, _ in pieces]
    found = []
    start = 0
    while start < len(pieces):
        end, tokens, characters = start, 0, 0
        while end < len(pieces):
            tokens += sizes[end]
            characters += len(pieces[end][0])
            if end > start and (tokens > room or characters > MOST_CHARACTERS):
                break
            end += 1
        found.append(("".join(text for text, _ in pieces[start:end]).strip(), pieces[start][1]))
        if end == len(pieces):
            break
        again, tokens, characters = end, 0, 0
        while again > start + 1:
            tokens += sizes[again - 1]
            characters += len(pieces[again - 1][0])
            fits = tokens <= room * OVERLAP and characters <= MOST_CHARACTERS * OVERLAP
            if not fits or tokens + sizes[end] > room:
                break
            again -= 1
        start = again
    return found
