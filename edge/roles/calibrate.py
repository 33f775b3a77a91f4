"""`edge calibrate`: which probability a score stands for, for the model at hand.

The prior is measured on the problems and fixes that ship with the starter, in a data directory of its own that is
thrown away; what people said here then bends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import numpy as np

from edge.cases import Language, NewCase
from edge.cases.casebook import import_cases
from edge.config import Settings, resources
from edge.embedding import Encoder, normalise
from edge.errors import Rejected
from edge.roles.alone import alone, database_of
from edge.roles.evaluate import throw_away
from edge.roles.parts import Parts
from edge.search import Question
from edge.search.calibration import Asked, Calibration, Calibrations, Floats, Logistic, fit, measure
from edge.search.fixes import SAME_FIX, actions, group, likeness

Progress = Callable[[str, int, int], None]

PROBLEMS = "models/starter/eval/problems.txt"
FIXES = "models/starter/eval/fixes.txt"

#: As the evaluation files mark them.
LANGUAGES: dict[str, Language] = {"th": "th", "en": "en", "mix": "mixed"}

#: How far down a question's ranking is read: every case of its problem must stand in it.
DEEP = 100


@dataclass(frozen=True, slots=True)
class Told:
    """One telling of a kind of problem. `asked`: a question somebody asks later, not a record."""

    kind: str
    language: Language
    text: str
    asked: bool


@dataclass(frozen=True, slots=True)
class ToldFix:
    """One case of a family of like cases. `fix`: cases of a family with the same letter had the same fix."""

    family: str
    part: str
    fix: str
    symptom: str
    cause: str
    resolution: str


@dataclass(frozen=True, slots=True)
class Grouping:
    """How well groups of fixes agree with what was read. Pairs first, then B-cubed (Bagga and Baldwin 1998)."""

    part: str
    threshold: float
    pairs: int
    precision: float
    recall: float
    cubed_precision: float
    cubed_recall: float


def read_problems(file: Path) -> list[Told]:
    """Raises `Rejected`."""
    kind, found = "", []
    for number, line in _lines(file):
        if line.startswith("["):
            kind = line.strip("[]")
            continue
        mark, _, text = line.partition(" ")
        language = LANGUAGES.get(mark.removeprefix("?"))
        if not kind or language is None or not text.strip():
            raise Rejected(f"Line {number} of {file.name} is not of the form `th text`, `?en text` or `[problem]`.")
        found.append(Told(kind, language, text.strip(), mark.startswith("?")))
    return found


def read_fixes(file: Path) -> list[ToldFix]:
    """Raises `Rejected`."""
    family = part = ""
    found = []
    for number, line in _lines(file):
        if line.startswith("["):
            family, _, part = line.strip("[]").partition(" ")
            continue
        texts = [text.strip() for text in line.split("|")]
        marks = texts[0].split()
        if not part or len(texts) != 4 or len(marks) != 2 or marks[1] not in LANGUAGES:
            raise Rejected(f"Line {number} of {file.name} is not of the form `A th | symptom | cause | fix`.")
        found.append(ToldFix(family, part, marks[0], texts[1], "" if texts[2] == "-" else texts[2], texts[3]))
    return found


def measure_prior(settings: Settings, *, progress: Progress | None = None) -> tuple[Calibration, list[Grouping]]:
    """The calibration of the model of `settings`, and how well fixes are grouped by it.

    The curve of the fixes is fitted on the families marked `tune`; those marked `test` are only scored.
    Raises `Rejected` when the model's scores say nothing.
    """
    told = progress or _silent
    problems = read_problems(resources() / PROBLEMS)
    fixes = read_fixes(resources() / FIXES)
    with throw_away(settings) as own, alone(own) as parts:
        stored = _import(parts, [one for one in problems if not one.asked], told)
        rankings = []
        questions = [one for one in problems if one.asked]
        for number, question in enumerate(questions, 1):
            ranking = parts.engine.rank([Question(question.text, taught=False)])[0].entries[:DEEP]
            entries = sorted(ranking, key=lambda entry: entry.vouched - entry.score)
            hits = tuple((stored[entry.key][0], entry.score - entry.vouched) for entry in entries)
            symptoms = parts.encoder.encode([stored[entry.key][1] for entry in entries]).astype(np.float64)
            rankings.append(Asked(question.kind, hits, symptoms))
            told("asking", number, len(questions))
        curve = _fix_curve(parts.encoder, [one for one in fixes if one.part == "tune"])
        vectors = parts.encoder.encode([one.text for one in problems]).astype(np.float64)
        found = measure(parts.encoder.fingerprint, rankings, [one.kind for one in problems], vectors, curve)
        return found, groupings(parts.encoder, fixes, curve)


def keep(settings: Settings, found: Calibration) -> Calibration:
    """Put a prior in force on the appliance of `settings`."""
    with database_of(settings) as database:
        return Calibrations(database, found.fingerprint).put(found)


def learn(settings: Settings) -> Calibration:
    """Count what people said anew, on the stores of `settings`. Raises `Stop` while an embedded appliance runs on them:
    there the scheduled job does it."""
    with alone(settings) as parts:
        return parts.engine.calibrate()


def groupings(encoder: Encoder, fixes: list[ToldFix], curve: Logistic) -> list[Grouping]:
    """How well the families' fixes are grouped, part by part, at thresholds around the one in force."""
    return [
        _grouping(encoder, [one for one in fixes if one.part == part], curve, part, threshold)
        for part in dict.fromkeys(one.part for one in fixes)
        for threshold in sorted({0.5, 0.55, 0.6, 0.65, SAME_FIX})
    ]


