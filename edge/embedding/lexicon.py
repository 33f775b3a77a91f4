"""The Thai factory lexicon: which Thai words we know, what they mean in English, and where they begin and end.

Thai writes no spaces between words. Segmentation is a shortest path over the lexicon, so that compounds win over their
parts and an unknown word costs more than known ones; it never splits inside a written cluster. A word we do not know
is looked up once more by how it sounds and by one wrong letter, because most unknown words are known words mistyped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from edge.embedding.text import normalise
from edge.errors import Stop

__all__ = [
    "LATIN_WORD",
    "SEGMENTATION",
    "THAI_WORD",
    "Lexicon",
    "Piece",
    "default_lexicon",
    "default_text",
    "take_up",
    "taken_up",
    "thai_runs",
]

SEGMENTATION = "words-2"
"""Change it with any rule here that changes where words begin or what an unknown word is taken for."""

_THAI_RUN = re.compile(r"[\u0e01-\u0e2e\u0e2f-\u0e3a\u0e40-\u0e4e]+")
THAI_WORD = _THAI_RUN
LATIN_WORD = re.compile(r"[a-z0-9]+(?:[ ._/-][a-z0-9]+)*")
"""What a taught word in Latin letters may look like, normalised."""
# A word can not begin with these, nor end just after those.
_FOLLOWS = frozenset(
    "\u0e30\u0e31\u0e32\u0e33\u0e34\u0e35\u0e36\u0e37\u0e38\u0e39\u0e3a\u0e45\u0e47\u0e48\u0e49\u0e4a\u0e4b\u0e4c\u0e4d\u0e4e"
)
_LEADS = frozenset("\u0e40\u0e41\u0e42\u0e43\u0e44")
_REPEAT = frozenset("\u0e46\u0e2f")
_ASIDE = re.compile(r"\s*\([^)]*\)")
_UNKNOWN_COST = 2.3
_FUZZY_REACH = 3

_SOUND = str.maketrans(
    {
        **dict.fromkeys("\u0e48\u0e49\u0e4a\u0e4b\u0e47\u0e46\u0e2f"),
        **dict.fromkeys("ศษซ", "ส"),
        **dict.fromkeys("ฆฅ", "ค"),
        **dict.fromkeys("ฌ", "ช"),
        **dict.fromkeys("ญ", "ย"),
        **dict.fromkeys("ฎ", "ด"),
        **dict.fromkeys("ฏ", "ต"),
        **dict.fromkeys("ฐฑฒธ", "ท"),
        **dict.fromkeys("ณ", "น"),
        **dict.fromkeys("ภ", "พ"),
        **dict.fromkeys("ฬร", "ล"),
        "ใ": "ไ",
        "ี": "ิ",
        "ื": "ึ",
        "ู": "ุ",
        "ั": "า",
        "ะ": "า",
    }
)
_SILENT = re.compile(r"[\u0e01-\u0e2e][\u0e34-\u0e39]?\u0e4c")


@dataclass(frozen=True, slots=True)
class Piece:
    """One Thai word. `form` is the lexicon's spelling, None where the word is unknown; offsets are in the run."""

    start: int
    end: int
    form: str | None


def thai_runs(text: str) -> Iterator[tuple[int, int, bool]]:
    """Cut a normalised text into (start, end, is Thai) in order; the parts between two Thai runs come as they are."""
    last = 0
    for match in _THAI_RUN.finditer(text):
        if match.start() > last:
            yield last, match.start(), False
        yield match.start(), match.end(), True
        last = match.end()
    if last < len(text):
        yield last, len(text), False


def _sound(word: str) -> str:
    return _SILENT.sub("", word).translate(_SOUND)


