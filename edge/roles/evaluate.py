"""`edge evaluate`: a history, questions and judgements in; how well the search answers out.

Everything happens in a data directory of its own that is thrown away: the appliance's data are never touched.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from edge import __version__
from edge.cases import Language
from edge.config import Settings, resources
from edge.embedding import detect_language
from edge.errors import Rejected
from edge.importing import BATCH, SourceRow, import_rows, read_rows
from edge.roles.alone import alone
from edge.roles.parts import Parts
from edge.search import Filters, Mode, Question
from edge.search.measure import (
    DEEPEST,
    DIRECTIONS,
    METRICS,
    Difference,
    Direction,
    Estimate,
    Metric,
    compare,
    estimate,
    languages_of,
    score,
    written_in,
)

Progress = Callable[[str, int, int], None]
Table = dict[Direction, dict[Metric, Estimate]]
#: Questions that go to the search in one call.
ASKED_TOGETHER = 32

PerQuery = dict[Direction, dict[str, dict[Metric, float]]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question. `language`: th or en, the side of a direction it stands on."""

    qid: str
    text: str
    language: str


@dataclass(frozen=True, slots=True)
class Run:
    """What one evaluation found. `results`: qid → (record id, score) over all languages, best first."""

    version: str
    mode: Mode
    model: str
    fingerprint: str
    cases: int
    queries: int
    seed: int
    table: Table
    per_query: PerQuery
    results: Mapping[str, list[tuple[str, float]]]

    def as_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("version", "model", "fingerprint", "cases", "queries", "seed")},
            "mode": self.mode.value,
            "table": {
                direction: {metric: asdict(found) for metric, found in row.items()}
                for direction, row in self.table.items()
            },
            "per_query": self.per_query,
            "results": {
                qid: [{"id": record_id, "score": value} for record_id, value in hits]
                for qid, hits in self.results.items()
            },
        }


def evaluate(
    settings: Settings,
    cases: Path,
    queries: Path,
    judgements: Path,
    *,
    modes: Sequence[Mode] = (Mode.HYBRID,),
    seed: int = 1,
    progress: Progress | None = None,
) -> list[Run]:
    """Import, index, ask, score: a run for each mode. Only the encoder and the search of `settings` are used, never its
    data.

    Raises `Rejected` for a file that cannot be read or judgements that speak of nothing there is.
    """
    told = progress or _silent
    with opened(settings, cases, queries, judgements, told) as bench:
        runs = []
        for mode in modes:
            per_query, results = _ask(bench, mode, told)
            runs.append(
                Run(
                    version=__version__,
                    mode=mode,
                    model=bench.parts.encoder.name,
                    fingerprint=bench.parts.encoder.fingerprint,
                    cases=len(bench.languages),
                    queries=len(results),
                    seed=seed,
                    table=_table(per_query, seed),
                    per_query=per_query,
                    results=results,
                )
            )
    return runs


@dataclass(frozen=True, slots=True)
class Bench:
    """A history that is indexed, and what is to be asked of it. `grades`: qid → record id → grade; `names`: row → record
    id."""

    parts: Parts
    asked: list[Asked]
    grades: Mapping[str, Mapping[str, float]]
    languages: Mapping[str, str]
    names: Mapping[UUID, str]

    def rounds(self) -> Iterator[tuple[Direction, Asked, tuple[Language, ...], dict[str, float]]]:
        """Every question in every direction in which something is right; a direction without says nothing."""
        for direction in DIRECTIONS:
            side, looked = languages_of(direction)
            for question in self.asked:
                right = {
                    record_id: grade
                    for record_id, grade in self.grades.get(question.qid, {}).items()
                    if not looked or self.languages[record_id] in looked
                }
                if right and side in (None, question.language):
                    yield direction, question, looked, right


@contextlib.contextmanager
def opened(settings: Settings, cases: Path, queries: Path, judgements: Path, progress: Progress) -> Iterator[Bench]:
    """The files read and the cases indexed, in a data directory that is thrown away. Raises `Rejected`."""
    asked = read_queries(queries)
    grades = read_judgements(judgements)
    if unknown := sorted(grades.keys() - {question.qid for question in asked}):
        raise Rejected(f"{judgements.name} judges the question {unknown[0]}, which is not in {queries.name}.")
    rows = list(read_rows(cases))
    with throw_away(settings) as own, alone(own) as parts:
        languages, names = _import(parts, rows, cases, progress)
        for qid, right in grades.items():
            if missing := sorted(right.keys() - languages.keys()):
                raise Rejected(f"{judgements.name} judges the case {missing[0]} for {qid}; it is not in {cases.name}.")
        yield Bench(parts, asked, grades, languages, names)


