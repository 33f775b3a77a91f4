"""The one ranking behind every search: page, API, command line and live board."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

import numpy as np

from edge.cases import COLLECTION, Case, Casebook, Language
from edge.config import Search
from edge.embedding import Encoder, detect_language, sparse_terms
from edge.errors import Rejected
from edge.indexing import Entity, load_entities, point_id
from edge.search import filters as narrowing
from edge.search.calibration import BANDS, Calibration, Calibrations, Judged, band_of, refine
from edge.search.diverse import POOL, mmr
from edge.search.feedback import Feedback
from edge.search.filters import Filters
from edge.search.fixes import FixBook, FixReport, Like
from edge.search.model import Answer, Asks, By, Heard, Hit, Mode, Question, Why
from edge.search.pages import Pages
from edge.search.points import Operator
from edge.search.scale import Cohorts, rescaled
from edge.search.vouching import REACH, SHARE, vouched
from edge.search.words import Coverage, matched
from edge.vectors import (
    COLLECTIONS,
    SPARSE_NAME,
    Filter,
    Point,
    SearchRequest,
    SparseVector,
    VectorStore,
    physical_name,
)

#: The same for the first ranking, from the index alone: its lexical scores are IDF-weighted products without a bound,
#: and half of the share is given at `LEXICAL_HALF`.
LEXICAL_SHARE = 0.15
LEXICAL_HALF = 25.0

#: How far down each of the rankings is read. The same for every page: the pages of one question are one ranking.
DEPTH = 100

#: What is read of each hit's payload: the rest of a row comes from Postgres, and only for the rows that are shown.
READ = ("key", "status", "language")

#: Characters of a question that are read at all; the encoder's own limit is lower and is reported.
LONGEST_QUESTION = 4_000

#: Questions that are encoded and sent to the index together.
TOGETHER = 16

#: Pairs that people judged, the latest, from which a calibration learns.
LEARNT_FROM = 2_000

#: The furthest a question is paged.
DEEPEST = 1_000

#: The collections of the cases: what is searched unless others are named.
CASES = tuple(COLLECTION.values())


@dataclass(frozen=True, slots=True)
class Weights:
    """What ranks. `texts`: what a cosine to each text of a case counts, by what the question asks about.

    `words`: how much of the gap between the dense score and 1 a record closes that holds every word of the question, by
    the language of the question and of the record. `vouching`: how much of the gap between its score and its likeness to
    the first results a case closes. Measured: docs/search.md, repeated by `edge evaluate --sweep`.
    """

    texts: Mapping[Asks, Mapping[str, float]]
    words: Mapping[tuple[str, str], float]
    vouching: float


#: A record answers by the text that answers best, whatever was asked: looking only through fixes for "how did we fix …"
#: loses two answers in three, because people name the symptom when they ask for its fix. A symptom counts a little more,
#: because that is what most questions tell.
WEIGHTS = Weights(
    texts={
        "any": {"symptom": 1.0, "cause": 0.95, "fix": 0.95, "text": 1.0},
        "symptom": {"symptom": 1.0, "text": 1.0},
        "cause": {"cause": 1.0, "text": 1.0},
        "fix": {"fix": 1.0, "text": 1.0},
    },
    words={("th", "th"): 0.5, ("en", "en"): 0.5, ("th", "en"): 0.5, ("en", "th"): 0.5},
    vouching=SHARE,
)


def best_text(cosines: Mapping[str, float], weights: Mapping[str, float]) -> tuple[float, By]:
    """The best weighted cosine and the text it belongs to; 0 and `words` without any."""
    weighted = {name: weights[name] * max(0.0, cosine) for name, cosine in cosines.items() if name in weights}
    best = max(weighted, key=lambda name: weighted[name], default="words")
    return weighted.get(best, 0.0), best  # type: ignore[return-value]


def added_by_words(dense: float, coverage: float, share: float) -> float:
    """What the words add to a dense score: a share of what is missing to 1."""
    return share * coverage * (1.0 - dense)


@dataclass(frozen=True, slots=True)
class Entry:
    """One place of a ranking. `dense`, `words` and `vouched` are the parts of `score`, `coverage` what `words` came from."""

    collection: str
    key: UUID
    status: str
    language: str
    score: float
    by: By
    dense: float
    words: float
    coverage: float
    cosines: Mapping[str, float]
    vouched: float = 0.0


@dataclass(frozen=True, slots=True)
class Ranking:
    """Everything a question found, best first: what its pages are cut from. `unread`: tokens that were not read;
    `heard`: what people said that has moved entries."""

    question: Question
    entries: tuple[Entry, ...]
    worth: Mapping[int, float]
    unread: int
    started: float
    calibration: Calibration
    heard: Mapping[UUID, Heard]


@dataclass(slots=True)
class _Candidate:
    collection: str
    key: UUID
    status: str
    language: str
    cosines: dict[str, float] = field(default_factory=dict)
    lexical: float = 0.0
    dense: float = 0.0
    by: By = "words"

    @property
    def first(self) -> float:
        """The score before any words were read: from the index alone."""
        words = self.lexical / (self.lexical + LEXICAL_HALF)
        return self.dense + LEXICAL_SHARE * words * (1.0 - self.dense)

    def entry(self, words: float, coverage: float, most: float = 1.0) -> Entry:
        score = min(most, self.dense + words)
        return Entry(
            self.collection, self.key, self.status, self.language, score, self.by, score - words, words, coverage,
            self.cosines,
        )  # fmt: skip


@dataclass(slots=True)
class _Search:
    """A question on its way to a ranking."""

    question: Question
    collections: tuple[str, ...]
    weights: Mapping[str, float]
    side: str
    vector: Any = None
    sparse: SparseVector | None = None
    worth: Mapping[int, float] = field(default_factory=dict)
    candidates: dict[UUID, _Candidate] = field(default_factory=dict)

    def order(self, candidate: _Candidate) -> tuple[float, int]:
        score = candidate.lexical if self.question.mode is Mode.LEXICAL else candidate.first
        return (-score, candidate.key.int)


class SearchEngine:
    """Thread-safe. Scores come from the index, facts from Postgres."""

    def __init__(
        self, casebook: Casebook, store: VectorStore, encoder: Encoder, settings: Search, *, weights: Weights = WEIGHTS
    ) -> None:
        self._casebook = casebook
        self._store = store
        self.encoder = self._encoder = encoder
        self._settings = settings
        self._weights = weights
        self.feedback = Feedback(casebook.database, encoder)
        self.calibrations = Calibrations(casebook.database, encoder.fingerprint)
        self._fixes = FixBook(casebook, store, encoder, self.feedback, return_days=settings.return_days)
        self._coverage = Coverage(casebook)
        self._cohorts = Cohorts(store)
        self._pages: Pages[Ranking] = Pages()
        self.index = Operator(casebook, store, encoder)

    def search(self, question: Question) -> Answer:
        """Raises `Rejected` for an empty or overlong question, a bad filter or page, `Unavailable` without the index."""
        return self.answer(self.rank([question])[0])

    def search_many(self, questions: Sequence[Question]) -> list[Answer]:
        """Several questions, encoded together and asked together. No cursors: a batch is not paged. Raises as `search`."""
        return [self.answer(ranking, keep=False) for ranking in self.rank(questions)]

    def next_page(self, cursor: str, *, limit: int = 10) -> Answer:
        """Goes on where the answer with this cursor ended, in that very ranking: nothing repeats and nothing is skipped,
        whatever has been indexed since. Raises `Gone` when the ranking is not kept any more, `Rejected` for no cursor.
        """
        ranking, offset = self._pages.find(cursor)
        started = time.perf_counter()
        page = replace(ranking.question, limit=limit, offset=offset)
        return self.answer(replace(ranking, question=page, started=started), cursor=cursor)

    def similar(self, case: Case, *, limit: int = 10, filters: Filters | None = None, **how: Any) -> Answer:
        """Past cases like this one, without itself. `how`: anything else a `Question` may say."""
        wanted = filters or Filters(statuses=("closed",))
        return self.search(Question(case.description, wanted, limit, like=case, **how))

    def search_and_fixes(self, question: Question, *, language: Language | None = None) -> tuple[Answer, FixReport]:
        """The answer and what fixed it, from one ranking over every status. Raises as `search`."""
        self._check_page(question)
        wanted = question.filters.statuses
        ranking = self.rank([replace(question, filters=replace(question.filters, statuses=()))])[0]
        report = self._report(ranking, language or detect_language(question.text))
        kept = tuple(entry for entry in ranking.entries if not wanted or entry.status in wanted)
        return self.answer(replace(ranking, question=question, entries=kept)), report

    def fixes(
        self,
        asked: Question | Case,
        *,
        filters: Filters | None = None,
        language: Language | None = None,
        now: datetime | None = None,
    ) -> FixReport:
        """What fixed it, over the cases like a question or like a case (without itself).

        `filters`: which cases count as like a case; a question brings its own. Statuses in either are passed over: only
        closed cases tell of fixes, and every one tells how often it happens. `language`: in which the fixes are told
        where they can be; that of the text unless given. Raises as `search`.
        """
        if isinstance(asked, Case):
            question = Question(asked.description, filters or Filters(), like=asked)
            spoken = language or asked.language
        else:
            question, spoken = asked, language or detect_language(asked.text)
        whole = replace(question, filters=replace(question.filters, statuses=()), mode=Mode.HYBRID)
        return self._report(self.rank([whole])[0], spoken, now)

    def status(self) -> dict[str, Any]:
        """Model, provider, fingerprint and points. Raises `Unavailable` without the index."""
        return {
            "model": self._encoder.name,
            "provider": self._encoder.provider,
            "fingerprint": self._encoder.fingerprint,
            "points": {name: self._store.count(self._physical(name)) for name in COLLECTIONS},
            "calibration": self.calibrations.current().origin,
        }

    def calibrate(self) -> Calibration:
        """Bend the prior by what people have said by now, and keep that. Without a word the prior itself is answered.

        Every judged pair is scored anew, as the search ranks it today without having been taught. Raises as `search`.
        """
        pairs = self.feedback.judged(LEARNT_FROM)
        prior = self.calibrations.prior()
        if not pairs:
            return prior
        cases = self._casebook.by_ids(sorted({pair.for_case_id for pair in pairs if pair.for_case_id}))
        questions: dict[object, Question] = {}
        for pair in pairs:
            about = cases.get(pair.for_case_id) if pair.for_case_id else None
            text = about.description if about else pair.question or ""
            questions[pair.subject] = Question(text, like=about, taught=False, explain=False)
        scores = {
            subject: {entry.key: entry.score for entry in ranking.entries}
            for subject, ranking in zip(questions, self.rank(list(questions.values())), strict=True)
        }
        judged = [Judged(scores[pair.subject].get(pair.case_id, 0.0), pair.same, pair.different) for pair in pairs]
        return self.calibrations.put(refine(prior, judged))

    def rank(self, questions: Sequence[Question]) -> list[Ranking]:
        """The whole ranking of each question. Encoder, index and Postgres are asked for many questions at once."""
        return [
            ranking
            for start in range(0, len(questions), TOGETHER)
            for ranking in self._rank(questions[start : start + TOGETHER])
        ]

    def answer(self, ranking: Ranking, *, keep: bool = True, cursor: str | None = None) -> Answer:
        """One page of a ranking: `question.offset` and `.limit` of it, with facts and reasons.

        `keep`: remember the ranking, so that its next page can be asked for; `cursor`: the one it was found by.
        """
        question = ranking.question
        self._check_page(question)
        end = question.offset + question.limit
        page = ranking.entries[question.offset : end]
        facts = self._facts(page)
        # A point whose row is gone is an orphan: never shown, removed by the next reconciliation.
        hits = tuple(self._hit(ranking, entry, facts[entry.key]) for entry in page if entry.key in facts)
        more = len(ranking.entries) > end
        following = None
        if more and keep and end < DEEPEST:
            following = self._pages.keep(replace(ranking, entries=ranking.entries[:DEEPEST]), end, cursor)
        elapsed = (time.perf_counter() - ranking.started) * 1000
        return Answer(hits, more, elapsed, ranking.unread, following)

    # --- one ranking ------------------------------------------------------------------------------------------------

    def _rank(self, questions: Sequence[Question]) -> list[Ranking]:
        started = time.perf_counter()
        searches = [self._prepared(question) for question in questions]
        self._encode(searches)
        self._find(searches)
        heads = []
        for search in searches:
            ordered = sorted(search.candidates.values(), key=search.order)
            heads.append((ordered[:REACH], ordered[REACH:]))
        held = self._held(
            [
                candidate
                for search, (head, _) in zip(searches, heads, strict=True)
                if search.question.mode is not Mode.LEXICAL
                for candidate in head
            ]
        )
        calibration = self.calibrations.current()
        rankings = []
        for search, (head, tail) in zip(searches, heads, strict=True):
            entries = self._fused(search, head, tail, held)
            entries = self._vouched(search, entries, len(head), held)
            entries, heard = self._taught(search.question, entries, calibration)
            if search.question.diversity:
                entries = self._diverse(entries, search.question.diversity)
            kept = tuple(entry for entry in entries if round(entry.score, 4) >= search.question.threshold)
            unread = max(0, self._encoder.token_count(search.question.text) - self._encoder.max_tokens)
            rankings.append(Ranking(search.question, kept, search.worth, unread, started, calibration, heard))
        return rankings

    def _prepared(self, question: Question) -> _Search:
        text = question.text.strip()
        if not text:
            raise Rejected("Type what happened: the question is empty.")
        if len(text) > LONGEST_QUESTION:
            raise Rejected(f"The question has {len(text)} characters; at most {LONGEST_QUESTION} are read.")
        if not 0 <= question.threshold <= 1 or not 0 <= question.diversity <= 1:
            raise Rejected("Threshold and diversity are numbers from 0 to 1.")
        collections = tuple(dict.fromkeys(question.collections)) or CASES
        for name in collections:
            if name not in COLLECTIONS:
                raise narrowing.BadFilter(
                    f"There is no collection {name!r}. Known are {', '.join(COLLECTIONS)}.", "collections", COLLECTIONS
                )
        narrowing.check(question.filters, collections)
        side = "en" if detect_language(text) == "en" else "th"
        return _Search(replace(question, text=text), collections, self._weights.texts[question.asks], side)

    def _encode(self, searches: Sequence[_Search]) -> None:
        dense = [search for search in searches if search.question.mode is not Mode.LEXICAL]
        vectors = self._encoder.encode([search.question.text for search in dense])
        for search, vector in zip(dense, vectors, strict=True):
            search.vector = vector
        for search in searches:
            if search.question.mode is not Mode.DENSE:
                words = sparse_terms(search.question.text)
                search.worth = self._coverage.worth(words)
                # A question without words has nothing to ask for when words alone are to rank.
                search.sparse = SparseVector(words.indices, words.values) if words.indices else None

    def _find(self, searches: Sequence[_Search]) -> None:
        now = datetime.now(UTC)
        for collection in COLLECTIONS:
            asked: list[tuple[_Search, SearchRequest]] = []
            for search in searches:
                if collection not in search.collections:
                    continue
                possible, where = narrowing.compiled(search.question.filters, collection, now)
                if not possible:
                    continue
                if search.vector is not None:
                    names = [name for name in COLLECTIONS[collection].vectors if name in search.weights]
                    asked += [(search, _candidates(search.vector, name, where)) for name in names]
                if search.sparse is not None:
                    asked.append((search, _candidates(search.sparse, SPARSE_NAME, where)))
            if not asked:
                continue
            found = self._store.search_many(self._physical(collection), [request for _, request in asked])
            for (search, request), hits in zip(asked, found, strict=True):
                itself = str(search.question.like.id) if search.question.like else None
                for hit in hits:
                    candidate = search.candidates.get(hit.id)
                    if candidate is None:
                        said = hit.payload
                        if said["key"] == itself:
                            continue
                        candidate = search.candidates[hit.id] = _Candidate(
                            collection, _key(said["key"]), str(said.get("status", "")), str(said.get("language", ""))
                        )
                    if request.using == SPARSE_NAME:
                        candidate.lexical = hit.score
                    else:
                        candidate.cosines[request.using] = hit.score
        for search in searches:
            self._weigh(search)

    def _weigh(self, search: _Search) -> None:
        """The dense score of every candidate: its best weighted cosine, on the scale of the cases."""
        others = [name for name in search.collections if name not in CASES]
        cases = here = None
        if search.vector is not None and others:
            cases = self._background(search, CASES[0])
            if cases is None:
                cases = self._background(search, CASES[1])
        by_collection = {name: self._background(search, name) for name in others} if cases is not None else {}
        for candidate in search.candidates.values():
            candidate.dense, candidate.by = best_text(candidate.cosines, search.weights)
            here = by_collection.get(candidate.collection)
            if here is not None:
                candidate.dense = rescaled(candidate.dense, here, cases)

    def _background(self, search: _Search, collection: str) -> float | None:
        return self._cohorts.background(self._physical(collection), search.vector, search.weights)

    def _fused(
        self,
        search: _Search,
        head: Sequence[_Candidate],
        tail: Sequence[_Candidate],
        held: Mapping[UUID, Point],
    ) -> list[Entry]:
        """Hybrid: the head ranked again by the words that its records hold; the tail follows, scoring no higher."""
        mode = search.question.mode
        if mode is Mode.DENSE:
            return sorted((one.entry(0.0, 0.0) for one in (*head, *tail)), key=_order)
        if mode is Mode.LEXICAL:
            # Words alone are not capped: their share is a rule of the fusion.
            return [one.entry(one.lexical / (one.lexical + LEXICAL_HALF), 0.0) for one in (*head, *tail)]
        ranked = []
        for one in head:
            covered = self._coverage.of(search.worth, _terms(held.get(one.key)))
            share = self._weights.words[search.side, "en" if one.language == "en" else "th"]
            ranked.append(one.entry(added_by_words(one.dense, covered, share), covered))
        ranked.sort(key=_order)
        floor = ranked[-1].score if ranked else 1.0
        return ranked + [one.entry(0.0, 0.0, floor) for one in tail]

    def _vouched(self, search: _Search, entries: list[Entry], head: int, held: Mapping[UUID, Point]) -> list[Entry]:
        """The first `head` entries raised by their likeness to the very first. Cases alone vouch, and for cases alone: what
        lies on other scales must not be lifted beside them."""
        if search.question.mode is Mode.LEXICAL or not set(search.collections) <= set(CASES):
            return entries
        vectors = np.zeros((head, self._encoder.dimension), np.float32)
        for row, entry in enumerate(entries[:head]):
            if (point := held.get(entry.key)) and (told := point.vectors.get("symptom")) is not None:
                vectors[row] = told
        gained = vouched(np.array([entry.score for entry in entries[:head]]), vectors, self._weights.vouching)
        raised = [
            replace(entry, score=entry.score + gain, vouched=gain)
            for entry, gain in zip(entries, gained.tolist(), strict=False)
        ]
        return sorted(raised, key=_order) + entries[head:]

    def _taught(
        self, question: Question, entries: list[Entry], calibration: Calibration
    ) -> tuple[list[Entry], Mapping[UUID, Heard]]:
        """The ranking after what people said about it: the one place where they move a score."""
        if not question.taught or question.mode is not Mode.HYBRID:
            return entries, {}
        itself = question.like.id if question.like else None
        keys = [entry.key for entry in entries if entry.collection in CASES]
        heard = self.feedback.heard(question.text, keys, calibration, itself=itself)
        if not heard:
            return entries, {}
        moved = [
            replace(entry, score=heard[entry.key].moved(entry.score)) if entry.key in heard else entry
            for entry in entries
        ]
        return sorted(moved, key=_order), heard

    def _held(self, wanted: Sequence[_Candidate]) -> dict[UUID, Point]:
        """Terms and symptoms of some candidates as the index has them: reading them off the texts takes far longer."""
        found: dict[UUID, Point] = {}
        for collection, defined in COLLECTIONS.items():
            keys = {point_id(collection, one.key): one.key for one in wanted if one.collection == collection}
            names = tuple(name for name in (SPARSE_NAME, "symptom") if name == SPARSE_NAME or name in defined.vectors)
            for point in self._store.get(self._physical(collection), keys, with_vectors=names) if keys else []:
                found[keys[point.id]] = point
        return found

    def _diverse(self, entries: list[Entry], diversity: float) -> list[Entry]:
        pool = entries[:POOL]
        vectors = np.zeros((len(pool), self._encoder.dimension), np.float32)
        for collection in COLLECTIONS:
            rows = {
                point_id(collection, entry.key): row for row, entry in enumerate(pool) if entry.collection == collection
            }
            for point in self._store.get(self._physical(collection), rows, with_vectors=True) if rows else []:
                first = next(
                    (point.vectors[name] for name in COLLECTIONS[collection].vectors if name in point.vectors), None
                )
                if first is not None:
                    vectors[rows[point.id]] = first
        return [pool[row] for row in mmr([entry.score for entry in pool], vectors, diversity)] + entries[POOL:]

    # --- facts and reasons --------------------------------------------------------------------------------------------

    def _facts(self, wanted: Sequence[Entry]) -> dict[UUID, Case | Entity]:
        """The rows of Postgres behind some candidates, whatever their collections."""
        facts: dict[UUID, Case | Entity] = {}
        if cases := {one.key for one in wanted if one.collection in CASES}:
            facts.update(self._casebook.by_ids(sorted(cases)))
        others = [name for name in COLLECTIONS if name not in CASES]
        for name in others:
            if keys := {one.key for one in wanted if one.collection == name}:
                with self._casebook.database.transaction() as tx:
                    facts.update(load_entities(tx, name, sorted(keys)))
        return facts

    def _hit(self, ranking: Ranking, entry: Entry, record: Case | Entity) -> Hit:
        heard = ranking.heard.get(entry.key)
        probability = ranking.calibration.probability(entry.score)
        band = band_of(probability)
        if not ranking.question.explain:
            return Hit(
                record, round(entry.score, 4), band, entry.by, entry.collection,
                probability=round(probability, 4), heard=heard,
            )  # fmt: skip
        terms, marks, numbers = matched(ranking.question.text, ranking.worth, texts_of(record))
        like, why = ranking.question.like, {}
        if like is not None:
            why = {
                "place": _shared_place(like, record),
                "camera": isinstance(record, Case)
                and like.camera_id is not None
                and like.camera_id == record.camera_id,
                "worker": isinstance(record, Case)
                and like.worker_id is not None
                and like.worker_id == record.worker_id,
            }
        return Hit(
            record, round(entry.score, 4), band, entry.by, entry.collection,
            Why(
                dense=round(entry.dense, 4), words=round(entry.words, 4), vouched=round(entry.vouched, 4),
                coverage=round(entry.coverage, 4),
                cosines={name: round(cosine, 4) for name, cosine in entry.cosines.items()},
                terms=terms, marks=marks, numbers=numbers, **why,  # type: ignore[arg-type]
            ),
            probability=round(probability, 4),
            heard=heard,
        )  # fmt: skip

    def _report(self, ranking: Ranking, language: Language, now: datetime | None = None) -> FixReport:
        cases = [entry for entry in ranking.entries if entry.collection in CASES]
        odds = ranking.calibration.probability
        # Whether a problem is known or new is judged before any case vouched for another.
        own = [(entry.dense + entry.words, ranking.heard.get(entry.key)) for entry in cases]
        nearest = max((heard.moved(score) if heard else score for score, heard in own), default=None)
        near = [entry for entry in cases if odds(entry.score) >= BANDS["similar"]]
        known = self._facts(near)
        like = []
        for entry in near:
            case = known.get(entry.key)
            if isinstance(case, Case):
                like.append(Like(case, entry.score, odds(entry.score)))
        return self._fixes.report(
            like,
            nearest=None if nearest is None else round(nearest, 4),
            best=cases[0].score if cases else None,
            language=language,
            now=now or datetime.now(UTC),
            physical=self._physical,
            calibration=ranking.calibration,
            started=ranking.started,
        )

    def _check_page(self, question: Question) -> None:
        end = question.offset + question.limit
        if not 1 <= question.limit <= self._settings.limit_max or question.offset < 0 or end > DEEPEST:
            raise Rejected(
                f"A search returns 1 to {self._settings.limit_max} results (search.limit_max), and {DEEPEST} by paging."
            )

    def _physical(self, collection: str) -> str:
        # By its own name and never by the alias: vectors of two encoders must not be compared, not even during a switch.
        return physical_name(collection, self._encoder.fingerprint)


def _candidates(vector: Any, using: str, where: Filter | None) -> SearchRequest:
    return SearchRequest(vector, using, where, DEPTH, fields=READ, settle_ties=False)


def texts_of(record: Case | Entity) -> dict[str, str]:
    """The texts of a record by name, those that it has."""
    if isinstance(record, Case):
        texts = {"symptom": record.description, "cause": record.root_cause, "fix": record.resolution}
    else:
        texts = {"title": record.title, "text": record.text}
    return {name: text for name, text in texts.items() if text}


def _shared_place(like: Case, record: Case | Entity) -> str | None:
    zone_id = record.zone_id if isinstance(record, Case) else record.fields.get("zone_id")
    if like.zone_id is None or zone_id is None:
        return None
    if like.zone_id == zone_id:
        return "zone"
    mine, other = like.zone, record.zone if isinstance(record, Case) else None
    if mine is None or other is None or mine.area_id != other.area_id:
        return None
    return "line" if mine.line == other.line else "area"


#: The same cases come up in one search after the other, and making a UUID of its text takes longer than finding it.
_key = lru_cache(maxsize=20_000)(UUID)


def _terms(point: Point | None) -> frozenset[int]:
    return frozenset() if point is None or point.sparse is None else frozenset(point.sparse.indices.tolist())


def _order(entry: Entry) -> tuple[float, int]:
    return (-entry.score, entry.key.int)
