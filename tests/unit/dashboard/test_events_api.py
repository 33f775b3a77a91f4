"""Events over HTTP: native, CloudEvents in both modes, many at once; each answered for itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from edge.analytics import Interpreter
from edge.config import Settings
from edge.dashboard.accounts import Role
from edge.db import Database
from edge.intake import quarantine
from edge.intake.http import ITEMS_MAX

SignIn = Callable[[Role], TestClient]

CAMERA = "andon/demo/assembly/line-1/cell-1/camera/cam-asm-1"


def stored(db: Database, settings: Settings) -> list[dict[str, Any]]:
    while Interpreter(settings, db).step():
        pass
    assert list(quarantine.every(db)) == []
    with db.transaction() as tx:
        found = [tx.one("event_name", inbox_id=number) for number in range(1, 10)]
    return [row for row in found if row]


def test_cloudevents_in_both_modes_are_one_event(sign_in: SignIn, db: Database, settings: Settings) -> None:
    client = sign_in("engineer")
    attributes = {"specversion": "1.0", "id": "ce 1", "source": "//plc/สาย-1", "type": "andon.camera.motion"}
    # Headers carry ASCII: the HTTP binding of CloudEvents percent-encodes the rest.
    headers = {f"ce-{name}": value for name, value in attributes.items()}
    headers["ce-source"] = "//plc/%E0%B8%AA%E0%B8%B2%E0%B8%A2-1"
    binary = client.post(
        "/api/v1/events", params={"topic": CAMERA}, content=b'{"score": 0.5}',
        headers={**headers, "content-type": "application/json"},
    )  # fmt: skip
    assert binary.status_code == 201, binary.text
    assert binary.json()[0] | {"reason": None} == {
        "source": "//plc/สาย-1", "id": "ce 1", "stored": True, "duplicate": False, "reason": None,
    }  # fmt: skip
    structured = client.post(
        "/api/v1/events", params={"topic": CAMERA}, content=json.dumps({**attributes, "data": {"score": 0.5}}),
        headers={"content-type": "application/cloudevents+json"},
    )  # fmt: skip
    assert structured.json()[0]["duplicate"] is True
    assert stored(db, settings) == [{"source": "//plc/สาย-1", "event_id": "ce 1"}]


def test_each_of_many_is_answered_for_itself(sign_in: SignIn, db: Database) -> None:
    client = sign_in("engineer")
    lines = [
        {"id": "1", "kind": "motion", "score": 0.1},
        {"id": "1", "kind": "motion", "score": 0.1},
        {"kind": "motion"},
    ]
    body = b"\n".join(json.dumps(line).encode() for line in lines) + b"\nnot json\n"
    headers = {"content-type": "application/x-ndjson"}
    answer = client.post("/api/v1/events", params={"topic": CAMERA}, content=body, headers=headers)
    assert answer.status_code == 201
    assert [(item["id"], item["duplicate"], item["reason"] is None) for item in answer.json()] == [
        ("1", False, True), ("1", True, True), (None, False, False), (None, False, False),
    ]  # fmt: skip
    again = client.post("/api/v1/events", params={"topic": CAMERA}, content=body, headers=headers)
    assert [item["duplicate"] for item in again.json()] == [True, True, False, False]
    many = client.post("/api/v1/events", params={"topic": CAMERA}, content=b"{}\n" * (ITEMS_MAX + 1), headers=headers)
    assert many.status_code == 422
    assert str(ITEMS_MAX) in many.json()["detail"]
