"""Which probability a score stands for: measured on the shipped problems first, then on what people say here.

Four curves per encoder. `same`: a case shown at this score is about the same problem. `known`: a history whose best
score is this holds the problem at all. `near`: two texts with this cosine tell of one problem. `fix`: two cases this alike
(`edge.search.fixes.likeness`) had one fix. Each is a logistic curve
(Platt 1999); people's own judgements bend `same` where they were given.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.config import resources
from edge.db import Database
from edge.errors import Rejected
from edge.search.model import Band
from edge.search.vouching import REACH, vouched

Origin = Literal["generic", "shipped", "prior", "own"]
Floats: TypeAlias = NDArray[np.float64]

#: Lower bounds of the bands, on the probability of being the same problem.
BANDS: Mapping[Band, float] = {"same": 0.8, "very_similar": 0.5, "similar": 0.2, "weak": 0.0}

#: Below this probability that the history holds the problem it is said to be new: wrong as rarely as can be.
NEW_BELOW = 0.5

#: Scores at which own judgements are gathered.
KNOTS: tuple[float, ...] = tuple(round(0.05 * step, 2) for step in range(21))

#: How many own judgements near a score weigh as much as the prior does.
PRIOR_WEIGHT = 20.0

#: Hits of a question that count when it is measured: a first page.
SHOWN = 10

#: Seconds until a process looks whether somebody calibrated anew.
STALE = 30.0

#: Of the regressions.
RIDGE = 0.1

#: Parts of the evaluation set in the cross-validation of the figures.
FOLDS = 6

SHIPPED = "models/starter/calibration.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Logistic:
    """1 / (1 + exp(-(slope · x + intercept))), never falling: a higher score is never less likely."""

    slope: float
    intercept: float

    def at(self, x: float) -> float:
        return float(self.of(np.array([x]))[0])

    def of(self, x: Floats) -> Floats:
        """Element by element."""
        found: Floats = 1 / (1 + np.exp(-np.clip(self.slope * x + self.intercept, -30, 30)))
        return found


@dataclass(frozen=True, slots=True)
class Bin:
    """Of `n` judged pairs (weighted) between two probabilities: what was said on average, and what was true."""

    low: float
    high: float
    n: float
    said: float
    true: float


@dataclass(frozen=True, slots=True)
class Figures:
    """How right the probabilities are. `brier`: mean squared error; `chance`: that of always saying the base rate.

    `bins`: the reliability table. `questions`: of the evaluation set; `own`: pairs that people here judged.
    `known`: per threshold of the probability of being known, how often a problem the history holds was called new, and
    a new one known.
    """

    n: float
    brier: float
    chance: float
    bins: tuple[Bin, ...]
    questions: int = 0
    own: int = 0
    known: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """`knots`: where people's own judgements bend the curve, (score, probability) ascending; empty without any.

    `origin`: "generic" is a cautious guess that fits no model in particular, "shipped" came with the model, "prior" was
    measured on this box, "own" holds what people said here.
    """

    fingerprint: str
    origin: Origin
    same: Logistic
    known: Logistic
    near: Logistic
    fix: Logistic
    knots: tuple[tuple[float, float], ...] = ()
    figures: Figures | None = None
    version: int | None = None
    at: datetime | None = None

    def probability(self, score: float) -> float:
        """That a case shown at this score is about the same problem."""
        if not self.knots:
            return self.same.at(score)
        xs, ps = zip(*self.knots, strict=True)
        return float(np.interp(score, xs, ps))

    def band(self, score: float) -> Band:
        return band_of(self.probability(score))

    def known_at(self, best: float | None) -> float:
        """That a history whose best score is `best` holds the problem; 0 for an empty one."""
        return 0.0 if best is None else self.known.at(best)

    def is_new(self, best: float | None) -> bool:
        return self.known_at(best) < NEW_BELOW

    def closeness(self, cosine: float) -> float:
        """How much a judgement about one text says about another: the probability that both tell of one problem, 0
        where that is less likely than not."""
        found = self.near.at(cosine)
        return found if found >= 0.5 else 0.0

    def as_json(self) -> dict[str, Any]:
        curve = {
            name: {"slope": round(line.slope, 4), "intercept": round(line.intercept, 4)}
            for name, line in (("same", self.same), ("known", self.known), ("near", self.near), ("fix", self.fix))
        }
        return {**curve, "knots": [[score, round(p, 4)] for score, p in self.knots]}


#: For a model nobody has measured: flatter than any that was, so that it promises little.
GENERIC = Calibration(
    fingerprint="",
    origin="generic",
    same=Logistic(9.0, -6.0),
    known=Logistic(7.0, -4.0),
    near=Logistic(9.0, -6.0),
    fix=Logistic(11.0, -6.0),
)


def band_of(probability: float) -> Band:
    return next(band for band, least in BANDS.items() if probability >= least)


def fit(x: ArrayLike, y: ArrayLike, weight: ArrayLike) -> Logistic:
    """Weighted logistic regression of y [n], 0 or 1, on a score x [n], by Newton's method.

    A trace of ridge keeps it finite where the two sides do not overlap. Raises `Rejected` when higher scores are not
    more often right: such scores say nothing.
    """
    ys, ws = np.asarray(y, np.float64), np.asarray(weight, np.float64)
    rows = np.column_stack([np.asarray(x, np.float64), np.ones(len(ys))])
    found = np.zeros(2)
    for _ in range(60):
        p = 1 / (1 + np.exp(-np.clip(rows @ found, -30, 30)))
        uphill = rows.T @ (ws * (ys - p)) - RIDGE * found
        bend = (rows * (ws * p * (1 - p))[:, None]).T @ rows + RIDGE * np.eye(2)
        step = np.linalg.solve(bend, uphill)
        found += step
        if np.abs(step).max() < 1e-9:
            break
    if found[0] <= 0:
        raise Rejected("Higher scores were not more often right: this model cannot be calibrated on these problems.")
    return Logistic(float(found[0]), float(found[1]))


def figures(said: ArrayLike, true: ArrayLike, weight: ArrayLike) -> Figures:
    """Brier score and reliability of probabilities against what was true (0 to 1), weighted."""
    ps, ys, ws = (np.asarray(values, np.float64) for values in (said, true, weight))
    if not ws.sum():
        return Figures(0, 0, 0, ())
    base = float(np.average(ys, weights=ws))
    bins = []
    for low in np.arange(0, 1, 0.1):
        inside = (ps >= low) & ((ps < low + 0.1) | ((low > 0.85) & (ps == 1)))
        if ws[inside].sum():
            bins.append(
                Bin(
                    round(float(low), 1), round(float(low) + 0.1, 1), round(float(ws[inside].sum()), 1),
                    round(float(np.average(ps[inside], weights=ws[inside])), 4),
                    round(float(np.average(ys[inside], weights=ws[inside])), 4),
                )
            )  # fmt: skip
    return Figures(
        n=round(float(ws.sum()), 1),
        brier=round(float(np.average((ps - ys) ** 2, weights=ws)), 4),
        chance=round(base * (1 - base), 4),
        bins=tuple(bins),
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What one question of the evaluation set found: its kind of problem, and (kind, score) best first, before any result
    vouched for another. `vectors`: of the symptoms [len(hits), dimension], by which they do; None: they do not."""

    kind: str
    hits: tuple[tuple[str, float], ...]
    vectors: Floats | None = None

    def over(self, kept: Sequence[int]) -> list[tuple[str, float]]:
        """The ranking over some of its hits alone, once they have vouched for one another."""
        hits = [self.hits[at] for at in kept]
        if self.vectors is None or not hits:
            return hits
        gained = vouched(np.array([score for _, score in hits[:REACH]]), self.vectors[list(kept[:REACH])])
        raised = [(kind, score + gain) for (kind, score), gain in zip(hits, gained.tolist(), strict=False)]
        return sorted(raised, key=lambda hit: -hit[1]) + hits[REACH:]


