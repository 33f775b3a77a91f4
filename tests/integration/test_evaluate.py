"""`edge evaluate` on the problems the starter has never read, and on files that are wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edge import config
from edge.cli import app
from edge.config import Settings
from edge.errors import Rejected
from edge.roles.evaluate import (
    SETS,
    Run,
    differences,
    evaluate,
    own_problems,
    read_judgements,
    read_queries,
    read_run,
)
from edge.roles.sweep import sweep_texts
from edge.search import Mode
from edge.search.measure import DIRECTIONS, compare, estimate, languages_of, score


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def problems() -> Iterator[tuple[Path, Path, Path]]:
    """The held-out problems as a history, questions and judgements."""
    with own_problems(SETS["own"][:1]) as files:
        yield files


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of an appliance that nobody may touch: its data directory must stay as it is."""
    return config.load(environ={"EDGE__DATA__DIR": str(tmp_path_factory.mktemp("appliance") / "data")})


@pytest.fixture(scope="module")
def runs(problems: tuple[Path, Path, Path], own: Settings) -> dict[Mode, Run]:
    return {run.mode: run for run in evaluate(own, *problems, modes=list(Mode))}


def test_problems_never_read_are_found_in_every_direction(runs: dict[Mode, Run], own: Settings) -> None:
    hybrid = runs[Mode.HYBRID].table
    assert [*hybrid] == [*DIRECTIONS]
    for direction, least in (("th→th", 0.8), ("en→en", 0.75), ("th→en", 0.6), ("en→th", 0.6), ("all", 0.65)):
        found = hybrid[direction]["nDCG@10"]
        assert found.queries >= 30
        assert least <= found.mean <= 1
        assert found.low < found.mean < found.high
    assert not own.data.dir.exists(), "the appliance's data directory is never opened"


def test_words_alone_find_less_and_do_no_harm_in_the_fusion(runs: dict[Mode, Run]) -> None:
    dense, lexical, hybrid = (runs[mode].table for mode in (Mode.DENSE, Mode.LEXICAL, Mode.HYBRID))
    assert lexical["th→en"]["MRR"].mean < dense["th→en"]["MRR"].mean
    for direction in DIRECTIONS:
        assert hybrid[direction]["nDCG@10"].mean >= dense[direction]["nDCG@10"].mean - 0.03


def test_the_weights_of_the_texts_are_measured_on_the_sample_history(own: Settings) -> None:
    found = {label: sum(row.values()) / len(row) for label, row in sweep_texts(own).items()}
    assert found["1, 0.95, 0.95"] > 0.6
    assert found["1, 0.95, 0.95"] > max(found["symptom alone"], found["cause alone"], found["fix alone"])


def test_two_runs_are_compared_question_by_question(runs: dict[Mode, Run], tmp_path: Path) -> None:
    file = tmp_path / "lexical.json"
    file.write_text(json.dumps(runs[Mode.LEXICAL].as_json(), ensure_ascii=False), "utf-8")
    found = differences(runs[Mode.HYBRID], read_run(file))
    assert found["th→en"]["nDCG@10"].sure
    assert found["th→en"]["nDCG@10"].mean > 0
    same = differences(runs[Mode.LEXICAL], read_run(file))["all"]["MRR"]
    assert (same.mean, same.low, same.high, same.sure) == (0, 0, 0, False)


def test_the_command_prints_a_table_and_writes_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE__DATA__DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    cases = write(
        tmp_path / "cases.jsonl",
        [
            {"id": "a", "description": "สายพานหยุดเอง", "timestamp": "2026-01-05"},
            {"id": "b", "description": "Motor too hot", "timestamp": "2026-01-05"},
        ],
    )
    queries = write(
        tmp_path / "queries.jsonl", [{"qid": "1", "text": "สายพานหยุดบ่อย"}, {"qid": "2", "text": "hot motor"}]
    )
    (tmp_path / "qrels").write_text("1 0 a 2\n1 0 b 0\n2 0 b 1\n", "utf-8")
    command = ["evaluate", str(cases), str(queries), str(tmp_path / "qrels"), "--output", str(tmp_path / "run.json")]
    first = CliRunner().invoke(app, command, catch_exceptions=False)
    assert first.exit_code == 0
    assert "th→th" in first.stdout
    assert "2 cases, 2 questions" in first.stdout
    run = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert run["table"]["th→th"]["MRR"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "queries": 1}
    assert run["table"]["th→en"]["MRR"]["queries"] == 0, "no English case is right for the Thai question"
    assert [hit["id"] for hit in run["results"]["1"]][:1] == ["a"]
    assert not (tmp_path / "data").exists()


