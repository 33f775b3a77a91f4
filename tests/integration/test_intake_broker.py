"""The ingest side against real brokers: TLS with certificates, a lasting session, back pressure, several that share."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge import config
from edge.config import Settings
from edge.db import Database
from edge.doors.mosquitto import Mosquitto, find, free_port
from edge.errors import Unavailable
from edge.intake import MqttIntake
from edge.publisher import Publisher

PLACE = "andon/demo/assembly/line-1/cell-1"


def eventually(check: Callable[[], Any], within: float = 60) -> Any:
    deadline = time.monotonic() + within
    while True:
        if answer := check():
            return answer
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def stored(settings: Settings) -> list[str]:
    with psycopg.connect(settings.database.dsn.get_secret_value()) as connection:
        return [row[0] for row in connection.execute("SELECT event_id FROM inbox ORDER BY id").fetchall()]


def with_broker(settings: Settings, broker: dict[str, Any], **intake: Any) -> Settings:
    return settings.model_copy(
        update={
            "broker": settings.broker.model_copy(update=broker),
            "intake": settings.intake.model_copy(update={"client_id": f"edge-{time.time_ns() % 10**12}", **intake}),
        }
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="edge-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def mosquitto(folder: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(
        config.load(environ={"EDGE__DATA__DIR": str(folder / "data"), "EDGE__BROKER__PORT": str(free_port())})
    )
    broker.start()
    yield broker
    broker.stop()


class Sender:
    """A plant's client that trusts PUBACK."""

    def __init__(self, port: int, protocol: int = paho.MQTTv5) -> None:
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def send(self, event: dict[str, Any], topic: str = f"{PLACE}/report/hand") -> None:
        self.client.publish(topic, json.dumps(event), qos=1).wait_for_publish(10)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def certificates(folder: Path, names: list[str]) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=plant", "-days", "2")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in names:
        openssl("req", "-new", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    for file in folder.iterdir():
        file.chmod(0o644)


def test_over_tls_each_with_a_certificate_and_its_rights(settings: Settings, db: Database, folder: Path) -> None:
    certificates(folder, ["server", "edge-ingest", "cam-1"])
    (port,) = free_ports(1)
    (folder / "acl").write_text(
        "user edge-ingest\ntopic read andon/#\ntopic write andon/+/andon/receipt/+\n"
        "user cam-1\ntopic write andon/demo/+/+/+/camera/cam-1\ntopic read andon/demo/andon/receipt/cam-1\n"
    )
    (folder / "acl").chmod(0o600)
    (folder / "m.conf").write_text(
        f"user {getpass.getuser()}\nlistener {port} 127.0.0.1\ncafile {folder}/ca.pem\ncertfile {folder}/server.pem\n"
        f"keyfile {folder}/server.key\nrequire_certificate true\nuse_identity_as_username true\n"
        f"allow_anonymous false\nacl_file {folder}/acl\npersistence true\npersistence_location {folder}/\n"
        "autosave_on_changes true\nautosave_interval 1\nmax_inflight_messages 500\n"
    )
    program = find("mosquitto")
    assert program is not None
    broker = subprocess.Popen([program, "-c", str(folder / "m.conf")], stderr=subprocess.DEVNULL)
    url = f"mqtts://127.0.0.1:{port}"
    ours = {"cert_file": folder / "edge-ingest.pem", "key_file": folder / "edge-ingest.key"}
    stranger = MqttIntake(with_broker(settings, {"url": url, "ca_file": folder / "ca.pem"}), db)
    intake = MqttIntake(with_broker(settings, {"url": url, "ca_file": folder / "ca.pem", **ours}), db)
    try:
        eventually(lambda: answers(port))
        with pytest.raises(Unavailable, match="EDGE__BROKER"):
            stranger.step(1)
        intake.step(1)
        assert intake.connected
        own = {"ca_file": folder / "ca.pem", "cert_file": folder / "cam-1.pem", "key_file": folder / "cam-1.key"}
        with Publisher(url, PLACE, "cam-1", folder / "spool", resend_after=2, **own) as publisher:
            ids = [publisher.publish("camera", {"kind": "motion", "score": 0.5}) for _ in range(60)]
            deadline = time.monotonic() + 60
            while publisher.waiting():
                assert time.monotonic() < deadline, publisher.problem
                intake.step(0.2)
        assert stored(settings) == ids
    finally:
        stranger.close()
        intake.close()
        broker.terminate()
        broker.wait(10)


@pytest.mark.parametrize("inner", [False, True], ids=["plain", "tls"])
def test_the_session_lasts_and_the_broker_never_sends_more_than_was_asked_for(
    settings: Settings, db: Database, mosquitto: Mosquitto, inner: bool
) -> None:
    assert mosquitto.inner is not None
    url, authority = mosquitto.inner
    broker = {"url": url, "ca_file": authority} if inner else {"url": mosquitto.url}
    made = with_broker(settings, broker, receive_maximum=10)
    first = MqttIntake(made, db)
    first.step(0.5)
    first.close()
    sender = Sender(mosquitto.port)
    for number in range(64):
        sender.send({"id": str(number), "text": "x"})
    again = MqttIntake(made, db)
    try:
        before = 0
        deadline = time.monotonic() + 60
        while before < 64:
            assert time.monotonic() < deadline
            again.step(0.2)
            now = len(stored(settings))
            assert now - before <= 10
            before = now
        assert stored(settings) == [str(number) for number in range(64)]
    finally:
        again.close()
        sender.close()


def test_a_client_of_mqtt_3_1_1(settings: Settings, db: Database, mosquitto: Mosquitto) -> None:
    intake = MqttIntake(with_broker(settings, {"url": mosquitto.url}), db)
    intake.step(0.5)
    sender = Sender(mosquitto.port, paho.MQTTv311)
    receipts: list[str] = []
    sender.client.on_message = lambda _client, _data, message: receipts.extend(json.loads(message.payload)["ids"])
    sender.client.subscribe("andon/demo/andon/receipt/#")
    try:
        sender.send({"id": "old-1", "text": "x"})
        cloud = {"specversion": "1.0", "id": "old-2", "source": "//plc", "type": "andon.report", "data": {"text": "y"}}
        sender.send(cloud)
        deadline = time.monotonic() + 60
        while set(receipts) != {"old-1", "old-2"}:
            assert time.monotonic() < deadline
            intake.step(0.2)
    finally:
        intake.close()
        sender.close()


def test_two_ingest_processes_share_the_work_and_one_is_enough(
    settings: Settings, mosquitto: Mosquitto, folder: Path
) -> None:
    def start(name: str) -> subprocess.Popen[bytes]:
        env = {
            **os.environ, "EDGE__DATA__DIR": str(folder / "data"), "EDGE__BROKER__URL": mosquitto.url,
            "EDGE__DATABASE__DSN": settings.database.dsn.get_secret_value(), "EDGE__INTAKE__CLIENT_ID": name,
            "EDGE__INTAKE__SHARED_GROUP": "edge",
        }  # fmt: skip
        return subprocess.Popen([sys.executable, "-m", "edge", "ingest"], env=env, stderr=subprocess.DEVNULL)

    def subscribed() -> bool:
        # Counted by the broker itself: four classes of topics for each of them.
        return counted[-1] >= 8 if counted else False

    counted: list[int] = []
    watcher = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    watcher.connect("127.0.0.1", mosquitto.port)
    watcher.on_message = lambda _client, _data, message: counted.append(int(message.payload))
    watcher.subscribe("$SYS/broker/shared_subscriptions/count")
    watcher.loop_start()
    both = [start("edge-a"), start("edge-b")]
    try:
        eventually(subscribed)
        with Publisher(mosquitto.url, PLACE, "cam-1", folder / "spool", resend_after=600) as publisher:
            both[0].send_signal(signal.SIGSTOP)
            ids = [publisher.publish("camera", {"kind": "motion", "score": 0.5}) for _ in range(40)]
            eventually(lambda: len(publisher.waiting()) == 20)
            both[0].send_signal(signal.SIGCONT)
            assert publisher.wait(60), publisher.problem
        assert sorted(stored(settings)) == sorted(ids), "half of them through each"
        both[0].kill()
        both[0].wait(10)
        with Publisher(mosquitto.url, PLACE, "cam-1", folder / "spool", resend_after=1) as publisher:
            ids += [publisher.publish("camera", {"kind": "motion", "score": 0.5}) for _ in range(4)]
            assert publisher.wait(60), publisher.problem
        assert sorted(stored(settings)) == sorted(ids), "each of them exactly once"
    finally:
        watcher.disconnect()
        watcher.loop_stop()
        for process in both:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(15)