class _Sample:
    """Pairs to fit on. Every question is asked of three histories of equal weight: one in which its problem happened
    often, one in which it happened once (each of its cases in turn), and one in which it never did. Whether a problem is
    known is fitted as if half of all were new, since nobody can know how many will be."""

    def __init__(self, rankings: Iterable[Asked]) -> None:
        self.shown: list[tuple[float, float, float, str]] = []
        self.best: list[tuple[float, float, float, str]] = []
        for ranking in rankings:
            right = [at for at, (kind, _) in enumerate(ranking.hits) if kind == ranking.kind]
            histories = [(1.0, set(right), True), (1.0, set[int](), False)]
            histories += [(1.0 / len(right), {at}, True) for at in right]
            for weight, kept, holds in histories:
                left = [at for at, (kind, _) in enumerate(ranking.hits) if kind != ranking.kind or at in kept]
                for kind, score in ranking.over(left)[:SHOWN]:
                    self.shown.append((score, float(kind == ranking.kind), weight, ranking.kind))
                if left:
                    counted = weight if holds else 2 * weight
                    self.best.append((ranking.hits[left[0]][1], float(holds), counted, ranking.kind))


def measure(
    fingerprint: str, rankings: Sequence[Asked], texts: Sequence[str], vectors: Floats, fix: Logistic
) -> Calibration:
    """The prior of an encoder. `texts`: the kind of problem each row of `vectors` [n, dimension] tells of.

    The figures are cross-validated over the kinds of problem: no curve is scored on a kind it was fitted on.
    Raises `Rejected` when there is nothing to measure or the scores say nothing.
    """
    sample = _Sample(rankings)
    kinds = sorted({ranking.kind for ranking in rankings})
    if len(kinds) < FOLDS:
        raise Rejected(f"A calibration needs at least {FOLDS} kinds of problem; these are {len(kinds)}.")
    x, y, w, _ = zip(*sample.shown, strict=True)
    bx, by, bw, _ = zip(*sample.best, strict=True)
    said, true, weight = _crossed(sample.shown, kinds)
    called, held, heavy = (np.array(part) for part in _crossed(sample.best, kinds))
    known = tuple(
        (
            threshold,
            round(float(np.average(called[held == 1] < threshold, weights=heavy[held == 1])), 4),
            round(float(np.average(called[held == 0] >= threshold, weights=heavy[held == 0])), 4),
        )
        for threshold in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    )
    upper = np.triu_indices(len(texts), 1)
    cosines = (vectors @ vectors.T)[upper]
    told = np.array(texts)
    same = (told[:, None] == told[None])[upper]
    return Calibration(
        fingerprint=fingerprint,
        origin="prior",
        same=fit(x, y, w),
        known=fit(bx, by, bw),
        near=fit(cosines, same, np.ones(len(cosines))),
        fix=fix,
        figures=replace(figures(said, true, weight), questions=len(rankings), known=known),
    )