# --- the metrics against worked examples ----------------------------------------------------------------------------


def test_the_metrics_of_a_ranking() -> None:
    found = score(["x", "a", "y", "b", "z", "c"], {"a": 1, "b": 2, "c": 1})
    # (1/log2 3 + 3/log2 5 + 1/log2 7) / (3/log2 2 + 1/log2 3 + 1/log2 4)
    assert found["nDCG@10"] == pytest.approx((0.63093 + 1.29203 + 0.35621) / (3 + 0.63093 + 0.5), abs=1e-4)
    assert found["recall@5"] == pytest.approx(2 / 3)
    assert found["MRR"] == pytest.approx(1 / 2)
    assert set(score(["x"], {"a": 1}).values()) == {0.0}
    assert set(score(["a"], {"a": 3}).values()) == {1.0}


def test_intervals_are_the_same_for_the_same_seed_and_hold_the_mean() -> None:
    values = [0.0, 1.0, 0.5, 0.25, 1.0, 0.75, 0.5]
    assert estimate(values, 1) == estimate(values, 1)
    found = estimate(values, 1)
    assert found.low < found.mean < found.high
    assert estimate([], 1).queries == 0
    paired = compare({"a": 0.9, "b": 0.8, "c": 1.0}, {"a": 0.5, "b": 0.4, "d": 1.0}, 1)
    assert (paired.queries, paired.sure) == (2, True)
    assert paired.mean == pytest.approx(0.4)


def test_a_direction_says_who_asks_and_what_is_looked_through() -> None:
    assert languages_of("th→en") == ("th", ("en",))
    assert languages_of("en→th") == ("en", ("th", "mixed"))
    assert languages_of("all") == (None, ())


# --- files that are wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[]", "Line 1 of q.jsonl is not of the form"),
        ('{"qid": "1"}', "not of the form"),
        ('{"qid": "1", "text": " "}', "not of the form"),
        ('{"qid": "1", "text": "x", "language": "fr"}', "must be th, en or mixed"),
        ('{"qid": "1", "text": "x"}\n{"qid": "1", "text": "y"}', "repeats the qid 1"),
        ("", "asks nothing"),
    ],
)
def test_wrong_questions_are_refused_in_words(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "q.jsonl").write_text(line, "utf-8")
    with pytest.raises(Rejected, match=said):
        read_queries(tmp_path / "q.jsonl")


@pytest.mark.parametrize(
    "line", ["1 0 a", "1 0 a x", "1 0 a -1", '{"qid": "1"}', '{"id": "a"}', '{"qid": "1", "id": "a", "grade": null}']
)
def test_wrong_judgements_are_refused_in_words(tmp_path: Path, line: str) -> None:
    (tmp_path / "j").write_text(line, "utf-8")
    with pytest.raises(Rejected, match="Line 1 of j"):
        read_judgements(tmp_path / "j")


def test_judgements_of_what_is_not_there_are_refused(tmp_path: Path, own: Settings) -> None:
    cases = write(tmp_path / "c.jsonl", [{"id": "a", "description": "x", "timestamp": "2026-01-05"}])
    queries = write(tmp_path / "q.jsonl", [{"qid": "1", "text": "x"}])
    with pytest.raises(Rejected, match="question 2, which is not in"):
        evaluate(own, cases, queries, write(tmp_path / "j", [{"qid": "2", "id": "a"}]))
    with pytest.raises(Rejected, match="the case b for 1"):
        evaluate(own, cases, queries, write(tmp_path / "j", [{"qid": "1", "id": "b"}]))
    with pytest.raises(Rejected, match="judges nothing as right"):
        read_judgements(write(tmp_path / "j", [{"qid": "1", "id": "a", "grade": 0}]))


@pytest.mark.parametrize("written", ["[]", "{}", '{"per_query": 1}', "no"])
def test_a_run_that_is_none_cannot_be_compared(runs: dict[Mode, Run], tmp_path: Path, written: str) -> None:
    (tmp_path / "run.json").write_text(written, "utf-8")
    with pytest.raises(Rejected, match="run"):
        differences(runs[Mode.DENSE], read_run(tmp_path / "run.json"))
