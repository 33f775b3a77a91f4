"""Score the starter on problems it has never read: `python models/starter/evaluate.py`.

Two sets, each searched by itself: `independent.txt`, told by people who had read none of the training texts, and what was
told by who wrote those, in two files whose records are searched together. For each direction (language of the question
→ language of the records; records of mixed language count as Thai, the language of their grammar) and for all records
together: nDCG@10 and recall@5, dense alone and fused with the lexical terms. Then robustness to typing, and how cosines
of the same and of different problems are spread.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

SETS = (("independent.txt",), ("problems.txt", "retold.txt"))
DIRECTIONS = (
    ("th→th", "th", "th"),
    ("en→en", "en", "en"),
    ("th→en", "th", "en"),
    ("en→th", "en", "th"),
    ("th→all", "th", ""),
    ("en→all", "en", ""),
)

from edge.embedding import Encoder, ensure_built, sparse_terms


@dataclass(frozen=True)
class Told:
    kind: str
    language: str
    text: str


def read_problems(path: Path) -> tuple[list[Told], list[Told]]:
    """Records and questions of an evaluation file."""
    records: list[Told] = []
    questions: list[Told] = []
    kind = ""
    for line in path.read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            kind = line.strip("[]")
            continue
        mark, _, text = line.partition(" ")
        (questions if mark.startswith("?") else records).append(Told(kind, mark.lstrip("?"), text))
    return records, questions


def lexical_scores(questions: list[Told], records: list[Told]) -> np.ndarray:
    """IDF-weighted products of sparse terms, [questions, records], as the vector store computes them."""
    documents = [sparse_terms(record.text) for record in records]
    seen = Counter(index for document in documents for index in document.indices)
    out = np.zeros((len(questions), len(records)))
    for q, question in enumerate(questions):
        terms = sparse_terms(question.text)
        wanted = {
            index: value * math.log(1 + (len(records) - seen[index] + 0.5) / (seen[index] + 0.5))
            for index, value in zip(terms.indices, terms.values, strict=True)
        }
        for r, document in enumerate(documents):
            out[q, r] = sum(
                wanted.get(i, 0.0) * value for i, value in zip(document.indices, document.values, strict=True)
            )
    return out


def ranked(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """nDCG@10 and recall@5 of each row of `scores`, [rows, 2]."""
    out = np.empty((len(scores), 2))
    for i, (row, right) in enumerate(zip(scores, relevant, strict=True)):
        order = np.argsort(-row, kind="stable")
        best = sum(1 / math.log2(place + 2) for place in range(min(10, int(right.sum()))))
        gained = sum(gain / math.log2(place + 2) for place, gain in enumerate(right[order][:10]))
        out[i] = gained / best, right[order][:5].sum() / min(5, right.sum())
    return out


def table(dense: np.ndarray, fused: np.ndarray, records: list[Told], questions: list[Told]) -> dict[str, np.ndarray]:
    """Scores of each question per direction: dense nDCG@10 and recall@5, fused nDCG@10 and recall@5."""
    asked = np.array(["th" if q.language == "mix" else q.language for q in questions])
    written = np.array(["th" if r.language == "mix" else r.language for r in records])
    relevant = np.array([[q.kind == r.kind for r in records] for q in questions]).astype(float)
    out = {}
    for name, q, r in DIRECTIONS:
        rows, columns = asked == q, (written == r) if r else np.ones(len(records), bool)
        pick = np.ix_(rows, columns)
        out[name] = np.hstack([ranked(dense[pick], relevant[pick]), ranked(fused[pick], relevant[pick])])
    return out


def interval(scores: dict[str, np.ndarray], column: int, rounds: int = 2000) -> tuple[float, float]:
    """95% interval of the mean of the four directions, by drawing the questions again (percentile bootstrap)."""
    rng = np.random.default_rng(7)
    means = [
        np.mean([rng.choice(scores[name][:, column], len(scores[name])).mean() for name, _, r in DIRECTIONS if r])
        for _ in range(rounds)
    ]
    return float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))


def show(title: str, scores: dict[str, np.ndarray]) -> None:
    """One table in Markdown."""
    print(f"\n{title}\n| direction | dense nDCG@10 | recall@5 | fused nDCG@10 | recall@5 |\n|---|---|---|---|---|")
    for name, values in scores.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values.mean(axis=0)) + " |")
    four = np.mean([scores[name].mean(axis=0) for name, _, r in DIRECTIONS if r], axis=0)
    print("| **mean of the four** | " + " | ".join(f"{value:.3f}" for value in four) + " |")
    for name, column in (("dense", 0), ("fused", 2)):
        low, high = interval(scores, column)
        print(f"{name} nDCG@10, mean of the four: 95% interval {low:.3f} to {high:.3f}")


def mistype(text: str, rng: random.Random, rate: float) -> str:
    """Swap or drop neighbouring letters at `rate`."""
    letters = list(text)
    for i in range(len(letters) - 1):
        if rng.random() < rate and not letters[i].isspace():
            if rng.random() < 0.5:
                letters[i], letters[i + 1] = letters[i + 1], letters[i]
            else:
                letters[i] = ""
    return "".join(letters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a built model folder; the starter is built where it is missing")
    parser.add_argument("--weight", type=float, default=0.1, help="weight of the scaled lexical score in the fusion")
    options = parser.parse_args()
    encoder = Encoder.open(options.model or ensure_built(HERE.parent), threads=2)
    for names in SETS:
        files = [read_problems(HERE / "eval" / name) for name in names]
        records = [record for told, _ in files for record in told]
        questions = [question for _, asked in files for question in asked]
        of_file = np.repeat(np.arange(len(files)), [len(asked) for _, asked in files])
        asked, written = (encoder.encode([t.text for t in told]) for told in (questions, records))
        dense = asked @ written.T
        lexical = lexical_scores(questions, records)
        # Each question's lexical scores are scaled by what its best record gets, as the fusion in search does.
        fused = dense + options.weight * lexical / np.maximum(lexical.max(axis=1, keepdims=True), 1e-9)
        print(
            f"\n{len({r.kind for r in records})} kinds of problem, {len(records)} records, {len(questions)} questions"
        )
        for title, rows in (
            (" and ".join(names), of_file >= 0),
            *((f"questions of {name}", of_file == i) for i, name in enumerate(names) if len(names) > 1),
        ):
            show(
                title, table(dense[rows], fused[rows], records, [q for q, r in zip(questions, rows, strict=True) if r])
            )
        spreads(dense, questions, records)
    robustness(encoder, records)
    stats = encoder.stats()
    print(f"unknown words: {stats.unknown_tokens / (stats.tokens + stats.unknown_tokens):.3%}")


def spreads(dense: np.ndarray, questions: list[Told], records: list[Told]) -> None:
    """How cosines of the same and of other problems lie, and what a threshold would find."""
    print()
    same = np.array([[q.kind == r.kind for r in records] for q in questions])
    for name, mask in (("same problem", same), ("another problem", ~same)):
        spread = np.percentile(dense[mask], [5, 50, 95, 99])
        print(f"cosine, {name}: " + ", ".join(f"{p}% {v:.2f}" for p, v in zip((5, 50, 95, 99), spread, strict=True)))

    best = dense.max(axis=1)
    right = same[np.arange(len(questions)), dense.argmax(axis=1)]
    print(f"the best record is of the same problem: {right.mean():.3f}; of best records at least")
    for at in (0.6, 0.5, 0.4, 0.3):
        chosen = dense >= at
        print(
            f"  {at:.2f}: {right[best >= at].mean():.2f} of the best records right ({np.mean(best >= at):.2f} of the "
            f"questions); of all pairs {same[chosen].mean():.2f} right, {chosen[same].mean():.2f} of the right ones found"
        )


def robustness(encoder: Encoder, records: list[Told]) -> None:
    """Typing slips: whether a Thai sentence still finds its English translation first."""
    pairs = [line.split(" || ") for line in (HERE / "eval" / "robustness.txt").read_text("utf-8").splitlines() if line]
    english = encoder.encode([pair[1] for pair in pairs] + [r.text for r in records if r.language == "en"])
    rng = random.Random(7)
    for name, change in (
        ("as written", lambda t: t),
        ("no spaces", lambda t: t.replace(" ", "")),
        ("3% typing slips", lambda t: mistype(t, rng, 0.03)),
        ("6% typing slips", lambda t: mistype(t, rng, 0.06)),
    ):
        found = (encoder.encode([change(pair[0]) for pair in pairs]) @ english.T).argmax(axis=1)
        print(
            f"Thai sentence finds its English translation first, {name}: {np.mean(found == np.arange(len(pairs))):.3f}"
        )
    own = np.sum(encoder.encode([p[0] for p in pairs]) * english[: len(pairs)], axis=1)
    print("cosine, translations: " + ", ".join(f"{p}% {np.percentile(own, p):.2f}" for p in (5, 50, 95)))


if __name__ == "__main__":
    main()
