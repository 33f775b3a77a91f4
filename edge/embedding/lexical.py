"""Lexical terms of a text, the same on the index and on the query side, for Qdrant's sparse vectors.

Four kinds of term, heaviest first: machine and part numbers and days (in one spelling, so CONV-002 and conv2 meet, and
15/3/2569 and 2026-03-15); the words as written (English stemmed, Thai in the lexicon's spelling, compounds also by
their parts); overlapping trigrams of Thai we do not know; and the English meanings of Thai words, light, so that a Thai
question still touches an English record. Rarity is not weighed here: Qdrant's IDF modifier does that over the whole
collection.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from threading import Lock

import snowballstemmer

from edge.embedding.lexicon import Lexicon, default_lexicon, thai_runs
from edge.embedding.text import Normalised, align

__all__ = ["LEXICAL", "SparseTerms", "Term", "sparse_terms", "term_index", "terms"]

LEXICAL = "terms-2"
"""Change it with any rule here that changes the terms of a text: every encoder's fingerprint changes with it."""

_NUMBER_WEIGHT = 1.5
_WORD_WEIGHT = 1.0
_NUMBER_PART_WEIGHT = 0.5
_COMPOUND_PART_WEIGHT = 0.5
_TRIGRAM_WEIGHT = 0.4
_GLOSS_WEIGHT = 0.35
_SATURATION = 1.2

_LATIN = re.compile(r"[a-z0-9]+(?:[-_./'][a-z0-9]+)*")
_RUNS = re.compile(r"[a-z]+|[0-9]+")
_STEMMER = snowballstemmer.stemmer("english")
# The stemmer keeps the word at hand in itself.
_STEMMER_LOCK = Lock()
# Years that people write of in Thailand's Buddhist era, which is 543 ahead; numbers beyond are taken as they stand.
_BUDDHIST = range(2500, 2643)
_PREFIX_BEFORE_NUMBER = re.compile(r"[a-z]{1,12}")
_STOP_TEXT = """
a about after all also am an and any are as at be been being but by can could did do does for from get got had has have
he her his how i if in into is it its me my no not of off on or our out over per please she should so some than that the
their them then there these they this to too until up us very was we were what when where which while who why will with
would you your
"""
_STOP_WORDS = frozenset(_STOP_TEXT.split())