def _crossed(
    rows: Sequence[tuple[float, float, float, str]], kinds: Sequence[str]
) -> tuple[list[float], list[float], list[float]]:
    """What curves say of the kinds they were not fitted on."""
    said, true, weight = [], [], []
    for fold in range(FOLDS):
        left_out = set(kinds[fold::FOLDS])
        x, y, w, _ = zip(*(row for row in rows if row[3] not in left_out), strict=True)
        curve = fit(x, y, w)
        for score, right, heavy, kind in rows:
            if kind in left_out:
                said.append(curve.at(score))
                true.append(right)
                weight.append(heavy)
    return said, true, weight


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair that people judged, and the score the search gives it today without them."""

    score: float
    same: int
    different: int

    @property
    def share(self) -> float:
        return self.same / (self.same + self.different)


def refine(prior: Calibration, judged: Sequence[Judged]) -> Calibration:
    """The prior bent by the plant's own judgements, each pair once, by the share of people who said "same".

    At every knot the prior counts as `PRIOR_WEIGHT` judgements (the mean of a Beta posterior); a judgement counts at
    the two knots around its score by its nearness to them. Afterwards the curve is made monotone (pool adjacent
    violators). The figures score each half of the judgements by the curve that the other half bent.
    """
    halves = (judged[0::2], judged[1::2])
    true = [one.share for half in halves for one in half]
    said = [
        float(np.interp(one.score, KNOTS, _bent(prior.same, other)))
        for half, other in zip(halves, reversed(halves), strict=True)
        for one in half
    ]
    before = prior.figures
    return replace(
        prior,
        origin="own",
        knots=tuple((score, float(p)) for score, p in zip(KNOTS, _bent(prior.same, judged), strict=True)),
        figures=replace(
            figures(said, true, np.ones(len(said))),
            questions=before.questions if before else 0,
            own=len(judged),
            known=before.known if before else (),
        ),
        version=None,
        at=None,
    )


def _bent(prior: Logistic, judged: Sequence[Judged]) -> Floats:
    """The probability at each of `KNOTS`."""
    xs = np.array(KNOTS)
    count, right = np.zeros(len(xs)), np.zeros(len(xs))
    for one in judged:
        near = np.maximum(0.0, 1 - np.abs(xs - one.score) / (KNOTS[1] - KNOTS[0]))
        count += near
        right += near * one.share
    start = np.array([prior.at(score) for score in KNOTS])
    return _monotone((PRIOR_WEIGHT * start + right) / (PRIOR_WEIGHT + count), PRIOR_WEIGHT + count)


def _monotone(values: Floats, weights: Floats) -> Floats:
    """The nearest sequence that never falls (pool adjacent violators; Ayer et al. 1955)."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        blocks.append((float(value), float(weight), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, wa, na), (b, wb, nb) = blocks[-2], blocks[-1]
            blocks[-2:] = [((a * wa + b * wb) / (wa + wb), wa + wb, na + nb)]
    return np.array([value for value, _, count in blocks for _ in range(count)])


