"""The whole appliance as its user starts it, with its own command, on real parts, killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import paho.mqtt.client as paho
import psutil
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge.doors.mosquitto import free_port

PLACE = "andon/demo/assembly/line-2/cell-1"


def eventually(check: Callable[[], Any], within: float = 20) -> Any:
    """The first true answer of `check`; what raises meanwhile counts as not yet."""
    deadline = time.monotonic() + within
    last: object = None
    while time.monotonic() < deadline:
        try:
            if answer := check():
                return answer
            last = answer
        except (httpx.HTTPError, OSError, psycopg.Error, KeyError) as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"not within {within} s: {last!r}")


class Appliance:
    def __init__(self, data: Path, **settings: str) -> None:
        self.data = data
        self.port = free_port()
        self.env = {
            **os.environ,
            "EDGE__DATA__DIR": str(data),
            "EDGE__WEB__PORT": str(self.port),
            # Not of those that other tests' brokers look through: one would take it while this broker is dead.
            "EDGE__BROKER__PORT": str(free_port()),
            "EDGE__PLANT__SAMPLE": "true",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10, trust_env=False)

    def start(self) -> float:
        """Seconds until it said that it runs."""
        began = time.monotonic()
        with (self.data.parent / "out.txt").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge", "run"], env=self.env, stdout=out, stderr=out, start_new_session=True
            )
        # The card of an appliance that was killed stays until the next one takes it away.
        process = self.process
        eventually(lambda: self.card()["pid"] == process.pid, within=90)
        eventually(lambda: self.client.get("/readyz").status_code == 200, within=30)
        token = (self.data / "run/local-token").read_text()
        self.client.headers["Authorization"] = f"Bearer {token}"
        return time.monotonic() - began

    def card(self) -> dict[str, Any]:
        return dict(json.loads((self.data / "run/appliance.json").read_text()))

    def stop(self) -> float:
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(15)
        return time.monotonic() - began

    def edge(self, *words: str, within: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edge", *words], env=self.env, capture_output=True, text=True, timeout=within
        )

    def children(self, word: str) -> list[psutil.Process]:
        assert self.process is not None
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if word in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.card()["dsn"]) as connection:
            return connection.execute(sql).fetchall()

    def post(self, path: str, body: Any) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def broker(self) -> tuple[str, int]:
        host, _, port = self.card()["broker"].rpartition("/")[2].partition(":")
        return host, int(port)


@pytest.fixture(scope="module")
# One appliance lives through all of these in their order: tests of a file stay together (--dist loadfile).
def appliance() -> Iterator[Appliance]:
    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    made = Appliance(folder / "data")
    made.start()
    eventually(lambda: made.query("SELECT count(*) FROM point")[0][0] >= 200, within=60)
    yield made
    made.client.close()
    if made.process and made.process.poll() is None:
        made.stop()
    shutil.rmtree(folder, ignore_errors=True)


class Publisher:
    """Publishes until the appliance's receipt comes, as an integrator's client that must lose nothing does."""

    def __init__(self, appliance: Appliance, source: str) -> None:
        self.source = source
        self.open: dict[str, bytes] = {}
        self.receipted: set[str] = set()
        self._lock = threading.Lock()
        self._appliance = appliance
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"test-{source}", protocol=paho.MQTTv5)
        self._client.on_message = self._receipt
        self._client.on_connect = lambda client, *_: client.subscribe(f"andon/demo/andon/receipt/{source}")
        self._client.reconnect_delay_set(1, 1)
        host, port = appliance.broker()
        self._client.connect(host, port, keepalive=5)
        self._client.loop_start()

    def _receipt(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        with self._lock:
            for identity in json.loads(message.payload)["ids"]:
                self.receipted.add(identity)
                self.open.pop(identity, None)

    def send(self, identity: str, body: dict[str, Any], event_class: str = "report") -> None:
        payload = json.dumps({"id": identity, **body}, ensure_ascii=False).encode()
        with self._lock:
            self.open[identity] = payload
        self._client.publish(f"{PLACE}/{event_class}/{self.source}", payload, qos=1)

    def settle(self, within: float = 45) -> None:
        """Send again what has no receipt yet, until everything has."""
        deadline = time.monotonic() + within
        while self.open:
            assert time.monotonic() < deadline, f"{len(self.open)} events never got a receipt"
            with self._lock:
                again = dict(self.open)
            for payload in again.values():
                self._client.publish(f"{PLACE}/report/{self.source}", payload, qos=1)
            time.sleep(1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # A client that was waiting to connect again when it was asked to stop leaves its socket to us.
        if (left := self._client.socket()) is not None:
            left.close()


def live(appliance: Appliance, text: str) -> dict[str, Any] | None:
    for row in appliance.query("SELECT record_id, description FROM cases WHERE status <> 'closed'"):
        if row[1] == text:
            return dict(appliance.client.get(f"/api/v1/cases/{row[0]}").json())
    return None


def test_an_event_published_by_hand_is_a_case_with_past_cases(appliance: Appliance) -> None:
    from edge.doors.mosquitto import find

    text = "สายพาน CONV-002 หยุดเอง หน้าจอฟ้องงานติด"
    host, port = appliance.broker()
    program = find("mosquitto_pub")
    assert program is not None, "mosquitto_pub is part of what `make demo` installs"
    payload = json.dumps({"id": "hand-1", "text": text}, ensure_ascii=False)
    command = [program, "-h", host, "-p", str(port), "-q", "1", "-t", f"{PLACE}/report/hand", "-m", payload]
    subprocess.run(command, check=True, timeout=10)
    case = eventually(lambda: live(appliance, text))
    looked = f"SELECT 1 FROM case_lookup JOIN cases ON id = case_id WHERE record_id = '{case['id']}'"
    eventually(lambda: appliance.query(looked))
    similar = appliance.client.get(f"/api/v1/cases/{case['id']}/similar").json()["results"]
    assert "ASM-2025" in similar[0]["id"]
    assert similar[0]["case"]["resolution"]


def test_a_signal_tower_and_a_webhook_are_told(appliance: Appliance) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    taken: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    states: dict[str, dict[str, Any]] = {}
    tower = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    tower.on_message = lambda _c, _d, message: states.update({message.topic: json.loads(message.payload)})
    tower.connect(*appliance.broker())
    tower.subscribe("andon/demo/andon/zone/+", qos=1)
    tower.loop_start()
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/andon"
        added = appliance.edge("webhook", "add", "mes", url, "--event", "matched", "--internal", "--plain")
        assert added.stdout.startswith("whsec_"), added.stderr
        assert appliance.edge("webhook", "test", "mes").returncode == 0
        text = "COMP-02 ตัดเพราะน้ำมันร้อนเกิน"
        publisher = Publisher(appliance, "tower-1")
        publisher.send("tower-1", {"text": text, "severity": "critical"})
        publisher.settle()
        publisher.close()
        case = eventually(lambda: live(appliance, text))
        eventually(lambda: [event for event in taken if event["case"] and event["case"]["record_id"] == case["id"]])
        state = eventually(
            lambda: [
                s for s in states.values() if s["case"] and s["case"]["record_id"] == case["id"] and s["case"]["best"]
            ]
        )[0]
        assert (state["colour"], state["flashing"], state["severity"]) == ("red", True, "critical")
        server.shutdown()
    tower.disconnect()
    tower.loop_stop()


def test_every_arrow_of_the_path_is_a_row(appliance: Appliance) -> None:
    path = (
        "SELECT i.state, e.kind, c.record_id, p.collection, o.done_at IS NOT NULL"
        " FROM inbox i JOIN event e ON e.inbox_id = i.id JOIN case_event ce ON ce.inbox_id = i.id"
        " JOIN cases c ON c.id = ce.case_id JOIN point p ON p.entity_id = c.id JOIN outbox o ON o.entity_id = c.id"
        " WHERE i.event_id = 'hand-1'"
    )
    state, kind, _, collection, told = eventually(lambda: appliance.query(path))[0]
    assert (state, kind, collection, told) == ("done", "report", "anomaly_patterns", True)


def test_closing_a_case_makes_it_findable_by_its_fix(appliance: Appliance) -> None:
    import re

    publisher = Publisher(appliance, "closing")
    publisher.send("closing-1", {"text": "ปั๊มจารบีไม่จ่ายน้ำมัน"})
    case = eventually(lambda: live(appliance, "ปั๊มจารบีไม่จ่ายน้ำมัน"), within=5)
    publisher.close()
    user, password = (appliance.data / "run/first-sign-in.txt").read_text().split()
    with httpx.Client(base_url=appliance.client.base_url, follow_redirects=True, trust_env=False) as browser:
        origin = {"Origin": str(browser.base_url).rstrip("/")}
        signed = browser.post("/sign-in", data={"username": user, "password": password}, headers=origin)
        assert signed.is_success
        page = browser.get(f"/cases/{case['id']}").text
        action = re.search(r'action="([^"]*/close)"', page)
        assert action is not None
        fix = {"root_cause": "ท่อตัน", "resolution": "blew out the grease line with nitrogen", "outcome": "held"}
        assert browser.post(action[1], data=fix, headers=origin).is_success

    def found() -> bool:
        asked = {"text": "nitrogen through the grease line"}
        return bool(appliance.post("/api/v1/search", asked)["results"][0]["id"] == case["id"])

    eventually(found)


def test_import_and_search_work_beside_it(appliance: Appliance, tmp_path: Path) -> None:
    row = {
        "id": "OLD-1", "kind": "anomaly", "description": "ใบเลื่อยสายพานขาดกลางงาน", "root_cause": "ตึงเกินไป",
        "resolution": "ตั้งความตึงใหม่ตามคู่มือ", "outcome": "held", "timestamp": "2024-03-05T10:00:00+07:00",
    }  # fmt: skip
    file = tmp_path / "old.jsonl"
    file.write_text(json.dumps(row, ensure_ascii=False) + "\nnot json\n")
    done = appliance.edge("import", str(file))
    assert done.returncode == 2, done.stderr
    assert "1 added, 0 changed, 0 unchanged, 1 refused" in done.stdout
    (error,) = (tmp_path / "old.jsonl.errors.jsonl").read_text().splitlines()
    assert json.loads(error)["row"] == 2
    again = appliance.edge("import", str(file))
    assert "0 added, 0 changed, 1 unchanged, 1 refused" in again.stdout
    found = appliance.edge("search", "band saw blade snapped", "--json", "--limit", "3")
    assert found.returncode == 0, found.stderr
    assert "OLD-1" in [hit["id"] for hit in json.loads(found.stdout)["results"]]
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"qid": "q1", "text": "band saw blade snapped", "filters": {"outcome": "held"}}\n')
    output = tmp_path / "results.json"
    assert appliance.edge("search", "--batch", str(queries), "--output", str(output)).returncode == 0
    results = json.loads(output.read_text())
    assert set(results) == {"q1"}
    assert {"id", "score"} == set(results["q1"][0])


@pytest.mark.parametrize(
    "word", ["edge ingest", "edge worker", "edge web", "edge vectors", "mosquitto", "bin/postgres"]
)
def test_whatever_is_killed_nothing_acknowledged_is_lost(appliance: Appliance, word: str) -> None:
    source = word.replace(" ", "-").replace("/", "-")
    publisher = Publisher(appliance, source)
    for number in range(60):
        publisher.send(f"{source}-{number}", {"text": f"ทดสอบ {source} เรื่องที่ {number}"})
        if number == 30:
            for child in appliance.children(word):
                child.kill()
        time.sleep(0.02)
    publisher.settle()
    publisher.close()
    sent = {f"{source}-{number}" for number in range(60)}
    assert publisher.receipted == sent

    def kept() -> bool:
        rows = appliance.query(f"SELECT event_id, state FROM inbox WHERE source = '{source}'")
        assert len(rows) == len({row[0] for row in rows}), "an event stands there twice"
        return {row[0] for row in rows if row[1] == "done"} == sent

    eventually(kept, within=40)
    eventually(lambda: appliance.client.get("/readyz").status_code == 200, within=40)
    eventually(lambda: appliance.client.get("/api/v1/status").json()["counts"]["outbox_pending"] == 0, within=40)


def test_after_kill_nine_of_everything_the_next_start_has_it_all(appliance: Appliance) -> None:
    asked = {"text": "แรงดันลมตกทุกเช้า", "limit": 10}
    before = appliance.post("/api/v1/search", asked)["results"]
    counted = appliance.query("SELECT (SELECT count(*) FROM inbox), (SELECT count(*) FROM cases)")
    assert appliance.process is not None
    everything = [appliance.process.pid, *(child.pid for child in appliance.children(""))]
    appliance.process.kill()
    appliance.process.wait(10)
    eventually(lambda: not any(psutil.pid_exists(pid) and _alive(pid) for pid in everything), within=8)
    appliance.start()
    assert appliance.query("SELECT (SELECT count(*) FROM inbox), (SELECT count(*) FROM cases)") == counted
    after = appliance.post("/api/v1/search", asked)["results"]
    assert [(hit["id"], hit["score"]) for hit in after] == [(hit["id"], hit["score"]) for hit in before]


def test_asked_to_stop_it_is_gone_within_ten_seconds(appliance: Appliance) -> None:
    everything = appliance.children("")
    assert appliance.stop() < 10
    assert not [child for child in everything if _alive(child.pid)]
    assert appliance.process is not None
    assert appliance.process.returncode == 0


def test_import_and_search_work_alone(appliance: Appliance, tmp_path: Path) -> None:
    found = appliance.edge("search", "band saw blade snapped", "--json")
    assert found.returncode == 0, found.stderr
    assert "OLD-1" in [hit["id"] for hit in json.loads(found.stdout)["results"]]
    file = tmp_path / "more.csv"
    header = "id,description,root_cause,resolution,timestamp"
    file.write_text(f"{header}\nOLD-2,grinder wheel cracked,dropped,new wheel,05/03/2567 10:00\n")
    done = appliance.edge("import", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    found = appliance.edge("search", "หินเจียรแตก", "--json", "--limit", "3")
    assert "OLD-2" in [hit["id"] for hit in json.loads(found.stdout)["results"]]


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
