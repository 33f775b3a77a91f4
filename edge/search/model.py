"""What is asked and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from edge.cases import Case
from edge.indexing import Entity
from edge.search.filters import ANY, Filters

#: How likely the same problem, in words. Each band's lower bound stands in `edge.search.calibration.BANDS`.
Band = Literal["same", "very_similar", "similar", "weak"]

#: Which text of a record answered best: one of a case's three, the one text of any other record, or words alone.
By = Literal["symptom", "cause", "fix", "text", "words"]

#: Which texts of a case are compared with a question: all, or one alone.
Asks = Literal["any", "symptom", "cause", "fix"]


#: Where a result that people hold apart ends, at most: below every band but the last.
APART = 0.3

#: Net voices in favour of a result that close half of the gap between its score and 1.
HALF_LIFT = 1.0


class Mode(StrEnum):
    """Which scores rank: cosines alone, words alone, or cosines raised by words (what everybody gets)."""

    DENSE = "dense"
    LEXICAL = "lexical"
    HYBRID = "hybrid"


@dataclass(frozen=True, slots=True)
class Question:
    """`text`: what a person typed, Thai, English or mixed. `offset` + `limit` page through one ranking.

    `collections`: empty means the cases. `like`: the case the text is of; it is not among the results.
    `threshold`: only results that score at least this, 0..1. `diversity`: 0 ranks by likeness alone, 1 by unlikeness to
    the results before; see `edge.search.diverse`. `explain`: whether each result says why. `taught`: whether what people
    said about results counts (in hybrid mode; the other two rank by the index alone).
    """

    text: str
    filters: Filters = ANY
    limit: int = 10
    offset: int = 0
    mode: Mode = Mode.HYBRID
    collections: tuple[str, ...] = ()
    asks: Asks = "any"
    threshold: float = 0.0
    diversity: float = 0.0
    like: Case | None = None
    explain: bool = True
    taught: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of a text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Matched:
    """A term of the question that the record holds. `asked` and `found`: the words as they were typed on either side.

    `inferred`: by meaning across the languages, not by the letters. `worth`: its share of all that the question's words
    are worth, 0..1.
    """

    asked: str
    found: str
    inferred: bool
    worth: float


@dataclass(frozen=True, slots=True)
class Why:
    """Why a result stands where it stands. `dense` + `words` + `vouched` = the score.

    `dense`: the best weighted cosine; `cosines`: of each text, unweighted. `words`: what the shared words added, and
    `coverage` the share of the question's words that the record holds. `vouched`: what likeness to
    the first results added. `marks`: text (symptom, cause, fix, text) → where its words are to be marked. `place`: what
    it shares with the case that was asked about, narrowest first. `numbers`: machine and part numbers on both sides, as
    they stand in the record.
    """

    dense: float = 0.0
    words: float = 0.0
    vouched: float = 0.0
    coverage: float = 0.0
    cosines: Mapping[str, float] = field(default_factory=dict)
    terms: tuple[Matched, ...] = ()
    marks: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    place: Literal["zone", "line", "area"] | None = None
    numbers: tuple[str, ...] = ()
    camera: bool = False
    worker: bool = False


@dataclass(frozen=True, slots=True)
class Heard:
    """What people said that bears on one result: how many of them said what, and its weight.

    `agree`, `disagree`: those voices weighted by how close the text they judged is to the one asked, each 0..1.
    """

    same: int = 0
    different: int = 0
    helped: int = 0
    agree: float = 0.0
    disagree: float = 0.0

    def moved(self, score: float) -> float:
        """`score` after the voices, 0..1.

        The majority decides, by `net` voices. In favour, the gap to 1 closes by net / (net + HALF_LIFT). Against, the
        score falls to `APART` by net, wholly from one voice on that judged this very pair; it never rises by that.
        """
        net = self.agree - self.disagree
        if net > 0:
            return score + (1 - score) * net / (net + HALF_LIFT)
        return score - max(0.0, score - APART) * min(1.0, -net)


@dataclass(frozen=True, slots=True)
class Hit:
    """`score` is 0..1, higher is more alike; `by` says which text of the record answered best.

    `probability`: that it is about the same problem, as calibrated. `heard`: what people said that has moved it.

    `record`: a case, or the row behind any other point: a chunk of a document, a work sequence, a worker's pattern.
    """

    record: Case | Entity
    score: float
    band: Band
    by: By
    collection: str
    why: Why = Why()
    probability: float = 0.0
    heard: Heard | None = None

    @property
    def case(self) -> Case:
        """The case. Only where the search was over cases: anything else is a `TypeError`."""
        if not isinstance(self.record, Case):
            raise TypeError(f"{self.record.record_id} of {self.collection} is no case.")
        return self.record


@dataclass(frozen=True, slots=True)
class Answer:
    """`milliseconds`: from question to ranked facts. `unread_tokens`: how much of a long question was not read.

    `cursor`: for the next page of this very ranking, None on the last or where nobody may page.
    """

    hits: tuple[Hit, ...]
    more: bool
    milliseconds: float
    unread_tokens: int = 0
    cursor: str | None = None
