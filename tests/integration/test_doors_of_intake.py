"""Whatever an integrator sends, through a real broker: native events, CloudEvents, Frigate as it is."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from psycopg.rows import dict_row

from edge import config
from edge.analytics import Interpreter
from edge.cases import Casebook
from edge.config import Settings, resources
from edge.contract import KINDS
from edge.db import Database
from edge.doors.mosquitto import Mosquitto, free_port
from edge.intake import MqttIntake, address, quarantine

#: What comes in; `andon.*` are what goes out.
EXAMPLES = sorted(
    set((resources() / "etc/examples").glob("*.json")) - set((resources() / "etc/examples").glob("andon.*"))
)


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    folder.chmod(0o711)
    with Mosquitto(
        config.load(environ={"EDGE__DATA__DIR": str(folder / "data"), "EDGE__BROKER__PORT": str(free_port())})
    ) as url:
        yield url
    shutil.rmtree(folder, ignore_errors=True)


class Plant:
    """A plant's own side of the broker, and the appliance's first two roles by hand."""

    def __init__(self, settings: Settings, db: Database) -> None:
        self.db = db
        self.dsn = settings.database.dsn.get_secret_value()
        self.casebook = Casebook(db)
        self.intake = MqttIntake(settings, db)
        self.intake.step(0.1)
        self.interpreter = Interpreter(settings, db)
        self.sent = 0
        self.receipts: dict[str, list[str]] = {}
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"plant-{time.time_ns()}", protocol=paho.MQTTv5
        )
        self.client.on_message = self._receipt
        granted: list[object] = []
        self.client.on_subscribe = lambda *given: granted.append(given)
        self.client.connect(*address(settings.broker))
        self.client.loop_start()
        self.client.subscribe(f"{settings.intake.root}/+/andon/receipt/+")
        deadline = time.monotonic() + 10
        while not granted:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _receipt(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        told = json.loads(message.payload)
        self.receipts.setdefault(told["source"], []).extend(told["ids"])

    def send(
        self, topic: str, payload: Any, content_type: str | None = None, properties: dict[str, str] | None = None
    ) -> None:
        extra = Properties(PacketTypes.PUBLISH)
        if content_type:
            extra.ContentType = content_type
        if properties:
            extra.UserProperty = list(properties.items())
        written = payload if isinstance(payload, str | bytes) else json.dumps(payload, ensure_ascii=False)
        self.client.publish(topic, written, qos=1, properties=extra).wait_for_publish(5)
        self.sent += 1

    def settle(self) -> None:
        """Until nothing more comes."""
        quiet, deadline = 0, time.monotonic() + 30
        while quiet < 2:
            assert time.monotonic() < deadline
            quiet = 0 if self.intake.step(0.2) else quiet + 1
        while self.interpreter.step():
            assert time.monotonic() < deadline

    def events(self) -> list[dict[str, Any]]:
        with psycopg.connect(self.dsn, row_factory=dict_row) as connection:
            return connection.execute("SELECT * FROM event ORDER BY inbox_id").fetchall()

    def quarantine(self) -> list[dict[str, Any]]:
        return quarantine.find(self.db)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        if (left := self.client.socket()) is not None:
            left.close()
        self.intake.close()


def made(settings: Settings, broker: str, **intake: Any) -> Settings:
    return settings.model_copy(
        update={
            "broker": settings.broker.model_copy(update={"url": broker}),
            "intake": settings.intake.model_copy(update={"client_id": f"edge-{time.time_ns() % 10**12}", **intake}),
        }
    )


@pytest.fixture
def plant(settings: Settings, db: Database, broker: str) -> Iterator[Plant]:
    extra = {
        "frigate_prefix": "frigate,hall-2/frigate",
        "frigate_cameras": {"dock": "cam-wh-1", "hall-2/frigate/dock": "cam-wh-2"},
    }
    opened = Plant(made(settings, broker, **extra), db)
    yield opened
    opened.close()


def frigate(name: str) -> dict[str, Any]:
    return dict(json.loads((resources() / f"etc/examples/frigate.{name}.json").read_text("utf-8"))["payload"])


def test_there_is_an_example_of_every_kind_and_every_way_in() -> None:
    names = {file.stem for file in EXAMPLES}
    assert {f"{event_class}.{kind}" for event_class, kinds in KINDS.items() for kind in kinds} <= names
    assert {"cloudevents.binary", "cloudevents.structured", "frigate.events", "frigate.reviews"} <= names


def test_every_example_is_understood_and_no_event_of_it_is_lost(plant: Plant) -> None:
    for file in EXAMPLES:
        plant.send(**json.loads(file.read_text("utf-8")))
    plant.settle()
    assert plant.quarantine() == []
    events = plant.events()
    assert len(events) == len(EXAMPLES)
    expected = {(event_class, kind) for event_class, kinds in KINDS.items() for kind in kinds}
    assert {(row["class"], row["kind"]) for row in events} == expected | {
        ("camera", "review"),
        ("camera", "object_update"),
    }
    types = {live.case.type for live in plant.casebook.board()}
    assert types == {
        "excessive_idle",
        "ppe_missing",
        "zone_crowded",
        "camera_fault",
        "system_fault",
        "report",
        "camera_alert",
        "sequence_deviation",
    }
    assert {"cam-asm-1-1", "cam-asm-1-7"} <= set(plant.receipts["cam-asm-1"])
    assert plant.receipts["//plc.plant.example/assembly/line-1"] == ["b7c1-0042", "b7c1-0043"]
    assert not [source for source in plant.receipts if source.startswith("frigate")]


def test_a_stock_frigate_alert_is_one_case_however_often_it_is_updated(plant: Plant) -> None:
    update = frigate("reviews")
    ended = {**update["after"], "end_time": update["after"]["start_time"] + 30}
    told = {**ended, "data": {**ended["data"], "metadata": {"title": "A carton falls", "potential_threat_level": 1}}}
    new = {"type": "new", "before": update["before"], "after": update["before"]}
    for body in (
        new,
        update,
        update,
        {"type": "end", "before": ended, "after": ended},
        {"type": "genai", "before": ended, "after": told},
    ):
        plant.send("frigate/reviews", body)
    plant.settle()
    (live,) = plant.casebook.board()
    assert (live.case.type, live.case.severity, live.case.occurrences) == ("camera_alert", "medium", 1)
    assert live.case.zone is not None
    assert (live.case.zone.id, live.case.camera_id) == ("WH-1", "cam-wh-1")
    assert live.case.description == "กล้อง cam-wh-1 แจ้งเตือน: พบคน ที่ dock door"
    assert [row["event_id"].split("/")[1] for row in plant.events()] == ["new", "update", "end", "genai"], (
        "the repeat folds"
    )
    assert len(plant.casebook.evidence(live.case)) == 3


def test_an_alert_that_never_ends_times_out_to_a_state(plant: Plant) -> None:
    update = frigate("reviews")
    plant.send("frigate/reviews", update)
    plant.settle()
    (live,) = plant.casebook.board()
    assert plant.casebook.review_state(live.case, 60) == "going_on"
    with psycopg.connect(plant.dsn) as connection:
        connection.execute("UPDATE inbox SET received_at = received_at - interval '61 minutes'")
    assert plant.casebook.review_state(live.case, 60) == "unheard"
    plant.send("frigate/reviews", {**update, "type": "end"})
    plant.settle()
    assert plant.casebook.review_state(live.case, 60) == "ended"


def test_an_alert_whose_beginning_was_lost_is_a_case_at_its_end(plant: Plant) -> None:
    after = {**frigate("reviews")["after"], "end_time": frigate("reviews")["after"]["start_time"] + 30}
    plant.send("hall-2/frigate/reviews", {"type": "end", "before": after, "after": after})
    plant.settle()
    (live,) = plant.casebook.board()
    assert live.case.zone is not None
    assert live.case.zone.id == "WH-2"


def test_a_detection_and_a_replay_are_no_cases(plant: Plant) -> None:
    before = frigate("reviews")["before"]
    replayed = {**frigate("reviews")["after"], "camera": "_replay_dock"}
    plant.send("frigate/reviews", {"type": "new", "before": before, "after": before})
    plant.send("frigate/reviews", {"type": "new", "before": replayed, "after": replayed})
    plant.send("frigate/available", "stopped")
    plant.settle()
    assert plant.casebook.board() == []
    assert plant.quarantine() == []
    assert len(plant.events()) == 3


def test_a_recorder_that_goes_offline_is_a_fault(plant: Plant) -> None:
    plant.send("frigate/available", "offline")
    plant.settle()
    (live,) = plant.casebook.board()
    assert (live.case.type, live.case.zone_id) == ("camera_fault", None)
    assert "frigate" in live.case.description


def test_a_camera_the_plant_does_not_know_is_quarantined_in_words(plant: Plant) -> None:
    body = frigate("events")
    plant.send("frigate/events", {**body, "after": {**body["after"], "camera": "garden"}})
    plant.settle()
    (row,) = plant.quarantine()
    assert "no camera garden" in row["reason"]
    assert "EDGE__INTAKE__FRIGATE_CAMERAS" in row["reason"]


def test_frigate_is_not_read_unless_it_is_switched_on(settings: Settings, db: Database, broker: str) -> None:
    plant = Plant(made(settings, broker), db)
    try:
        plant.send("frigate/reviews", frigate("reviews"))
        plant.settle()
        assert plant.events() == plant.quarantine() == []
    finally:
        plant.close()


def test_a_payload_that_cannot_be_read_is_receipted_by_its_properties(plant: Plant) -> None:
    topic = "andon/demo/assembly/line-1/cell-1/report/hand"
    for _ in range(2):
        plant.send(topic, b"\xff not text", None, {"id": "bad-1"})
    plant.settle()
    (row,) = plant.quarantine()
    assert "UTF-8" in row["reason"]
    assert plant.receipts["hand"] == ["bad-1", "bad-1"], "the repeat is receipted, and stored once"


def test_numbers_that_never_came_are_counted_for_each_source(plant: Plant) -> None:
    def send(source: str, *numbers: int, run: str = "a") -> None:
        for number in numbers:
            topic = f"andon/demo/assembly/line-1/cell-1/camera/{source}"
            plant.send(topic, {"id": f"{run}-{number}", "sequence": number, "kind": "motion", "score": 0.1})

    send("whole", 3, 1, 2, 2, 4)
    send("holes", 1, 2, 5, 6, 9)
    send("anew", 0, 1, 2, 3, 4)
    send("anew", 0, 1, 3, run="b")
    plant.send("andon/demo/assembly/line-1/cell-1/report/hand", {"id": "1", "text": "ไม่มีเลขลำดับ"})
    plant.settle()
    with plant.db.transaction() as tx:
        rows = tx.all("sequence_gaps", since="2000-01-01T00:00:00Z")
    assert {row["source"]: row["gaps"] for row in rows} == {"whole": 0, "holes": 4, "anew": 1}