class Calibrations:
    """The calibration in force for one encoder: the latest in Postgres, else the one that ships, else `GENERIC`.
    Thread-safe; every process sees a new one within `STALE` seconds."""

    def __init__(self, database: Database, fingerprint: str) -> None:
        self._database = database
        self._fingerprint = fingerprint
        self._lock = threading.Lock()
        self._until = 0.0
        self._current = GENERIC

    def current(self) -> Calibration:
        """Raises `Unavailable` without the database."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._current = self._read(("prior", "own")) or shipped(self._fingerprint) or GENERIC
                self._until = time.monotonic() + STALE
            return self._current

    def prior(self) -> Calibration:
        """What is known without the people here: measured on this box, or shipped, or generic."""
        return self._read(("prior",)) or shipped(self._fingerprint) or replace(GENERIC, fingerprint=self._fingerprint)

    def put(self, found: Calibration) -> Calibration:
        """Keep a fit; it is in force from now on. Returns it with its version."""
        assert found.figures is not None
        with self._database.transaction() as tx:
            row = tx.one(
                "calibration_put",
                fingerprint=self._fingerprint,
                origin="own" if found.origin == "own" else "prior",
                curve=found.as_json(),
                figures=asdict(found.figures),
            )
        assert row is not None
        with self._lock:
            self._until = 0.0
        return replace(found, version=row["id"], at=row["at"])

    def _read(self, origins: Sequence[Origin]) -> Calibration | None:
        with self._database.transaction() as tx:
            row = tx.one("calibration_latest", fingerprint=self._fingerprint, origins=list(origins))
        if row is None:
            return None
        return _from(row["fingerprint"], row["origin"], row["curve"], row["figures"], version=row["id"], at=row["at"])


def shipped(fingerprint: str) -> Calibration | None:
    """The calibration that came with the starter, if it is this encoder's."""
    try:
        found = json.loads((resources() / SHIPPED).read_text("utf-8"))
        return _from(fingerprint, "shipped", found, found["figures"]) if found["fingerprint"] == fingerprint else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("The shipped calibration cannot be read, so a generic one is used: %s", error)
        return None


def write(found: Calibration, file: Path) -> None:
    """As `shipped` reads it. Raises `Rejected` when the file cannot be written."""
    assert found.figures is not None
    values = {"fingerprint": found.fingerprint, **found.as_json(), "figures": asdict(found.figures)}
    try:
        file.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise Rejected(f"The calibration cannot be written to {file}: {error.strerror}.") from error


def _from(
    fingerprint: str,
    origin: Origin,
    curve: Mapping[str, Any],
    found: Mapping[str, Any],
    *,
    version: int | None = None,
    at: datetime | None = None,
) -> Calibration:
    same, known, near, fix = (Logistic(**curve[name]) for name in ("same", "known", "near", "fix"))
    return Calibration(
        fingerprint=fingerprint,
        origin=origin,
        same=same,
        known=known,
        near=near,
        fix=fix,
        knots=tuple((float(score), float(p)) for score, p in curve["knots"]),
        figures=Figures(
            **{
                **found,
                "bins": tuple(Bin(**one) for one in found["bins"]),
                "known": tuple((float(a), float(b), float(c)) for a, b, c in found["known"]),
            }
        ),
        version=version,
        at=at,
    )