class Lexicon:
    """Thai forms and their English glosses, and the segmentation they allow. Immutable, safe to share."""

    def __init__(
        self,
        glosses: Mapping[str, tuple[str, ...]],
        latin: Mapping[str, tuple[str, ...]] | None = None,
        taught: frozenset[str] = frozenset(),
    ) -> None:
        """`glosses` maps each normalised Thai form to its English meanings; a form without meaning is a particle.

        `latin` does so for words in Latin letters, which only a plant can teach; `taught` names all that it has taught.
        """
        self.glosses = dict(glosses)
        self.latin = dict(latin or {})
        self.taught = taught
        self.latin_word = _any_of(self.latin)
        self._trie: dict[str, object] = {}
        self._by_sound: dict[str, str] = {}
        self._one_less: dict[str, tuple[str, str]] = {}
        for form in self.glosses:
            node = self._trie
            for char in form:
                node = node.setdefault(char, {})  # type: ignore[assignment]
            node[""] = form
            key = _sound(form)
            if len(key) >= 3 and self.glosses[form]:
                self._by_sound.setdefault(key, form)
                for i in range(1, len(key) if len(key) >= 6 else 0):
                    self._one_less.setdefault(key[:i] + key[i + 1 :], (key, form))
        self._segment = lru_cache(maxsize=4096)(self._segment_uncached)

    @classmethod
    def read(cls, path: Path) -> Lexicon:
        """Read `form/form = meaning; meaning` lines. Raises Stop when the file is missing or a line is malformed."""
        try:
            text = path.read_text("utf-8")
        except OSError as error:
            raise Stop(f"The Thai lexicon {path.name} can not be read from {path.parent}: {error.strerror}.") from error
        return _parse(text)

    @classmethod
    def parse(cls, text: str) -> Lexicon:
        """The lexicon that `text` spells out, line by line as for `read`.

        Behind a line `#taught` a form replaces what stood before it, and may be of Latin letters.
        """
        lines = text.splitlines()
        glosses: dict[str, list[str]] = {}
        latin: dict[str, tuple[str, ...]] = {}
        taught: set[str] | None = None
        for number, line in enumerate(lines, 1):
            if line == "#taught":
                taught = set()
            if not line.strip() or line.startswith("#"):
                continue
            left, mark, right = line.partition("=")
            if not mark:
                raise Stop(f"Line {number} of the Thai lexicon has no '=' between Thai forms and English meanings.")
            meanings = [m.strip() for m in right.split(";") if m.strip()]
            if taught is not None:
                form = left.strip()
                if THAI_WORD.fullmatch(form):
                    glosses[form] = meanings
                else:
                    latin[form] = tuple(meanings)
                taught.add(form)
                continue
            for raw in left.split("/"):
                form = normalise(_ASIDE.sub("", raw)).replace(" ", "")
                if form and _THAI_RUN.fullmatch(form):
                    known = glosses.setdefault(form, [])
                    known.extend(m for m in meanings if m not in known)
        return cls({form: tuple(meanings) for form, meanings in glosses.items()}, latin, frozenset(taught or ()))

    def segment(self, run: str) -> tuple[Piece, ...]:
        """Words of one Thai run (normalised, nothing but Thai signs), covering it without gaps or overlaps."""
        return self._segment(run)

    def parts(self, form: str) -> tuple[str, ...]:
        """The two known words a compound is made of, the longest first part first; empty when it is not made of two."""
        for cut in range(len(form) - 2, 1, -1):
            if self.glosses.get(form[:cut]) and self.glosses.get(form[cut:]):
                return form[:cut], form[cut:]
        return ()

    def _segment_uncached(self, run: str) -> tuple[Piece, ...]:
        return tuple(self._repair(run, self._cheapest(run, 0, len(run))))

    def _cheapest(self, run: str, begin: int, stop: int) -> list[Piece]:
        size = stop - begin
        cuts = [True] * (size + 1)
        for i in range(1, size):
            cuts[i] = _is_cut(run, begin + i)
        infinite = float("inf")
        cost = [infinite] * (size + 1)
        cost[0] = 0.0
        back: list[tuple[int, str | None]] = [(0, None)] * (size + 1)
        for i in range(size):
            if not cuts[i] or cost[i] == infinite:
                continue
            after = i + 1
            while not cuts[after]:
                after += 1
            single = 0.2 if run[begin + i] in _REPEAT and after == i + 1 else _UNKNOWN_COST
            if cost[i] + single < cost[after]:
                cost[after], back[after] = cost[i] + single, (i, None)
            node = self._trie
            for j in range(i, size):
                found = node.get(run[begin + j])
                if found is None:
                    break
                node = found  # type: ignore[assignment]
                form = node.get("")
                if form is not None and cuts[j + 1]:
                    # Two-letter words hide inside unknown ones; they must not come cheaper than longer words.
                    price = cost[i] + (1.0 if j - i >= 2 else 1.25)
                    if price < cost[j + 1]:
                        cost[j + 1], back[j + 1] = price, (i, str(form))
        pieces: list[Piece] = []
        at = size
        while at:
            since, form_or_none = back[at]
            pieces.append(Piece(begin + since, begin + at, form_or_none))
            at = since
        pieces.reverse()
        return _merge_unknown(run, pieces)

    def _repair(self, run: str, pieces: list[Piece]) -> list[Piece]:
        """Replace unknown stretches by the known words they were probably meant to be, and segment what is left."""
        i = 0
        while i < len(pieces):
            piece = pieces[i]
            if piece.form is not None or run[piece.start] in _REPEAT:
                i += 1
                continue
            first, last = i, i
            # Short known words beside an unknown stretch are often torn out of the same mistyped word.
            while first > 0 and i - first < _FUZZY_REACH and self._may_be_torn(run, pieces[first - 1]):
                first -= 1
            while last + 1 < len(pieces) and last - i < _FUZZY_REACH and self._may_be_torn(run, pieces[last + 1]):
                last += 1
            found = self._meant(run, pieces[first].start, pieces[last].end, piece)
            if found is None:
                i += 1
                continue
            before = self._cheapest(run, pieces[first].start, found.start)
            after = self._cheapest(run, found.end, pieces[last].end)
            pieces[first : last + 1] = [*before, found, *after]
            i = first + len(before) + 1
        return pieces

    def _may_be_torn(self, run: str, piece: Piece) -> bool:
        return piece.end - piece.start <= 3 and run[piece.start] not in _REPEAT

    def _meant(self, run: str, begin: int, stop: int, unknown: Piece) -> Piece | None:
        """The longest stretch of [begin, stop) touching `unknown` that sounds like a known word, else is nearly one."""
        cuts = [i for i in range(begin, stop + 1) if i in (begin, stop) or _is_cut(run, i)]
        spans = [
            (start, end)
            for start in cuts
            for end in cuts
            if 3 <= end - start <= 20 and start < unknown.end and end > unknown.start
        ]
        spans.sort(key=lambda span: (span[0] - span[1], span[0]))
        sounds = [(start, end, _sound(run[start:end])) for start, end in spans]
        for start, end, sound in sounds:
            form = self._by_sound.get(sound)
            if form is not None:
                return Piece(start, end, form)
        for start, end, sound in sounds:
            form = self._nearly(sound)
            if form is not None:
                return Piece(start, end, form)
        return None

    def _nearly(self, sound: str) -> str | None:
        """The form whose sound is one letter more, less, other or swapped; the first letter people get right."""
        if len(sound) < 6:
            return None
        longer = self._one_less.get(sound)
        if longer is not None:
            return longer[1]
        for i in range(1, len(sound)):
            shorter = sound[:i] + sound[i + 1 :]
            form = self._by_sound.get(shorter) if len(shorter) >= 5 else None
            if form is not None:
                return form
            other = self._one_less.get(shorter)
            if other is not None and _one_apart(sound, other[0]):
                return other[1]
        return None


