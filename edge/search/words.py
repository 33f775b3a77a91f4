"""How many of a question's words a record holds, rare words counting more than common ones, and where they stand."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

from edge.cases import Casebook
from edge.embedding import SparseTerms, Term, sparse_terms, term_index, terms
from edge.errors import Unavailable
from edge.indexing import lexical_text
from edge.search.model import Matched, Span

#: Cases whose words are counted to learn which are rare. An estimate is enough: it only weighs words.
SAMPLE = 1_000

#: Seconds until the count is made again.
STALE = 900.0

#: A meaning that was only inferred is not shown as a reason below this share of the question.
LEAST_INFERRED = 0.001


class Coverage:
    """0 when a text holds none of a question's words, 1 when it holds all. Thread-safe.

    The sum over the shared terms of weight² · idf, divided by the same sum over all terms of the question, with
    idf = ln(1 + (n - df + 0.5) / (df + 0.5)) as BM25 has it. Bounded, so that a short question and a long one compare.
    """

    def __init__(self, casebook: Casebook) -> None:
        self._casebook = casebook
        self._lock = threading.Lock()
        self._counted: tuple[int, Mapping[int, int]] | None = None
        self._until = 0.0

    def of(self, question: Mapping[int, float], held: Collection[int]) -> float:
        """`question`: what `worth` says of it. `held`: the terms of a record."""
        return sum(worth for term, worth in question.items() if term in held)

    def worth(self, question: SparseTerms) -> dict[int, float]:
        """What share of the question each of its terms is; together 1, and nothing for a question without words."""
        cases, seen = self._frequencies()
        found = {}
        for term, weight in zip(question.indices, question.values, strict=True):
            held = seen.get(term, 0)
            found[term] = weight * weight * math.log(1 + (cases - held + 0.5) / (held + 0.5))
        whole = sum(found.values())
        return {term: value / whole for term, value in found.items()} if whole else {}

    def _frequencies(self) -> tuple[int, Mapping[int, int]]:
        with self._lock:
            if self._counted is None:
                self._counted = self._count()
            elif time.monotonic() > self._until:
                # Nobody waits for it: a count that is a little old weighs words as well.
                self._until = time.monotonic() + STALE
                threading.Thread(target=self._count_again, name="word-count", daemon=True).start()
            return self._counted

    def _count(self) -> tuple[int, Mapping[int, int]]:
        sample = self._casebook.sample(SAMPLE)
        self._until = time.monotonic() + STALE
        return len(sample), Counter(term for case in sample for term in _terms_of(lexical_text(case)))

    def _count_again(self) -> None:
        try:
            counted = self._count()
        except Unavailable:
            return
        with self._lock:
            self._counted = counted


def matched(
    asked: str, worth: Mapping[int, float], texts: Mapping[str, str]
) -> tuple[tuple[Matched, ...], dict[str, tuple[Span, ...]], tuple[str, ...]]:
    """The question's words that `texts` hold, worthiest first; where they stand in each; the numbers on both sides.

    `worth`: as `Coverage.worth` has it for `asked`.
    """
    wanted: dict[str, Term] = {}
    for term in _places_of(asked):
        if not _is_part(term) and (term.term not in wanted or term.weight > wanted[term.term].weight):
            wanted[term.term] = term
    found: dict[tuple[int, int], list[tuple[Term, Term, str, float]]] = defaultdict(list)
    marks: dict[str, list[Span]] = {}
    numbers: dict[str, None] = {}
    for name, text in texts.items():
        held: dict[tuple[int, int], list[Term]] = defaultdict(list)
        for term in _places_of(text):
            held[term.start, term.end].append(term)
        for place, here in held.items():
            shared = [term for term in here if term.term in wanted and not _is_part(term)]
            grams = [term for term in here if term.term.startswith("g:")]
            if not shared or (grams and 2 * sum(term.term in wanted for term in grams) < len(grams)):
                continue
            for term in shared:
                mine, value = wanted[term.term], worth.get(term_index(term.term), 0.0)
                if (mine.surface and term.surface) or value >= LEAST_INFERRED:
                    found[mine.start, mine.end].append((mine, term, text[slice(*place)], value))
                    marks.setdefault(name, []).append(Span(*place))
                if "|" in term.term and term.term.startswith("n:"):
                    numbers.setdefault(text[slice(*place)])
    reasons = []
    for (start, end), pairs in found.items():
        _, _, word, _ = max(pairs, key=lambda pair: (pair[0].surface and pair[1].surface, pair[3]))
        value = sum({term.term: value for term, _, _, value in pairs}.values())
        letters = any(mine.surface and term.surface for mine, term, _, _ in pairs)
        reasons.append(Matched(asked[start:end], word, not letters, round(value, 4)))
    reasons.sort(key=lambda one: (-one.worth, one.asked))
    return tuple(reasons), {name: _joined(spans) for name, spans in marks.items()}, tuple(numbers)


def _is_part(term: Term) -> bool:
    """A bare part of a number, such as the 2 of CONV-002: it ranks a little, but it is no reason to show."""
    return term.weight <= 0.5 and term.term.startswith("n:")


def _joined(spans: Sequence[Span]) -> tuple[Span, ...]:
    """In order, overlapping and touching ones as one."""
    joined: list[Span] = []
    for span in sorted(spans, key=lambda one: (one.start, one.end)):
        if joined and span.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return tuple(joined)


@lru_cache(maxsize=20_000)
def _terms_of(text: str) -> frozenset[int]:
    return frozenset(sparse_terms(text).indices)


@lru_cache(maxsize=2_000)
def _places_of(text: str) -> tuple[Term, ...]:
    return tuple(terms(text))