@dataclass(frozen=True, slots=True)
class SparseTerms:
    """A sparse vector: `indices` unsigned 32-bit, unique and ascending; `values` positive; both of one length."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Term:
    """One lexical term and the typed characters [start, end) it came from.

    `weight` is what the term counts for once; `surface` tells words that were written from meanings that were inferred.
    """

    term: str
    start: int
    end: int
    weight: float
    surface: bool


@lru_cache(maxsize=16384)
def _stem(word: str) -> str:
    """Endings off, so that leaks, leaked and leaking are one term (Porter 2001, the Snowball stemmer "english")."""
    with _STEMMER_LOCK:
        return str(_STEMMER.stemWord(word))


def terms(text: str, lexicon: Lexicon | None = None) -> list[Term]:
    """Every term of `text` in reading order, with the place in `text` as it was typed."""
    aligned = align(text)
    return list(_terms(aligned, lexicon or default_lexicon()))


def sparse_terms(text: str, lexicon: Lexicon | None = None) -> SparseTerms:
    """The sparse vector of `text`; empty for a text without words. Repetition saturates, order does not matter."""
    weights: dict[str, float] = {}
    counts: dict[str, int] = {}
    for term in terms(text, lexicon):
        # Written beats inferred: a term that is both keeps the larger weight, and counts as often as it occurs.
        weights[term.term] = max(weights.get(term.term, 0.0), term.weight)
        counts[term.term] = counts.get(term.term, 0) + 1
    values: dict[int, float] = {}
    for name, weight in weights.items():
        count = counts[name]
        value = weight * count * (_SATURATION + 1) / (count + _SATURATION)
        index = term_index(name)
        values[index] = max(values.get(index, 0.0), value)
    ordered = sorted(values)
    return SparseTerms(tuple(ordered), tuple(round(values[i], 6) for i in ordered))


@lru_cache(maxsize=65536)
def term_index(term: str) -> int:
    """The number of a term in every sparse vector."""
    return int.from_bytes(blake2b(term.encode(), digest_size=4).digest(), "big")


@dataclass(frozen=True, slots=True)
class _Prefix:
    """A word that a number may follow: "line" in "line 4", "ไลน์" in "ไลน์ 4", with its typed place."""

    word: str
    start: int
    end: int


def _terms(aligned: Normalised, lexicon: Lexicon) -> Iterator[Term]:
    before: _Prefix | None = None
    for start, end, thai in thai_runs(aligned.text):
        if thai:
            before = yield from _thai(aligned, start, end, lexicon)
        else:
            before = yield from _latin(aligned, start, end, before)
            for match in lexicon.latin_word.finditer(aligned.text, start, end) if lexicon.latin_word else ():
                at, to = aligned.span(match.start(), match.end())
                for word in _gloss_words(lexicon.latin[match.group()]):
                    yield Term("w:" + word, at, to, _GLOSS_WEIGHT, False)


def _thai(aligned: Normalised, start: int, end: int, lexicon: Lexicon) -> Generator[Term, None, _Prefix | None]:
    run = aligned.text[start:end]
    before: _Prefix | None = None
    for piece in lexicon.segment(run):
        at, to = aligned.span(start + piece.start, start + piece.end)
        before = None
        if piece.form is None:
            word = run[piece.start : piece.end]
            grams = [word[i : i + 3] for i in range(max(1, len(word) - 2))]
            yield from (Term("g:" + gram, at, to, _TRIGRAM_WEIGHT, True) for gram in grams if len(gram) > 1)
            continue
        meanings = lexicon.glosses[piece.form]
        words = _gloss_words(meanings)
        if not words:
            continue
        yield Term("w:" + piece.form, at, to, _WORD_WEIGHT, True)
        for part in lexicon.parts(piece.form):
            yield Term("w:" + part, at, to, _COMPOUND_PART_WEIGHT, True)
        for word in words:
            yield Term("w:" + word, at, to, _GLOSS_WEIGHT, False)
        head = meanings[0].lower().split()[-1]
        if _PREFIX_BEFORE_NUMBER.fullmatch(head):
            before = _Prefix(head, at, to)
    return before


def _latin(aligned: Normalised, start: int, end: int, before: _Prefix | None) -> Generator[Term, None, _Prefix | None]:
    for match in _LATIN.finditer(aligned.text, start, end):
        token = match.group()
        at, to = aligned.span(match.start(), match.end())
        if any(c.isdigit() for c in token):
            yield from _number(token, at, to)
            if token.isdigit() and before is not None:
                yield Term(f"n:{before.word}|{token.lstrip('0') or '0'}", before.start, to, _NUMBER_WEIGHT, True)
            before = None
            continue
        parts = re.split(r"[-_./]", token)
        for part in parts:
            if part not in _STOP_WORDS and len(part) > 1:
                yield Term("w:" + _stem(part), at, to, _WORD_WEIGHT, True)
        if len(parts) > 1:
            yield Term("w:" + "".join(parts), at, to, _WORD_WEIGHT, True)
        before = _Prefix(token, at, to) if _PREFIX_BEFORE_NUMBER.fullmatch(token) else None
    return before


def _number(token: str, at: int, to: int) -> Iterator[Term]:
    written = _RUNS.findall(token)
    runs = [run.lstrip("0") or "0" if run.isdigit() else run for run in written]
    yield Term("n:" + "|".join(runs), at, to, _NUMBER_WEIGHT, True)
    if (day := _day(written)) is not None:
        yield Term(day, at, to, _NUMBER_WEIGHT, True)
    for run in runs if len(runs) > 1 else []:
        if len(run) > 1 or run.isdigit():
            kind = "n:" if run.isdigit() else "w:"
            yield Term(kind + (run if run.isdigit() else _stem(run)), at, to, _NUMBER_PART_WEIGHT, True)
    for run in runs:
        if run.isdigit() and int(run) in _BUDDHIST:
            yield Term(f"n:{int(run) - 543}", at, to, _WORD_WEIGHT if len(runs) == 1 else _NUMBER_PART_WEIGHT, True)


def _day(runs: list[str]) -> str | None:
    """15/3/2569, 15-03-2026 and 2026-03-15 are one day; a year of two digits could be of either era and is none."""
    if len(runs) != 3 or not all(run.isdigit() for run in runs) or max(map(len, runs)) != 4:
        return None
    year, month, day = map(int, runs if len(runs[0]) == 4 else reversed(runs))
    year -= 543 if year in _BUDDHIST else 0
    return f"d:{year}|{month}|{day}" if 1 <= month <= 12 and 1 <= day <= 31 else None


@lru_cache(maxsize=16384)
def _gloss_words(glosses: tuple[str, ...]) -> tuple[str, ...]:
    words = dict.fromkeys(
        _stem(word)
        for gloss in glosses
        for word in re.findall(r"[a-z0-9]+", gloss.lower())
        if word not in _STOP_WORDS and len(word) > 1
    )
    return tuple(words)
