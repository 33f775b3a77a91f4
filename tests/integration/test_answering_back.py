"""What goes out: over a real broker and to a real HTTP server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge import config, outbound
from edge.cases import Case, Casebook, NewCase
from edge.config import Settings
from edge.contract.andon import CaseEvent, ZoneState
from edge.db import Database
from edge.doors.mosquitto import Mosquitto, free_port
from edge.errors import Rejected, Unavailable
from edge.intake import Andon
from edge.outbound.webhooks import ATTEMPTS


def eventually(check: Callable[[], Any], within: float = 60) -> Any:
    deadline = time.monotonic() + within
    while not (answer := check()):
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.05)
    return answer


def opened(casebook: Casebook, zone: str = "ASM-1", severity: str = "high") -> Case:
    new = NewCase(
        kind="anomaly", type="excessive_idle", severity=severity, origin="event", description="งานหยุดนาน",  # type: ignore[arg-type]
        language="th", occurred_at=datetime.now(UTC), zone_id=zone,
    )  # fmt: skip
    return casebook.open(new, actor="appliance")


# --- MQTT -----------------------------------------------------------------------------------------------------------


class Tower:
    """A signal tower that has just been switched on: it hears what is retained, and what happens from now on."""

    def __init__(self, port: int) -> None:
        self.zones: dict[str, ZoneState] = {}
        self.events: list[CaseEvent] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = self._hear
        self.client.connect("127.0.0.1", port)
        self.client.subscribe("andon/demo/andon/#", qos=1)
        self.client.loop_start()

    def _hear(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        kind, about = message.topic.split("/")[3:]
        if kind == "zone":
            state = ZoneState.model_validate_json(message.payload)
            assert state.zone == about
            self.zones[about] = state
        elif kind == "case":
            event = CaseEvent.model_validate_json(message.payload)
            assert event.case.record_id == about
            self.events.append(event)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@dataclass
class Sent:
    andon: Andon
    towers: list[Tower] = field(default_factory=list)
    port: int = 0

    def tower(self) -> Tower:
        self.towers.append(Tower(self.port))
        return self.towers[-1]

    def all(self) -> None:
        while self.andon.step():
            pass


@pytest.fixture
def broker() -> Iterator[Mosquitto]:
    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    folder.chmod(0o755)
    made = Mosquitto(
        config.load(environ={"EDGE__DATA__DIR": str(folder / "data"), "EDGE__BROKER__PORT": str(free_port())})
    )
    made.start()
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sent(settings: Settings, db: Database, broker: Mosquitto) -> Iterator[Sent]:
    found = settings.broker.model_copy(update={"url": f"mqtt://127.0.0.1:{broker.port}"})
    made = Sent(Andon(settings.model_copy(update={"broker": found}), db), port=broker.port)
    yield made
    for tower in made.towers:
        tower.close()
    made.andon.close()


def test_zones_are_retained_and_events_follow(sent: Sent, db: Database, dsn: str) -> None:
    casebook = Casebook(db)
    past, first = opened(casebook), opened(casebook, severity="low")
    casebook.close(past, actor="malee", root_cause="สายพานหย่อน", resolution="ตั้งสายพานใหม่", outcome="held")
    with psycopg.connect(dsn) as connection:
        put = "INSERT INTO case_match (case_id, rank, match_id, score, band) VALUES (%s, 1, %s, 0.9, 'same')"
        connection.execute(put, (first.id, past.id))
    sent.all()
    tower = sent.tower()
    eventually(lambda: len(tower.zones) >= 8)
    state = tower.zones["ASM-1"]
    assert (state.colour, state.flashing, state.severity, state.open) == ("yellow", True, "low", 1)
    assert state.case
    assert state.case.record_id == first.record_id
    assert state.case.best
    assert (state.case.best.record_id, state.case.best.resolution) == (past.record_id, "ตั้งสายพานใหม่")
    assert tower.zones["ASM-2"].colour == "green"
    assert not tower.events, "what happened before is told once"
    second = opened(casebook)
    casebook.acknowledge(first, actor="malee")
    casebook.acknowledge(second, actor="malee")
    sent.all()
    eventually(lambda: len(tower.events) == 3 and tower.zones["ASM-1"].acknowledged == 2)
    told = [(event.case.record_id, event.event, event.by) for event in tower.events]
    assert told == [
        (second.record_id, "opened", "appliance"),
        (first.record_id, "acknowledged", "malee"),
        (second.record_id, "acknowledged", "malee"),
    ]
    state = tower.zones["ASM-1"]
    assert (state.colour, state.flashing, state.open) == ("red", False, 0)


def test_what_was_not_acknowledged_goes_out_later_and_lost_states_come_back(
    sent: Sent, db: Database, broker: Mosquitto
) -> None:
    sent.all()
    broker.stop()
    (broker.log.parent.parent / "mosquitto" / "mosquitto.db").unlink()
    one = opened(Casebook(db))
    eventually(lambda: fails(sent.andon))
    broker.start()
    tower = sent.tower()
    eventually(lambda: not fails(sent.andon) and len(tower.zones) >= 8 and tower.events)
    assert {event.case.record_id for event in tower.events} == {one.record_id}
    assert tower.zones["ASM-1"].colour == "red"


def fails(andon: Andon) -> bool:
    try:
        andon.step()
    except Unavailable:
        return True
    return False


# --- webhooks -------------------------------------------------------------------------------------------------------


class Receiver(ThreadingHTTPServer):
    """Takes what is posted, and answers what it was told to."""

    def __init__(self) -> None:
        self.status = 204
        self.got: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/andon?key=geheim"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.put(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.server.status)
        self.send_header("location", "http://169.254.169.254/")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def sender(db: Database) -> Iterator[outbound.Sender]:
    made = outbound.Sender(db)
    yield made
    made.close()


def test_a_webhook_gets_each_event_signed_and_once(db: Database, receiver: Receiver, sender: outbound.Sender) -> None:
    secret = outbound.add(db, "mes", receiver.url, events=["opened", "closed"], internal=True, plain=True)
    casebook = Casebook(db)
    one = opened(casebook)
    casebook.acknowledge(one, actor="malee")
    assert sender.step()
    assert not sender.step()
    headers, body = receiver.got.get(timeout=10)
    assert receiver.got.empty(), "nobody asked for the other event"
    told = CaseEvent.model_validate_json(body)
    assert (told.event, told.case.record_id) == ("opened", one.record_id)
    assert headers["webhook-id"] == f"andon-{told.id}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    outbound.test(db, "mes")
    assert json.loads(receiver.got.get(timeout=10)[1])["event"] == "test"


def test_what_is_refused_is_tried_again_and_then_a_dead_letter(
    db: Database, receiver: Receiver, sender: outbound.Sender, dsn: str
) -> None:
    outbound.add(db, "mes", receiver.url, internal=True, plain=True)
    # A redirect is no success, and is not followed.
    receiver.status = 302
    opened(Casebook(db))
    assert sender.step()
    assert not sender.step(), "not before its time"
    (state,) = outbound.every(db)
    assert (state.pending, state.dead, state.last_error) == (1, 0, "It answered 302.")
    assert "geheim" not in repr(state)
    with psycopg.connect(dsn, autocommit=True) as connection:
        left = connection.execute(
            "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM webhook_delivery"
        ).fetchone()
        assert left
        assert 0 < left[0] <= 5
        for _ in range(ATTEMPTS - 1):
            connection.execute("UPDATE webhook_delivery SET due_at = clock_timestamp()")
            assert sender.step()
        connection.execute("UPDATE webhook_delivery SET due_at = clock_timestamp()")
    assert not sender.step()
    (letter,) = outbound.dead(db)
    assert (letter["name"], letter["event"], letter["attempts"]) == ("mes", "opened", ATTEMPTS)
    receiver.status = 200
    assert outbound.replay(db, "mes") == 1
    assert sender.step()
    (state,) = outbound.every(db)
    assert (state.pending, state.dead, state.last_error) == (0, 0, None)
    assert state.last_done


def test_an_address_is_allowed_in_so_many_words(db: Database, receiver: Receiver) -> None:
    for url, flags, words in (
        ("ftp://example.com/x", {}, "https://host/path"),
        ("http://example.com/x", {}, "--plain"),
        ("https://127.0.0.1/x", {}, "--internal"),
        ("https://localhost/x", {"plain": True}, "--internal"),
        ("https://[::1]/x", {}, "--internal"),
        ("https://10.1.2.3/x", {}, "--internal"),
    ):
        with pytest.raises(Rejected, match=words):
            outbound.add(db, "mes", url, **flags)
    with pytest.raises(Rejected, match="no event"):
        outbound.add(db, "mes", receiver.url, events=["exploded"], internal=True, plain=True)
    outbound.add(db, "mes", receiver.url, internal=True, plain=True)
    with pytest.raises(Rejected, match="already"):
        outbound.add(db, "mes", receiver.url, internal=True, plain=True)
    outbound.remove(db, "mes")
    with pytest.raises(Rejected, match="no webhook"):
        outbound.test(db, "mes")


def test_one_that_does_not_answer_holds_up_nobody(db: Database, receiver: Receiver, sender: outbound.Sender) -> None:
    gone = receiver.url.replace(str(receiver.server_address[1]), "1")
    outbound.add(db, "gone", gone, internal=True, plain=True)
    outbound.add(db, "mes", receiver.url, internal=True, plain=True)
    casebook = Casebook(db)
    for _ in range(6):
        opened(casebook)
    while sender.step():
        pass
    assert receiver.got.qsize() == 6
    states = {state.name: state for state in outbound.every(db)}
    assert (states["gone"].pending, states["mes"].pending) == (6, 0)
    assert states["gone"].last_error == "It cannot be reached (ConnectError)."