#: The evaluation sets that ship, below `models/starter/eval/`. Training never reads them. `independent` was written by
#: others, who had read neither lexicon nor training texts; `own` by who wrote those, so it flatters.
SETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"independent": ("independent.txt",), "own": ("problems.txt", "retold.txt")}
)


@contextlib.contextmanager
def own_problems(names: Sequence[str]) -> Iterator[tuple[Path, Path, Path]]:
    """Files of SETS as cases, queries and judgements: a question's own kind of problem is right."""
    kind = ""
    told: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    lines = [
        line for name in names for line in (resources() / "models/starter/eval" / name).read_text("utf-8").splitlines()
    ]
    for line in lines:
        line = line.strip()
        if line.startswith("["):
            kind = line.strip("[]")
        elif line and not line.startswith("#"):
            mark, _, text = line.partition(" ")
            language = {"th": "th", "en": "en", "mix": "mixed"}[mark.lstrip("?")]
            if mark.startswith("?"):
                asked.append({"qid": f"q{len(asked)}", "text": text, "language": language, "kind": kind})
            else:
                told.append(
                    {"id": f"{kind}-{len(told)}", "description": text, "language": language, "timestamp": "2026-01-05"}
                )
    judged = [
        {"qid": query["qid"], "id": case["id"]}
        for query in asked
        for case in told
        if case["id"].rpartition("-")[0] == query["kind"]
    ]
    queries = [{name: value for name, value in query.items() if name != "kind"} for query in asked]
    with tempfile.TemporaryDirectory(prefix="edge-") as folder:
        files = tuple(Path(folder) / f"{name}.jsonl" for name in ("cases", "queries", "judgements"))
        for file, rows in zip(files, (told, queries, judged), strict=True):
            file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        yield files[0], files[1], files[2]


def differences(here: Run, there: Mapping[str, Any]) -> dict[Direction, dict[Metric, Difference]]:
    """`here` against a run that was written before. Raises `Rejected` when that is none or answers other questions."""
    try:
        found = {
            direction: {
                metric: compare(
                    {qid: scores[metric] for qid, scores in here.per_query[direction].items()},
                    {qid: float(scores[metric]) for qid, scores in there["per_query"][direction].items()},
                    here.seed,
                )
                for metric in METRICS
            }
            for direction in DIRECTIONS
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Rejected(f"The other run is not a file that `edge evaluate --output` wrote: {error!r}.") from error
    if not found["all"]["MRR"].queries:
        raise Rejected("The two runs have no question in common, so there is nothing to compare.")
    return found


def read_run(file: Path) -> dict[str, Any]:
    """A run as `--output` wrote it. Raises `Rejected`."""
    try:
        run = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Rejected(f"The run {file} cannot be read: {error}.") from error
    if not isinstance(run, dict):
        raise Rejected(f"The run {file} is not a file that `edge evaluate --output` wrote.")
    return run


def read_queries(file: Path) -> list[Asked]:
    """JSONL of {qid, text, language?}; a language that is not given is read off the text. Raises `Rejected`."""
    found: dict[str, Asked] = {}
    for number, value in _lines(file, "{qid, text, language?}"):
        qid, text = str(value.get("qid") or ""), value.get("text")
        if not qid or not isinstance(text, str) or not text.strip():
            raise Rejected(f"Line {number} of {file.name} is not of the form {{qid, text, language?}}.")
        if qid in found:
            raise Rejected(f"Line {number} of {file.name} repeats the qid {qid}.")
        language = value.get("language") or detect_language(text)
        if language not in ("th", "en", "mixed"):
            raise Rejected(f"Line {number} of {file.name} has the language {language!r}; it must be th, en or mixed.")
        found[qid] = Asked(qid, text, written_in(language))
    if not found:
        raise Rejected(f"{file.name} asks nothing.")
    return list(found.values())


def read_judgements(file: Path) -> dict[str, dict[str, float]]:
    """qid → record id → grade, of what is right (grade > 0): JSONL of {qid, id, grade}, or TREC's `qid 0 id grade`.

    A grade left out of JSONL is 1. Raises `Rejected`.
    """
    found: dict[str, dict[str, float]] = {}
    for number, line in _text(file):
        if line.lstrip().startswith("{"):
            value = _object(line, number, file, "{qid, id, grade}")
            parts = [value.get("qid"), value.get("id"), value.get("grade", 1)]
        else:
            words = line.split()
            parts = [words[0], words[2], words[3]] if len(words) == 4 else [None]
        try:
            qid, record_id, grade = str(parts[0] or ""), str(parts[1] or ""), float(parts[2])
            if not qid or not record_id or not 0 <= grade <= 10:
                raise ValueError
        except (IndexError, TypeError, ValueError) as error:
            raise Rejected(
                f"Line {number} of {file.name} is neither {{qid, id, grade}} nor TREC's `qid 0 id grade` with a grade "
                "from 0 to 10."
            ) from error
        if grade > 0:
            found.setdefault(qid, {})[record_id] = grade
    if not found:
        raise Rejected(f"{file.name} judges nothing as right.")
    return found


def _silent(words: str, done: int, total: int) -> None:
    del words, done, total


@contextlib.contextmanager
def throw_away(settings: Settings) -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="edge-") as folder:
        if (models := settings.data.dir / "models").is_dir():
            # A model that was built beside the appliance's data is read there, not built again.
            (Path(folder) / "models").symlink_to(models.absolute())
        # Whatever the settings name elsewhere is the appliance's own: here everything is embedded.
        yield settings.model_copy(
            update={
                "data": settings.data.model_copy(update={"dir": Path(folder)}),
                "database": settings.database.model_copy(update={"dsn": SecretStr("")}),
                "vectors": settings.vectors.model_copy(update={"url": ""}),
                "search": settings.search.model_copy(update={"limit_max": max(DEEPEST, settings.search.limit_max)}),
            }
        )


