"""What fixed it: over the cases like a question, the fixes that were tried and how each of them did."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from math import comb, sqrt
from statistics import median
from typing import Literal, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from edge.cases import COLLECTION, Case, Casebook, Language
from edge.cases.model import VAGUE_TYPES
from edge.embedding import Encoder, normalise, terms
from edge.indexing import point_id
from edge.search.calibration import BANDS, Calibration, Logistic
from edge.search.feedback import Feedback
from edge.search.model import Band
from edge.vectors import VectorStore

Trend = Literal["rising", "falling", "steady"]
Floats: TypeAlias = NDArray[np.float32]

#: What counts when two fixes are compared. A fix is a remedy for a cause of a symptom, and short fixes ("cleaned it")
#: say little alone. Doing the same kind of thing speaks for one fix, doing another against it.
FIX_SHARE, CAUSE_SHARE, SYMPTOM_SHARE, ACTION_SHARE = 0.6, 0.2, 0.2, 0.15

#: Two groups are one fix when their cases are, on average, this likely to tell the same. High on purpose: a fix that is
#: shown twice costs a line, two fixes counted as one tell a lie. The figures stand in docs/search.md.
SAME_FIX = 0.7

#: What is done to a thing. Two fixes that do different things to the same part are two: cleaning a sensor does not
#: replace it. English words, to which the lexicon leads Thai ones.
ACTIONS: Mapping[str, str] = {
    "clean": "clean wipe wash blow blew flush polish scrape scrub rinse unblock clear vacuum degrease dust descale",
    "replace": "replace replaced change changed swap swapped renew fit fitted install installed exchange",
    "adjust": "adjust set align realign calibrate tune raise lower reduce increase teach retaught reteach relearn",
    "tighten": "tighten retighten fasten screw lock secure clamp torque",
    "fill": "fill refill top topped add recharge lubricate grease",
    "repair": "repair fix fixed weld patch mend seal rebuild overhaul",
    "restart": "reset restart reboot start power",
    "move": "move reroute relocate remove",
    "train": "train brief talk remind teach sign label notice",
}

#: Days of each of the two spans that recurrence compares.
SPAN_DAYS = 90

#: The two spans differ when chance alone would do it less often than this.
TREND_ALPHA = 0.10

#: With fewer cases than this in both spans together, even a doubling would often go unseen: "steady" is not said.
STEADY_LEAST = 10

#: Standard deviations of a 95 % interval.
Z95 = 1.959964

#: Like cases whose fixes are compared pair by pair, the most similar ones.
MOST_COMPARED = 200


@dataclass(frozen=True, slots=True)
class Like:
    """A case like the question; `score` is 0..1, `probability` that it is the same problem."""

    case: Case
    score: float
    probability: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A share that lies between `low` and `high` (0..1) with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Fix:
    """One fix, as it was told most recently by a case where it held, in the language asked for if there is one.

    `worked` of `tried` cases held; `unknown` more were closed without anybody knowing and count in neither.
    `interval` is None while nobody knows of any. `returned`: cases that came back within `days`, or of
    which people said so, of `watched` whose days are over. `cases`: record ids, most similar first.
    `similarity`: score of the most similar one, `probability` that it is the same problem, both 0..1.
    """

    text: str
    language: Language
    told_by: str
    worked: int
    tried: int
    unknown: int
    interval: Interval | None
    median_minutes: float | None
    returned: int
    watched: int
    last_used: datetime
    similarity: float
    probability: float
    cases: tuple[str, ...]
    days: int

    @property
    def low(self) -> float:
        """What can be relied on: the lower bound of the share that held, 0 where nothing is known."""
        return self.interval.low if self.interval else 0.0


@dataclass(frozen=True, slots=True)
class PlaceCount:
    """`zone_id` None: the place is not known."""

    zone_id: str | None
    name_th: str | None
    name_en: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Recurrence:
    """How often the like cases happened, closed or not. `trend` is None where the numbers do not allow to say.

    `last` and `before` count the latest `SPAN_DAYS` and as many days before them; `before` is None where the history
    does not reach back that far. `places`: most often first.
    """

    times: int
    first: datetime | None
    latest: datetime | None
    places: tuple[PlaceCount, ...]
    last: int
    before: int | None
    trend: Trend | None


@dataclass(frozen=True, slots=True)
class FixReport:
    """`known`: the probability that the history holds this problem at all, judged by the score of the nearest case
    (`nearest`, None in an empty history); `new`: that is less likely than not.

    `closed`: like cases that could tell of a fix; `untold` of them did not. `fixes`: best first, by what can be relied
    on times how alike the cases are.
    """

    new: bool
    known: float
    band: Band | None
    nearest: float | None
    closed: int
    untold: int
    fixes: tuple[Fix, ...]
    recurrence: Recurrence
    milliseconds: float

    @property
    def likely(self) -> tuple[Fix, ...]:
        """The fixes worth a glance: of a case very like this one, or tried in several. A single similar case may well
        have had another problem, and what it says stands with it."""
        return tuple(fix for fix in self.fixes if fix.probability >= BANDS["very_similar"] or len(fix.cases) > 1)


def wilson(worked: int, tried: int) -> Interval | None:
    """The 95 % score interval of a share (Wilson 1927), honest for small numbers; None when nothing was tried."""
    if tried <= 0:
        return None
    share, z2 = worked / tried, Z95 * Z95
    centre = (share + z2 / (2 * tried)) / (1 + z2 / tried)
    half = Z95 / (1 + z2 / tried) * sqrt(share * (1 - share) / tried + z2 / (4 * tried * tried))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def trend(last: int, before: int) -> Trend | None:
    """Whether `last` cases in one span against `before` in as long a one is more than chance, None if unclear.

    Two-sided exact test: with equal rates, `last` of `last + before` is binomial with p = 1/2 (Przyborowski and
    Wilenski 1940).
    """
    total, most = last + before, max(last, before)
    chance = min(1.0, 2 * sum(comb(total, k) for k in range(most, total + 1)) / 2**total)
    if chance < TREND_ALPHA:
        return "rising" if last > before else "falling"
    return "steady" if total >= STEADY_LEAST else None


@lru_cache(maxsize=20_000)
def actions(fix: str) -> frozenset[str]:
    """Which of `ACTIONS` a fix names."""
    known = _verbs()
    return frozenset(kind for term in terms(fix) for kind in known.get(term.term, ()))


@lru_cache(maxsize=1)
def _verbs() -> Mapping[str, tuple[str, ...]]:
    # Through the same terms as the texts, so that both are stemmed alike.
    found: dict[str, tuple[str, ...]] = {}
    for kind, words in ACTIONS.items():
        for word in words.split():
            for term in terms(word):
                if kind not in found.get(term.term, ()):
                    found[term.term] = (*found.get(term.term, ()), kind)
    return found


def likeness(
    fixes: Floats, causes: Floats, symptoms: Floats, told: NDArray[np.bool_], done: Sequence[frozenset[str]]
) -> NDArray[np.float64]:
    """How much the fixes of n cases are one, [n, n], from unit vectors [n, dimension] of three texts of each.

    `told` [n]: whether the cause is known, else the fix stands in for it. `done`: the actions of each fix; the share of
    them that two fixes have in common (Jaccard) moves the rest up or down, not at all where a fix names none.
    """
    by_fix = (fixes @ fixes.T).astype(np.float64)
    by_cause = np.where(np.outer(told, told), causes @ causes.T, by_fix)
    by_action = np.array([[len(a & b) / len(a | b) if a and b else 0.5 for b in done] for a in done])
    texts = FIX_SHARE * by_fix + CAUSE_SHARE * by_cause + SYMPTOM_SHARE * (symptoms @ symptoms.T)
    found: NDArray[np.float64] = texts + ACTION_SHARE * (by_action - 0.5)
    return found


def group(alike: NDArray[np.float64], least: float = SAME_FIX) -> list[list[int]]:
    """Average-linkage clusters (UPGMA) of the rows of `alike` [n, n], merged while groups are at least `least` alike.

    Two rows at -inf are never in one group. Rows ascend within a group and groups by their first row; the same input
    always gives the same groups.
    """
    groups = [[row] for row in range(len(alike))]
    between = alike.copy()
    np.fill_diagonal(between, -np.inf)
    while len(groups) > 1:
        a, b = sorted(int(at) for at in np.unravel_index(int(np.argmax(between)), between.shape))
        if between[a, b] < least:
            break
        size_a, size_b = len(groups[a]), len(groups[b])
        merged = (size_a * between[a] + size_b * between[b]) / (size_a + size_b)
        between[a], between[:, a] = merged, merged
        between[a, a] = -np.inf
        between = np.delete(np.delete(between, b, 0), b, 1)
        groups[a] = sorted(groups[a] + groups.pop(b))
    return sorted(groups)


class FixBook:
    """Reads what fixed the cases a search found. Thread-safe."""

    def __init__(
        self, casebook: Casebook, store: VectorStore, encoder: Encoder, feedback: Feedback, *, return_days: int = 30
    ) -> None:
        self._casebook = casebook
        self._days = return_days
        self._feedback = feedback
        self._store = store
        self._encoder = encoder

    def report(
        self,
        like: Sequence[Like],
        *,
        nearest: float | None,
        best: float | None,
        language: Language,
        now: datetime,
        physical: Callable[[str], str],
        calibration: Calibration,
        started: float,
    ) -> FixReport:
        """`like`: most similar first; `physical`: the collection that holds a kind's vectors now. `nearest` tells whether the
        problem is known, `best` is the score of the first case as it is shown.

        `started`: the `perf_counter` from which time is counted. Raises `Unavailable`.
        """
        closed = [one for one in like if one.case.status == "closed"]
        telling = [one for one in closed if one.case.resolution][:MOST_COMPARED]
        back, begins = self._came_back(closed, like)
        fixes = [
            _fix([telling[row] for row in rows], language, back, now, self._days)
            for rows in (group(self._likeness(telling, physical, calibration.fix)) if telling else [])
        ]
        fixes.sort(key=lambda fix: (-fix.low * fix.probability, fix.tried - fix.worked, -fix.similarity, fix.told_by))
        return FixReport(
            new=calibration.is_new(nearest),
            known=round(calibration.known_at(nearest), 4),
            band=None if best is None else calibration.band(best),
            nearest=nearest,
            closed=len(closed),
            untold=sum(not one.case.resolution for one in closed),
            fixes=tuple(fixes),
            recurrence=recurrence([one.case for one in like], now=now, begins=begins),
            milliseconds=(time.perf_counter() - started) * 1000,
        )

    def _likeness(
        self, telling: Sequence[Like], physical: Callable[[str], str], curve: Logistic
    ) -> NDArray[np.float64]:
        """How likely each pair of fixes is one, [n, n]; 1 or -inf where people have said so."""
        cases = [one.case for one in telling]
        found: dict[UUID, Mapping[str, Floats]] = {}
        for kind, collection in COLLECTION.items():
            wanted = {point_id(collection, case.id): case.id for case in cases if case.kind == kind}
            if wanted:
                for point in self._store.get(physical(collection), wanted, with_vectors=True):
                    found[wanted[point.id]] = {name: np.asarray(v, np.float32) for name, v in point.vectors.items()}
        alike = curve.of(
            likeness(
                self._vectors(cases, found, "fix", [case.resolution or "" for case in cases]),
                self._vectors(cases, found, "cause", [case.root_cause or "" for case in cases]),
                self._vectors(cases, found, "symptom", [case.description for case in cases]),
                np.array([bool(case.root_cause) for case in cases]),
                [actions(case.resolution or "") for case in cases],
            )
        )
        # The same words are the same fix, whatever was thought to be the cause.
        words = [normalise(case.resolution or "") for case in cases]
        alike = np.where(np.array([[a == b for b in words] for a in words]), 1.0, alike)
        row_of = {case.id: row for row, case in enumerate(cases)}
        for pair, one in self._feedback.same_fix(list(row_of)).items():
            a, b = (row_of[key] for key in pair)
            alike[a, b] = alike[b, a] = 1.0 if one else -np.inf
        return alike

    def _vectors(
        self,
        cases: Sequence[Case],
        found: Mapping[UUID, Mapping[str, Floats]],
        name: str,
        texts: list[str],
    ) -> Floats:
        # The index has embedded these texts already; only what it lacks is encoded here.
        out = np.zeros((len(cases), self._encoder.dimension), np.float32)
        missing = []
        for row, case in enumerate(cases):
            vector = found.get(case.id, {}).get(name)
            if vector is not None:
                out[row] = vector
            elif texts[row]:
                missing.append(row)
        if missing:
            out[missing] = self._encoder.encode([texts[row] for row in missing])
        return out

    def _came_back(self, closed: Sequence[Like], like: Sequence[Like]) -> tuple[set[UUID], datetime | None]:
        """The closed cases whose problem came back, and when the history begins."""
        with self._casebook.database.transaction() as tx:
            rows = tx.all(
                "fix_came_back", ids=[one.case.id for one in closed], vague=list(VAGUE_TYPES), days=self._days
            )
            begins = tx.value("fix_history_start")
        back = {row["id"] for row in rows} | {one.case.id for one in closed if one.case.outcome == "recurred"}
        for one in closed:
            if one.case.type in VAGUE_TYPES and any(returned(one.case, other.case, self._days) for other in like):
                back.add(one.case.id)
        return back, begins


def recurrence(cases: Sequence[Case], *, now: datetime, begins: datetime | None) -> Recurrence:
    """`begins`: the first case of the whole history, like or not."""
    times = [case.occurred_at for case in cases]
    middle, start = now - timedelta(days=SPAN_DAYS), now - timedelta(days=2 * SPAN_DAYS)
    last = sum(middle < at <= now for at in times)
    # A history that began later would make anything look as if it were rising.
    before = sum(start < at <= middle for at in times) if begins is not None and begins <= start else None
    counted = Counter(case.zone_id for case in cases)
    zones = {case.zone_id: case.zone for case in cases}
    return Recurrence(
        times=len(cases),
        first=min(times, default=None),
        latest=max(times, default=None),
        places=tuple(
            PlaceCount(zone_id, zone.name_th if zone else None, zone.name_en if zone else None, count)
            for zone_id, count in sorted(counted.items(), key=lambda entry: (-entry[1], entry[0] or ""))
            for zone in [zones[zone_id]]
        ),
        last=last,
        before=before,
        trend=None if before is None else trend(last, before),
    )


def returned(case: Case, other: Case, days: int) -> bool:
    """Whether the other is in the same zone and within so many days of closing. What it tells of is not looked at."""
    if case.outcome == "held" and case.outcome_by not in (None, "appliance") and _later(case):
        # Who said so later has seen it.
        return False
    if case.closed_at is None or case.zone_id is None or other.zone_id != case.zone_id or other.id == case.id:
        return False
    return case.closed_at < other.occurred_at <= case.closed_at + timedelta(days=days)


def _later(case: Case) -> bool:
    return case.closed_at is not None and case.outcome_at is not None and case.outcome_at > case.closed_at


def _fix(members: Sequence[Like], language: Language, back: set[UUID], now: datetime, days: int) -> Fix:
    cases = [one.case for one in members]
    outcomes = Counter(case.outcome for case in cases)
    worked, tried = outcomes["held"], outcomes["held"] + outcomes["recurred"]
    told = max(cases, key=lambda case: (case.outcome == "held", _reads(case.language, language), case.occurred_at))
    minutes = [case.minutes_to_restore for case in cases if case.minutes_to_restore is not None]
    return Fix(
        text=told.resolution or "",
        language=told.language,
        told_by=told.record_id,
        worked=worked,
        tried=tried,
        unknown=outcomes["unknown"],
        interval=wilson(worked, tried),
        median_minutes=median(minutes) if minutes else None,
        returned=sum(case.id in back for case in cases),
        watched=sum(case.id in back or _over(case, now, days) for case in cases),
        last_used=max(case.closed_at or case.occurred_at for case in cases),
        similarity=round(max(one.score for one in members), 4),
        probability=round(max(one.probability for one in members), 4),
        cases=tuple(one.case.record_id for one in members),
        days=days,
    )


def _over(case: Case, now: datetime, days: int) -> bool:
    """Long enough ago that a return would have been seen."""
    return case.closed_at is not None and case.closed_at + timedelta(days=days) <= now


def _reads(told: Language, asked: Language) -> int:
    """How well somebody who asks in one language reads the other: mixed text is Thai with English words."""
    if told == asked:
        return 2
    return int("mixed" in (told, asked) and "en" not in (told, asked))
