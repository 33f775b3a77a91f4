"""The plant's own words: what people there call things, taught by a CSV of words and meanings, kept with the data.

A taught word needs no training: the starter model reads it as the mean of its meanings, English or Thai. A word the
lexicon has already takes the plant's meaning instead. A model with a tokenizer of its own can not be given words; there
only the lexical terms know them.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.embedding.lexicon import LATIN_WORD, THAI_WORD, Lexicon, thai_runs
from edge.embedding.text import normalise
from edge.errors import Rejected, Stop

__all__ = ["RowError", "Words", "form_of", "lexicon_lines", "parse_words", "read_words", "write_words"]

Words = dict[str, tuple[str, ...]]
"""Meanings by word, as people wrote them."""

MOST_WORDS = 5000
LONGEST_WORD = 40
LONGEST_MEANING = 120
_WORD_HEADS = frozenset({"word", "words", "คำ", "คำศัพท์"})
_MEANING_HEADS = frozenset({"meaning", "meanings", "ความหมาย", "แปลว่า"})
_ENGLISH = re.compile(r"[a-z]")


@dataclass(frozen=True, slots=True)
class RowError:
    """One row of a CSV that can not be taught. `row` counts from 1 and includes the heading."""

    row: int
    reason: str


def form_of(word: str) -> str:
    """The one spelling under which a word is looked up."""
    form = normalise(word)
    return form.replace(" ", "") if THAI_WORD.search(form) else form


def parse_words(data: bytes, lexicon: Lexicon) -> tuple[Words, list[RowError]]:
    """Words of a CSV with the columns word and meaning; `lexicon` is what Thai meanings are understood by.

    Meanings are separated by semicolons, or stand in further columns; the rows of one word add up. Rows with errors are
    left out. Raises `Rejected` when the file as a whole is not such a CSV.
    """
    rows = _rows(data)
    heads = [head.strip().casefold() for head in rows[0]]
    word_at = next((i for i, head in enumerate(heads) if head in _WORD_HEADS), None)
    meaning_at = [i for i, head in enumerate(heads) if head in _MEANING_HEADS]
    if word_at is None or not meaning_at:
        raise Rejected("The first row must name the columns word and meaning (or คำ and ความหมาย).")
    # Whatever stands beyond the last named column is a further meaning.
    meaning_at += list(range(len(heads), max(map(len, rows))))
    words: Words = {}
    errors: list[RowError] = []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        word = row[word_at].strip() if word_at < len(row) else ""
        cells = [row[i] for i in meaning_at if i < len(row)]
        meanings = tuple(dict.fromkeys(m.strip() for cell in cells for m in cell.split(";") if m.strip()))
        reason = _wrong_word(word) or _wrong_meanings(word, meanings, lexicon)
        if reason:
            errors.append(RowError(number, reason))
            continue
        word = next((known for known in words if form_of(known) == form_of(word)), word)
        words[word] = tuple(dict.fromkeys((*words.get(word, ()), *meanings)))
    if len(words) > MOST_WORDS:
        raise Rejected(f"{len(words)} words are more than the {MOST_WORDS} that can be taught.")
    return words, errors


def _rows(data: bytes) -> list[list[str]]:
    for encoding in ("utf-8-sig", "cp874"):  # the second is what Excel writes on a Thai Windows
        try:
            text = data.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        raise Rejected("The file is neither UTF-8 nor Thai Windows text; save it as “CSV UTF-8”.")
    if "\0" in text:
        raise Rejected("The file is not a CSV; save it as “CSV UTF-8”.")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise Rejected(f"The file is not a CSV: {error}.") from error
    if not any(any(cell.strip() for cell in row) for row in rows):
        raise Rejected("The file is empty.")
    return rows


def _wrong_word(word: str) -> str | None:
    form = form_of(word)
    if not form:
        return "the word is missing"
    if len(form) > LONGEST_WORD:
        return f"“{word[:LONGEST_WORD]}…” is longer than {LONGEST_WORD} letters"
    if not (THAI_WORD.fullmatch(form) or LATIN_WORD.fullmatch(form)):
        return f"“{word}” must be of Thai letters only, or of Latin letters, digits, dashes and spaces only"
    if len(form) < 2 or not any(char.isalpha() for char in form):
        return f"“{word}” is too short to be told from other words"
    return None


def _wrong_meanings(word: str, meanings: tuple[str, ...], lexicon: Lexicon) -> str | None:
    if not meanings:
        return f"“{word}” has no meaning"
    for meaning in meanings:
        if len(meaning) > LONGEST_MEANING:
            return f"a meaning of “{word}” is longer than {LONGEST_MEANING} letters"
        if form_of(meaning) == form_of(word):
            return f"“{word}” is given as its own meaning"
        if not gloss_of(meaning, lexicon):
            return f"“{meaning}” has no word in it that is known; say it in English or in other Thai words"
    return None


def gloss_of(meaning: str, lexicon: Lexicon) -> str:
    """A meaning in English: what is English in it as it stands, and each Thai word by its first gloss. May be empty."""
    said: list[str] = []
    text = normalise(meaning)
    for start, end, thai in thai_runs(text):
        run = text[start:end]
        if not thai:
            said.extend([run.strip()] if _ENGLISH.search(run) else [])
            continue
        glosses = (lexicon.glosses[piece.form] for piece in lexicon.segment(run) if piece.form)
        said.extend(gloss[0] for gloss in glosses if gloss)
    return " ".join(said)


def lexicon_lines(words: Mapping[str, Iterable[str]], lexicon: Lexicon) -> str:
    """The words as lines of a lexicon, to be put behind those that ship; see `Lexicon.parse`."""
    lines = []
    for word, meanings in sorted(words.items()):
        glosses = [gloss for meaning in meanings if (gloss := gloss_of(meaning, lexicon).replace(";", " "))]
        lines += [f"{form_of(word)} = {'; '.join(glosses)}\n"] if glosses else []
    return "#taught\n" + "".join(lines) if lines else ""


def read_words(path: Path) -> Words:
    """The words kept in `path`; none when it does not exist. Raises `Stop` when it can not be read."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.reader(handle))[1:]
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Stop(f"The words the plant has taught can not be read from {path}: {error}") from error
    return {row[0]: tuple(m.strip() for m in row[1].split(";") if m.strip()) for row in rows if len(row) > 1}


def write_words(path: Path, words: Mapping[str, Iterable[str]]) -> None:
    """Keep `words` in `path`, all at once; a file without words is taken away. Raises `Stop` when it can not."""
    try:
        if not words:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("w", encoding="utf-8", newline="") as handle:
            rows = csv.writer(handle)
            rows.writerow(("word", "meaning"))
            rows.writerows((word, "; ".join(meanings)) for word, meanings in sorted(words.items()))
        partial.rename(path)
    except OSError as error:
        raise Stop(f"The words can not be kept in {path}: {error.strerror or error}.") from error
