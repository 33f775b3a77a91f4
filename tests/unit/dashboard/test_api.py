"""The JSON API as a program meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from dashboard_parts import ToldSearch, live_case, past_case
from fastapi import FastAPI
from fastapi.testclient import TestClient

from edge.cases import Casebook
from edge.dashboard.accounts import Role, create_token
from edge.db import Database
from edge.search import Where

TOPIC = "andon/demo/assembly/line-1/cell-1/report/hand"


@pytest.fixture
def program(app: FastAPI, db: Database) -> TestClient:
    """A program with a token that may read and write; it sends no Origin and no cookie."""
    token = create_token(db, "program", ["read", "write"], 1)
    return TestClient(app, headers={"Authorization": f"Bearer {token}"})


def problem(answer: Any, status: int) -> str:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body.keys() - {"field", "allowed"} == {"type", "title", "status", "detail"}
    assert body["status"] == status
    return str(body["detail"])


def test_search_returns_the_records_own_ids_with_bands(program: TestClient, db: Database) -> None:
    past_case(db, "ASM-2025-001")
    answer = program.post("/api/v1/search", json={"text": "สายพานหยุด", "limit": 5})
    assert answer.status_code == 200
    (hit,) = answer.json()["results"]
    assert (hit["id"], hit["band"], hit["collection"]) == ("ASM-2025-001", "very_similar", "anomaly_patterns")
    assert hit["case"]["resolution"] == "Cleaned the lens"


def test_filters_and_collections_reach_the_search(program: TestClient, told: ToldSearch) -> None:
    asked = {
        "text": "belt", "collections": ["incident_reports"],
        "filters": {"severities": ["high"], "since": "2026-01-01T00:00:00+07:00"},
    }  # fmt: skip
    assert program.post("/api/v1/search", json=asked).status_code == 200
    assert told.asked[-1].collections == ("incident_reports",)
    assert told.asked[-1].filters.severities == ("high",)
    where = {"field": "timestamp", "gte": "2026-01-01T00:00:00+07:00"}
    asked = {
        "text": "belt", "mode": "dense", "threshold": 0.5, "diversity": 0.2, "limit": 3,
        "filters": {"last": "24h", "must_not": [{"field": "tags", "any_of": ["drill"]}], "must": [where]},
    }  # fmt: skip
    assert program.post("/api/v1/search", json=asked).status_code == 200
    question = told.asked[-1]
    assert (question.mode, question.threshold, question.diversity, question.limit) == ("dense", 0.5, 0.2, 3)
    assert question.filters.must == (Where("timestamp", gte=datetime.fromisoformat(where["gte"])),)
    assert question.filters.must_not == (Where("tags", ("drill",)),)
    assert question.filters.last == "24h"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": ""},
        {"text": "x", "limit": 0},
        {"text": "x", "offset": -1},
        {"text": "x", "colour": "red"},
        {"text": "x", "filters": {"since": "2026-01-01T00:00:00"}},
        {"text": "x", "filters": {"outcomes": ["maybe"]}},
        {"text": "x", "collections": ["no_such"]},
    ],
)
def test_a_wrong_question_is_a_sentence(program: TestClient, body: dict[str, Any]) -> None:
    assert problem(program.post("/api/v1/search", json=body), 422).endswith(".")


def test_a_batch_answers_each_question_by_its_qid(program: TestClient, db: Database) -> None:
    past_case(db, "ASM-2025-001")
    queries = [{"qid": "q1", "text": "belt"}, {"qid": "q2", "text": "สายพาน"}]
    answer = program.post("/api/v1/search/batch", json={"queries": queries})
    assert answer.json() == {name: [{"id": "ASM-2025-001", "score": 0.8}] for name in ("q1", "q2")}
    twice = program.post("/api/v1/search/batch", json={"queries": queries[:1] * 2})
    assert "twice" in problem(twice, 422)


def test_a_case_and_what_is_like_it(program: TestClient, db: Database, casebook: Casebook) -> None:
    past_case(db, "A/B 1")
    case = live_case(casebook)
    assert program.get(f"/api/v1/cases/{case.record_id}").json()["status"] == "open"
    assert program.get("/api/v1/cases/A%2FB%201").json()["id"] == "A/B 1"
    assert program.get(f"/api/v1/cases/{case.record_id}/similar").json()["results"][0]["id"] == "A/B 1"
    assert "NOPE" in problem(program.get("/api/v1/cases/NOPE"), 404)


def test_an_event_is_in_postgres_when_201_says_so(program: TestClient, db: Database) -> None:
    body = {"id": "e-1", "text": "ไฟดับ"}
    first = program.post("/api/v1/events", params={"topic": TOPIC}, json=body)
    assert first.status_code == 201
    assert first.json()[0]["stored"]
    assert not first.json()[0]["duplicate"]
    assert program.post("/api/v1/events", params={"topic": TOPIC}, json=body).json()[0]["duplicate"]
    lines = "\n".join(json.dumps({"id": f"n-{number}", "text": "x"}) for number in range(3)) + "\n\n"
    many = program.post(
        "/api/v1/events", params={"topic": TOPIC}, content=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    assert [row["id"] for row in many.json()] == ["n-0", "n-1", "n-2"]
    with db.transaction() as tx:
        assert len(tx.all("inbox_claim", limit=10)) == 4


def test_poison_over_http_is_stored_too_and_its_sender_told(program: TestClient) -> None:
    answer = program.post("/api/v1/events", params={"topic": TOPIC}, content=b"\xff{")
    assert answer.status_code == 201
    assert answer.json()[0]["reason"]
    assert "event" in problem(program.post("/api/v1/events", params={"topic": TOPIC}, content=b"  "), 422)
    assert "topic" in problem(program.post("/api/v1/events", params={"topic": "a/b"}, json={}), 422)
    assert "topic" in problem(program.post("/api/v1/events", json={}), 422)


def test_tokens_do_what_they_are_for_and_no_more(app: FastAPI, db: Database) -> None:
    reader = TestClient(app, headers={"Authorization": f"Bearer {create_token(db, 'reader', ['read'], 1)}"})
    assert reader.get("/api/v1/status").status_code == 200
    assert "write" in problem(reader.post("/api/v1/events", params={"topic": TOPIC}, json={"id": "1"}), 403)
    with db.transaction() as tx:
        tx.script("UPDATE api_token SET expires_at = now() - interval '1 second'")
    assert "token" in problem(reader.get("/api/v1/status"), 401)
    stranger = TestClient(app)
    answer = stranger.get("/api/v1/status")
    assert answer.headers["www-authenticate"] == "Bearer"
    problem(answer, 401)


def test_a_signed_in_person_may_use_it_from_our_pages_only(sign_in: Callable[[Role], TestClient]) -> None:
    client = sign_in("engineer")
    assert client.post("/api/v1/search", json={"text": "belt"}).status_code == 200
    problem(client.post("/api/v1/search", json={"text": "belt"}, headers={"Origin": "http://evil.example"}), 403)


def test_an_index_that_is_away_is_a_503_to_retry(program: TestClient, told: ToldSearch) -> None:
    told.down = "The index does not answer."
    assert problem(program.post("/api/v1/search", json={"text": "belt"}), 503) == told.down
    status = program.get("/api/v1/status").json()
    assert status["problem"] == told.down
    assert status["counts"]["open"] == 0


def test_the_api_describes_itself(program: TestClient) -> None:
    described = program.get("/api/v1/openapi.json").json()
    assert set(described["paths"]) >= {
        "/api/v1/search", "/api/v1/search/batch", "/api/v1/cases/{record_id}", "/api/v1/cases/{record_id}/similar",
        "/api/v1/events", "/api/v1/status",
    }  # fmt: skip
    assert not [path for path in described["paths"] if not path.startswith("/api/")]
