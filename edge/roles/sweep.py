"""`edge evaluate --sweep`: how the weights of the search were chosen, measured again on the texts that ship."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edge.config import Settings, resources
from edge.roles.alone import alone
from edge.roles.evaluate import SETS, Bench, Progress, _silent, opened, own_problems, throw_away
from edge.search import WEIGHTS, Filters, Question, SearchEngine
from edge.search.engine import Entry, Weights, added_by_words, best_text
from edge.search.measure import DEEPEST, DIRECTIONS, Difference, Direction, compare, score
from edge.simulation import load_sample

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

#: What a cosine to symptom, cause and fix may count.
TEXTS: Mapping[str, Mapping[str, float]] = {
    "symptom alone": {"symptom": 1.0},
    "cause alone": {"cause": 1.0},
    "fix alone": {"fix": 1.0},
    "1, 0.7, 0.7": {"symptom": 1.0, "cause": 0.7, "fix": 0.7},
    "1, 0.85, 0.9": {"symptom": 1.0, "cause": 0.85, "fix": 0.9},
    "1, 0.9, 0.9": {"symptom": 1.0, "cause": 0.9, "fix": 0.9},
    "1, 0.95, 0.95": {"symptom": 1.0, "cause": 0.95, "fix": 0.95},
    "1, 1, 1": {"symptom": 1.0, "cause": 1.0, "fix": 1.0},
    "0.85, 0.85, 1": {"symptom": 0.85, "cause": 0.85, "fix": 1.0},
}


@dataclass(frozen=True, slots=True)
class Shares:
    """Mean nDCG@10 by share and direction, and each share minus the share in use, question by question."""

    means: Mapping[float, Mapping[Direction, float]]
    against: Mapping[float, Mapping[Direction, Difference]]


def sweep_shares(settings: Settings, *, seed: int = 1, progress: Progress = _silent) -> tuple[Shares, Shares]:
    """The share of the words in the fusion, and that of the first results' word, on the evaluation set that ships."""
    words = {share: replace(WEIGHTS, words=dict.fromkeys(WEIGHTS.words, share)) for share in SHARES}
    vouching = {share: replace(WEIGHTS, vouching=share) for share in SHARES}
    with own_problems(SETS["independent"]) as files, opened(settings, *files, progress) as bench:
        used = _scored(bench, WEIGHTS)
        swept = []
        for of in (words, vouching):
            rows = {}
            for number, (share, weights) in enumerate(of.items(), 1):
                rows[share] = _scored(bench, weights)
                progress("ranking with other shares", number, len(of))
            swept.append(rows)
    words_at, vouching_at = (
        Shares(
            {share: {d: sum(row.values()) / max(1, len(row)) for d, row in at.items()} for share, at in rows.items()},
            {share: {d: compare(row, used[d], seed) for d, row in at.items()} for share, at in rows.items()},
        )
        for rows in swept
    )
    return words_at, vouching_at


def _scored(bench: Bench, weights: Weights) -> dict[Direction, dict[str, float]]:
    """nDCG@10 of each question by direction."""
    parts, rounds = bench.parts, list(bench.rounds())
    engine = SearchEngine(parts.casebook, parts.store, parts.encoder, parts.settings.search, weights=weights)
    rankings = engine.rank([Question(q.text, Filters(languages=looked), DEEPEST) for _, q, looked, _ in rounds])
    found: dict[Direction, dict[str, float]] = {direction: {} for direction in DIRECTIONS}
    for (direction, question, _, right), ranking in zip(rounds, rankings, strict=True):
        order = [bench.names[entry.key] for entry in ranking.entries[:DEEPEST]]
        found[direction][question.qid] = score(order, right)["nDCG@10"]
    return found


def sweep_texts(settings: Settings, *, progress: Progress = _silent) -> Mapping[str, Mapping[str, float]]:
    """Mean reciprocal rank by the weights of the texts and by what is asked, on the sample history."""
    file = resources() / "etc/sample/questions.jsonl"
    asked = [json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip()]
    with throw_away(settings) as own, alone(own) as parts:
        load_sample(parts.database)
        done = 0
        while parts.indexer.step(64):
            done += 64
            progress("indexing the sample history", done, done)
        rankings = parts.engine.rank([Question(question["text"]) for question in asked])
        keys = {entry.key for ranking in rankings for entry in ranking.entries}
        names = {key: case.record_id for key, case in parts.casebook.by_ids(sorted(keys)).items()}
    found: dict[str, dict[str, list[float]]] = {}
    for label, weights in TEXTS.items():
        row = found.setdefault(label, {})
        for question, ranking in zip(asked, rankings, strict=True):
            head = [entry for entry in ranking.entries if entry.key in names]
            order = [names[entry.key] for entry in _order(head, weights)]
            row.setdefault(question["asks"], []).append(score(order, dict.fromkeys(question["right"], 1.0))["MRR"])
    return {label: {asks: sum(values) / len(values) for asks, values in row.items()} for label, row in found.items()}


def _order(head: Sequence[Entry], weights: Mapping[str, float]) -> list[Entry]:
    share = WEIGHTS.words["th", "th"]

    def rank(entry: Entry) -> tuple[float, int]:
        dense, _ = best_text(entry.cosines, weights)
        return (-(dense + added_by_words(dense, entry.coverage, share)), entry.key.int)

    return sorted(head, key=rank)