def _grouping(encoder: Encoder, fixes: list[ToldFix], curve: Logistic, part: str, threshold: float) -> Grouping:
    joined = right = wanted = pairs = 0
    precise, found = [], []
    for members in _families(fixes):
        groups = group(_alike(encoder, members, curve), threshold)
        of = {row: number for number, rows in enumerate(groups) for row in rows}
        rows = range(len(members))
        for a, b in combinations(rows, 2):
            together, same = of[a] == of[b], members[a].fix == members[b].fix
            pairs, joined, wanted, right = pairs + 1, joined + together, wanted + same, right + (together and same)
        for row in rows:
            mine = {other for other in rows if of[other] == of[row]}
            theirs = {other for other in rows if members[other].fix == members[row].fix}
            precise.append(len(mine & theirs) / len(mine))
            found.append(len(mine & theirs) / len(theirs))
    return Grouping(
        part, threshold, pairs, right / joined if joined else 1.0, right / wanted if wanted else 1.0,
        float(np.mean(precise)), float(np.mean(found)),
    )  # fmt: skip


def _fix_curve(encoder: Encoder, fixes: list[ToldFix]) -> Logistic:
    alike: list[float] = []
    same: list[bool] = []
    for members in _families(fixes):
        found = _likeness(encoder, members)
        for a, b in combinations(range(len(members)), 2):
            alike.append(found[a, b])
            same.append(members[a].fix == members[b].fix)
    return fit(alike, same, np.ones(len(same)))


def _alike(encoder: Encoder, members: list[ToldFix], curve: Logistic) -> Floats:
    words = [normalise(one.resolution) for one in members]
    return np.where([[a == b for b in words] for a in words], 1.0, curve.of(_likeness(encoder, members)))


def _likeness(encoder: Encoder, members: list[ToldFix]) -> Floats:
    return likeness(
        encoder.encode([one.resolution for one in members]),
        encoder.encode([one.cause for one in members]),
        encoder.encode([one.symptom for one in members]),
        np.array([bool(one.cause) for one in members]),
        [actions(one.resolution) for one in members],
    )


def _families(fixes: list[ToldFix]) -> list[list[ToldFix]]:
    names = dict.fromkeys(one.family for one in fixes)
    return [[one for one in fixes if one.family == name] for name in names]


def _import(parts: Parts, records: list[Told], progress: Progress) -> dict[object, tuple[str, str]]:
    """Case key → kind of problem and text, of what was stored and indexed."""
    at = datetime(2026, 1, 5, 9, tzinfo=UTC)
    with parts.database.transaction() as tx:
        import_cases(
            tx,
            [
                NewCase(
                    kind="anomaly", type="report", severity="medium", origin="import", language=one.language,
                    description=one.text, occurred_at=at, closed_at=at, record_id=f"{one.kind}/{number}",
                )
                for number, one in enumerate(records)
            ],
        )  # fmt: skip
    done = 0
    while parts.indexer.step(64):
        done += 64
        progress("indexing", min(done, len(records)), len(records))
    cases = parts.casebook.sample(len(records))
    return {case.id: (case.record_id.rpartition("/")[0], case.description) for case in cases}


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(f"The evaluation file {file} cannot be read: {error}.") from error
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#"))


def _silent(words: str, done: int, total: int) -> None:
    del words, done, total
