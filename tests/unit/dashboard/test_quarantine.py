"""What cannot be understood is kept with its bytes, found, taken out, and read again after a fix."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from edge.analytics import Interpreter
from edge.config import Settings
from edge.contract import Limits
from edge.dashboard.accounts import Role
from edge.db import Database
from edge.intake import Arrival, quarantine, store
from edge.intake.quarantine import Wanted

SignIn = Callable[[Role], TestClient]

PLACE = "andon/demo/assembly/line-1/cell-1"
HAND = f"{PLACE}/report/hand"

POISON = [
    b"\xff\xfe\x00", '{"text": "สายพาน'.encode(), b"[1]", b"", b'{"text": NaN}', b'{"text": "x", "n": 1e400}',
    b'{"text": "x", "n": ' + b"7" * 5_000 + b"}", b'{"a":' * 60 + b"1" + b"}" * 60, b'{"text": "\\u0000"}',
    b'{"text": "\\ud800"}', b'{"text": "x", "text": "y"}', b'{"text": "' + b"x" * 300_000 + b'"}', b'{"text": 5}',
    b'{"text": "x", "time": "9999-12-31T23:59:59Z"}', b'{"text": "x", "time": "2569-01-01T00:00:00+07:00"}',
    b'{"text": "x", "time": "9999-12-31T23:59:59-12:00"}', b'{"text": "x", "time": "0001-01-01T00:00:00+14:00"}',
    b'{"kind": "dance"}', b'{"text": "x", "' + b"k" * 300 + b'": 1}', b'{"text": "x", "l": [' + b"1," * 10_001 + b"1]}",
    '{"text": "x"}'.encode("utf-16"), b'{"text": "x", "n": 0.' + b"1" * 100 + b"}",
]  # fmt: skip


def interpreted(settings: Settings, db: Database) -> None:
    while Interpreter(settings, db).step():
        pass


@pytest.fixture
def poisoned(settings: Settings, db: Database) -> list[int]:
    store(db, [Arrival("mqtt", HAND, payload) for payload in POISON], Limits())
    other = f"{PLACE}/camera/cam-9"
    store(db, [Arrival("http", other, b'{"id": "7", "kind": "idle", "seconds": -1}', "application/json")], Limits())
    interpreted(settings, db)
    return [row["inbox_id"] for row in quarantine.every(db)]


def test_all_of_the_poison_is_kept_with_its_bytes_and_a_reason(poisoned: list[int], db: Database) -> None:
    rows = list(quarantine.every(db))
    assert len(rows) == len(POISON) + 1
    assert sorted(bytes(row["payload"]) for row in rows if row["source"] == "hand") == sorted(POISON)
    for row in rows:
        assert row["reason"].endswith(".")
        assert "fault in the appliance" not in row["reason"], row["reason"]


def test_they_are_found_by_source_topic_reason_content_and_time(
    sign_in: SignIn, poisoned: list[int], db: Database
) -> None:
    client = sign_in("engineer")

    def found(**asked: str) -> list[int]:
        answer = client.get("/api/v1/quarantine", params={**asked, "limit": "500"})
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert len(found()) == len(POISON) + 1
    assert len(found(source="cam-9")) == 1
    assert len(found(topic="/camera/")) == 1
    assert len(found(reason="buddhist YEAR")) == 1
    assert len(found(text="สายพาน")) == 1
    assert found(text="\x00 nothing") == []
    assert found(since=(datetime.now(UTC) + timedelta(hours=1)).isoformat()) == []
    assert len(found(until=(datetime.now(UTC) + timedelta(hours=1)).isoformat())) == len(POISON) + 1
    pages, before = [], None
    while True:
        answer = client.get(
            "/api/v1/quarantine", params={"limit": "5", **({"before": before} if before else {})}
        ).json()
        pages += [item["id"] for item in answer["items"]]
        before = answer["before"]
        if before is None:
            break
    assert pages == poisoned, "pages never repeat or skip"
    assert sign_in("supervisor").get("/api/v1/quarantine").status_code == 403
    page = client.get("/quarantine", params={"reason": "Buddhist"}).text
    assert "2569" in page
    assert page.count('class="panel poison"') == 1


def test_the_export_holds_every_byte(sign_in: SignIn, poisoned: list[int]) -> None:
    client = sign_in("engineer")
    for address in ("/api/v1/quarantine/export", "/quarantine/export"):
        lines = [json.loads(line) for line in client.get(address).text.split("\n") if line]
        assert [line["id"] for line in lines] == poisoned
        assert sorted(base64.b64decode(line["payload_base64"]) for line in lines if line["source"] == "hand") == sorted(
            POISON
        )


def test_after_a_fix_one_or_all_that_match_are_read_again(
    sign_in: SignIn, settings: Settings, db: Database, poisoned: list[int]
) -> None:
    client = sign_in("engineer")
    looser = settings.model_copy(update={"intake": settings.intake.model_copy(update={"max_items": 100_000})})
    (one,) = [row["inbox_id"] for row in quarantine.find(db, Wanted(reason="max_items"))]
    origin = {"origin": "http://testserver"}
    answer = client.post("/api/v1/quarantine/replay", params={"id": [one]}, headers=origin)
    assert answer.json() == {"replayed": 1}
    interpreted(looser, db)
    assert one not in [row["inbox_id"] for row in quarantine.every(db)]
    assert client.post("/quarantine/release", data={"source": "hand"}, headers=origin).status_code in (200, 303)
    assert [row["source"] for row in quarantine.every(db)] == ["cam-9"]
    interpreted(looser, db)
    assert len(list(quarantine.every(db))) == len(POISON), "what is still wrong comes back, and nothing is lost"


def test_from_a_shell(settings: Settings, poisoned: list[int]) -> None:
    def edge(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ, "EDGE__DATABASE__DSN": settings.database.dsn.get_secret_value(), "COLUMNS": "200",
            "EDGE__DATA__DIR": str(settings.data.dir),
        }  # fmt: skip
        command = [sys.executable, "-m", "edge", "quarantine", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)

    listed = edge("list", "--reason", "Buddhist")
    assert listed.returncode == 0, listed.stderr
    assert "2026" in listed.stdout
    assert "hand" in listed.stdout
    exported = edge("export", "--source", "cam-9")
    assert json.loads(exported.stdout)["event_id"] == "7"
    assert edge("replay").returncode == 1
    replayed = edge("replay", "--source", "cam-9")
    assert "1 event put back" in replayed.stdout, replayed.stderr