def _import(
    parts: Parts, rows: list[SourceRow], file: Path, progress: Progress
) -> tuple[dict[str, str], dict[UUID, str]]:
    """Of what was imported and indexed: record id → language, and row → record id."""
    ids = []
    for start in range(0, len(rows), BATCH):
        for result in import_rows(parts.database, rows[start : start + BATCH]):
            if result.result == "error":
                # A history with holes would be scored as a search that misses.
                raise Rejected(f"Row {result.number} of {file.name} is refused: {result.message}")
            ids.append(result.id)
        progress("importing", min(start + BATCH, len(rows)), len(rows))
    indexer = parts.indexer
    indexer.open()
    done = 0
    while indexer.step(64):
        done += 64
        progress("indexing", min(done, len(rows)), len(rows))
    imported = [case for record_id in ids if (case := parts.casebook.get(record_id))]
    return {case.record_id: case.language for case in imported}, {case.id: case.record_id for case in imported}


def _ask(bench: Bench, mode: Mode, progress: Progress) -> tuple[PerQuery, dict[str, list[tuple[str, float]]]]:
    per_query: PerQuery = {direction: {} for direction in DIRECTIONS}
    results: dict[str, list[tuple[str, float]]] = {}
    rounds = list(bench.rounds())
    for start in range(0, len(rounds), ASKED_TOGETHER):
        some = rounds[start : start + ASKED_TOGETHER]
        # Ranks alone: no facts are needed to score them.
        rankings = bench.parts.engine.rank(
            [Question(question.text, Filters(languages=looked), DEEPEST, mode=mode) for _, question, looked, _ in some]
        )
        for (direction, question, _, right), found in zip(some, rankings, strict=True):
            ranking = [(bench.names[entry.key], round(entry.score, 4)) for entry in found.entries[:DEEPEST]]
            per_query[direction][question.qid] = dict(score([record_id for record_id, _ in ranking], right))
            if direction == "all":
                results[question.qid] = ranking
        progress(f"asking, {mode}", min(start + ASKED_TOGETHER, len(rounds)), len(rounds))
    return per_query, results


def _table(per_query: PerQuery, seed: int) -> Table:
    return {
        direction: {metric: estimate((one[metric] for one in scores.values()), seed) for metric in METRICS}
        for direction, scores in per_query.items()
    }


def _lines(file: Path, form: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _text(file):
        yield number, _object(line, number, file, form)


def _object(line: str, number: int, file: Path, form: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Rejected(f"Line {number} of {file.name} is not of the form {form}.")
    return value


def _text(file: Path) -> Iterator[tuple[int, str]]:
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(f"The file {file} cannot be read: {error}.") from error
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())
