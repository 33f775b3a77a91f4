"""One spelling for every text: Thai typing habits undone, Latin case-folded, with a map back to what was typed.

Thai is typed in many byte orders that look alike on screen: two SARA E for SARA AE, tone and vowel swapped, SARA AM
as two characters, a tone mark after SARA AA. Query and index must not differ by those, so both pass through here and
nowhere else. Change a rule, and `NORMALISATION` changes, and with it every encoder's fingerprint.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

__all__ = ["NORMALISATION", "Language", "Normalised", "align", "detect_language", "normalise"]

NORMALISATION = "thai-latin-4"

Language = Literal["th", "en", "mixed"]

_INVISIBLE = "\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
_TONES = "\u0e48-\u0e4b"
# What one person sees as one written sign, so that every rule works inside one chunk and offsets stay exact.
_WRITTEN = (
    rf"\s+"
    rf"|\u0e40[{_INVISIBLE}]*\u0e40[\u0300-\u036f{_INVISIBLE}]*"
    rf"|(?P<again>[\u0e01-\u0e2e])(?:[{_INVISIBLE}]*(?P=again)){{2,}}(?![{_INVISIBLE}]*[{_MARKS}\u0e32\u0e33\u0e45])"
    rf"|[\u0e01-\u0e30][{_MARKS}{_INVISIBLE}]*(?:[\u0e32\u0e33\u0e45][{_TONES}{_INVISIBLE}]*)?"
    rf"|.[\u0300-\u036f{_INVISIBLE}]*"
)
_CHUNK = re.compile(_WRITTEN, re.DOTALL)
# Most of every text: runs in which each chunk is spelt as it should be, but for the case of Latin letters.
_RUNS = re.compile(
    rf"(?P<plain>[!-~]+(?![\u0300-\u036f{_INVISIBLE}])"
    rf"|(?:(?:(?P<base>[\u0e01-\u0e30])(?!(?P=base))[\u0e31\u0e34-\u0e3a\u0e47]?[{_TONES}]?\u0e4c?[\u0e32\u0e33]?"
    rf"|\u0e40(?!\u0e40)|[\u0e41-\u0e44\u0e46])(?![{_MARKS}\u0e32\u0e33\u0e45\u0300-\u036f{_INVISIBLE}]))+)"
    rf"|{_WRITTEN}",
    re.DOTALL,
)
_INVISIBLE_RUN = re.compile(rf"[{_INVISIBLE}]+")
_LIKE_ASCII: dict[int, str] = {ord("๐") + i: str(i) for i in range(10)}
_LIKE_ASCII |= dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"), "-")
_LIKE_ASCII |= dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u00b4"), "'")
_LIKE_ASCII |= dict.fromkeys(map(ord, "\u201c\u201d"), '"')
_LIKE_ASCII[ord("\u00d7")] = "x"
_THAI_WORDISH = re.compile(r"[\u0e01-\u0e4e]")
_LATIN_WORD = re.compile(r"(?<![\w-])[a-z][a-z']+(?![\w-]*\d)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Normalised:
    """A normalised text and, for each of its characters, where in the typed text it came from.

    `starts[i]` and `ends[i]` bound the typed characters behind `text[i]`; both have the length of `text`.
    """

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The typed characters behind `text[start:end]`, which must not be empty."""
        return self.starts[start], self.ends[end - 1]


@lru_cache(maxsize=8192)
def _chunk(typed: str) -> str:
    if typed.isspace():
        return " "
    text = _INVISIBLE_RUN.sub("", typed)
    if not text:
        return ""
    if text.startswith("\u0e40\u0e40"):
        return "\u0e41"
    if len(text) > 2 and len(set(text)) == 1 and "\u0e01" <= text[0] <= "\u0e2e":
        return text[0]
    if not "\u0e00" <= text[0] <= "\u0e7f":
        return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text).casefold().translate(_LIKE_ASCII))
    text = unicodedata.normalize("NFC", text).translate(_LIKE_ASCII)
    return _cluster(text) if len(text) > 1 else text.replace("\u0e45", "\u0e32")


def _cluster(text: str) -> str:
    """One consonant with everything above, below and after it, in the one order Thai dictionaries use."""
    base, rest = text[0], text[1:]
    tail = ""
    if any(c in "\u0e32\u0e33\u0e45" for c in rest):
        # NIKHAHIT followed by SARA AA is how many keyboards and PDF extractors spell SARA AM.
        tail = "\u0e33" if "\u0e33" in rest or "\u0e4d" in rest else "\u0e32"
        rest = rest.replace("\u0e4d", "")
    above = [c for c in rest if c in "\u0e31\u0e34\u0e35\u0e36\u0e37\u0e38\u0e39\u0e3a\u0e47\u0e4d"]
    tones = [c for c in rest if "\u0e48" <= c <= "\u0e4b"]
    silent = "\u0e4c" if "\u0e4c" in rest else ""
    return base + "".join(dict.fromkeys(above)) + (tones[0] if tones else "") + silent + tail


def align(text: str) -> Normalised:
    """Normalise and remember which typed characters each normalised character came from."""
    out: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for match in _CHUNK.finditer(text):
        piece = _chunk(match.group())
        if piece == " " and (not out or out[-1] == " "):
            continue
        out.extend(piece)
        starts.extend([match.start()] * len(piece))
        ends.extend([match.end()] * len(piece))
    if out and out[-1] == " ":
        del out[-1], starts[-1], ends[-1]
    return Normalised("".join(out), tuple(starts), tuple(ends))


def normalise(text: str) -> str:
    """The one spelling under which a text is embedded, cached and compared. Idempotent; may be empty.

    The text of `align`, some five times as fast.
    """
    out: list[str] = []
    last = " "
    for match in _RUNS.finditer(text):
        plain = match["plain"]
        piece = _chunk(match.group()) if plain is None else plain.lower()
        if piece and not (piece == " " and last == " "):
            out.append(piece)
            last = piece[-1]
    if last == " " and out:
        out[-1] = out[-1][:-1]
    return "".join(out)


def detect_language(text: str) -> Language:
    """Thai, English or both, by script alone. Machine numbers such as CONV-002 say nothing and are not counted."""
    thai = len(_THAI_WORDISH.findall(text))
    latin = sum(len(word) for word in _LATIN_WORD.findall(text))
    if not thai:
        return "en"
    return "th" if latin <= 0.25 * (thai + latin) else "mixed"