def _is_cut(run: str, i: int) -> bool:
    return run[i] not in _FOLLOWS and run[i - 1] not in _LEADS


def _one_apart(one: str, other: str) -> bool:
    """Whether two words of one length differ in one letter, or in two neighbours that changed places."""
    if len(one) != len(other):
        return False
    wrong = [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    if len(wrong) == 2:
        i, j = wrong
        return j == i + 1 and one[i] == other[j] and one[j] == other[i]
    return len(wrong) == 1


def _merge_unknown(run: str, pieces: list[Piece]) -> list[Piece]:
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        mergeable = last is not None and last.form is None and run[last.start] not in _REPEAT
        if mergeable and last is not None and piece.form is None and run[piece.start] not in _REPEAT:
            merged[-1] = Piece(last.start, piece.end, None)
        else:
            merged.append(piece)
    return merged


@lru_cache(maxsize=2)
def _parse(text: str) -> Lexicon:
    """The lexicon of the model and the one of the lexical terms are mostly one text; hold it once, it is 10 MB."""
    return Lexicon.parse(text)


def _any_of(words: Mapping[str, object]) -> re.Pattern[str] | None:
    """Finds these words in normalised text, the longest first, never inside another word or number."""
    if not words:
        return None
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(r"(?<![a-z0-9])(?:" + "|".join(map(re.escape, longest_first)) + r")(?![a-z0-9])")


@lru_cache(maxsize=1)
def default_text() -> str:
    """The lexicon that ships with the appliance, as text. Raises Stop when it is missing."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_bundled" / "models" / "starter", package.parent / "models" / "starter"):
        if (folder / "lexicon.txt").is_file():
            return (folder / "lexicon.txt").read_text("utf-8")
    raise Stop("The Thai lexicon models/starter/lexicon.txt is missing; reinstall the appliance.")


_taken_up = ""


def take_up(lines: str) -> None:
    """From now on `default_lexicon` knows the plant's words too: `lines` come from `taught.lexicon_lines`.

    One for the whole process, as the model is: questions and records must be read by the same lexicon.
    """
    global _taken_up
    _taken_up = lines


def taken_up() -> str:
    """The lines in use."""
    return _taken_up


def default_lexicon() -> Lexicon:
    """The lexicon that ships with the appliance and the plant's own words. Raises Stop when it is missing."""
    return _parse(default_text() + _taken_up)
