"""The publisher against a real broker, a real `edge ingest` and a real PostgreSQL, each of them killed in the middle."""

from __future__ import annotations

import getpass
import json
import os
import random
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

import psycopg
import pytest

from edge import config
from edge.config import Settings
from edge.doors.mosquitto import Mosquitto, find, free_port
from edge.publisher import Publisher

PLACE = "andon/demo/assembly/line-1/cell-1"

#: A camera's own program: it notes what `publish` has returned for, and is killed at any moment.
CAMERA = """
import sys, itertools, time
from edge.publisher import Publisher
broker, place, source, spool, noted = sys.argv[1:]
publisher = Publisher(broker, place, source, spool, resend_after=1)
with open(noted, "a", buffering=1) as notes:
    for number in itertools.count():
        notes.write(publisher.publish("camera", {"kind": "motion", "score": 0.5}) + "\\n")
        time.sleep(0.002)
"""


def eventually(check: Callable[[], Any], within: float = 30) -> Any:
    deadline = time.monotonic() + within
    while True:
        if answer := check():
            return answer
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.05)


class Site:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self.folder = folder
        self.dsn = settings.database.dsn.get_secret_value()
        self.mosquitto = Mosquitto(
            config.load(environ={"EDGE__DATA__DIR": str(folder / "data"), "EDGE__BROKER__PORT": str(free_port())})
        )
        self.url = self.mosquitto.start()
        self.env = {
            **os.environ, "EDGE__DATA__DIR": str(folder / "data"), "EDGE__DATABASE__DSN": self.dsn,
            "EDGE__BROKER__URL": self.url,
        }  # fmt: skip
        self.ingest: subprocess.Popen[bytes] | None = None
        self.start_ingest()

    def start_ingest(self) -> None:
        with (self.folder / "ingest.log").open("ab") as log:
            self.ingest = subprocess.Popen(
                [sys.executable, "-m", "edge", "ingest"], env=self.env, stdout=log, stderr=log
            )

    def kill_ingest(self) -> None:
        assert self.ingest is not None
        self.ingest.kill()
        self.ingest.wait(10)

    def stored(self, source: str) -> list[str]:
        with psycopg.connect(self.dsn) as connection:
            rows = connection.execute("SELECT event_id FROM inbox WHERE source = %s ORDER BY id", [source]).fetchall()
        return [row[0] for row in rows]

    def publisher(self, source: str, **more: Any) -> Publisher:
        return Publisher(self.url, PLACE, source, self.folder / source, resend_after=1, **more)

    def edge(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edge", *arguments],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def close(self) -> None:
        if self.ingest and self.ingest.poll() is None:
            self.ingest.send_signal(signal.SIGTERM)
            self.ingest.wait(15)
        self.mosquitto.stop()


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    folder.chmod(0o711)
    made = Site(settings, folder)
    yield made
    made.close()
    shutil.rmtree(folder, ignore_errors=True)


def test_events_are_receipted_and_leave_the_spool(site: Site) -> None:
    with site.publisher("cam-1") as publisher:
        ids = [publisher.publish("camera", {"kind": "health", "state": "online"})]
        eventually(lambda: publisher.receipted == 1)
        ids += [publisher.publish("camera", {"kind": "motion", "score": 0.5}) for _ in range(300)]
        assert publisher.wait(30), publisher.problem
        assert publisher.receipted == 301
        assert publisher.waiting() == []
    assert site.stored("cam-1") == ids, "in the order they were published"
    with site.publisher("cam-1") as again:
        assert again.waiting() == [], "a receipted event is not sent again after a clean end"


def test_a_publisher_killed_in_a_loop_loses_nothing_it_has_promised(site: Site) -> None:
    chance = random.Random(7)
    noted = site.folder / "noted.txt"
    program = [sys.executable, "-c", CAMERA, site.url, PLACE, "cam-2", str(site.folder / "cam-2"), str(noted)]
    for _ in range(12):
        seen = noted.stat().st_size if noted.exists() else 0
        child = subprocess.Popen(program)
        eventually(lambda seen=seen: noted.exists() and noted.stat().st_size > seen)
        time.sleep(chance.uniform(0, 0.4))
        child.kill()
        child.wait(10)
    promised = noted.read_text().split()
    assert len(promised) == len(set(promised)) > 100
    with site.publisher("cam-2") as last:
        assert last.wait(45), last.problem
        assert last.damaged == 0
    stored = site.stored("cam-2")
    assert set(promised) <= set(stored)
    assert len(stored) == len(set(stored))


def test_broker_restarted_broker_wiped_ingest_killed(site: Site) -> None:
    def restart(*, wiped: bool) -> None:
        site.mosquitto.stop()
        if wiped:
            (site.folder / "data/mosquitto/mosquitto.db").unlink(missing_ok=True)
        assert site.mosquitto.start() == site.url, "clients know this address"

    with site.publisher("cam-3") as publisher:
        ids = []
        for number in range(400):
            ids.append(publisher.publish("camera", {"kind": "motion", "score": 0.5}))
            if number == 100:
                restart(wiped=False)
            if number == 200:
                site.kill_ingest()
            if number == 300:
                restart(wiped=True)
                site.start_ingest()
            time.sleep(0.002)
        assert publisher.wait(60), publisher.problem
        assert publisher.receipted == 400
    stored = site.stored("cam-3")
    assert sorted(stored) == sorted(ids), "each of them exactly once"


def test_a_payload_the_appliance_cannot_read_does_not_block_the_spool(site: Site) -> None:
    with site.publisher("cam-4", max_event_bytes=1_000_000) as publisher:
        publisher.publish("camera", {"kind": "motion", "score": 0.5, "note": "x" * 500_000})
        publisher.publish("camera", {"kind": "motion", "deep": json.loads("[" * 60 + "]" * 60)})
        publisher.publish("camera", {"kind": "motion", "score": 0.5, "nul": "\x00"})
        assert publisher.wait(30), publisher.problem


def test_over_tls_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    """A broker that wants certificates; the appliance's part is played by a client that answers with receipts."""
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    folder.chmod(0o755)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=plant", "-days", "2")
    for name in ("127.0.0.1", "cam-6"):
        openssl("req", "-new", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "san").write_text("subjectAltName=IP:127.0.0.1\n")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    for file in folder.iterdir():
        file.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as probe, socket.create_server(("127.0.0.1", 0)) as other:
        port, plain = probe.getsockname()[1], other.getsockname()[1]
    (folder / "m.conf").write_text(
        f"user {getpass.getuser()}\nper_listener_settings true\n"
        f"listener {plain} 127.0.0.1\nallow_anonymous true\nlistener {port} 127.0.0.1\n"
        f"cafile {folder}/ca.pem\ncertfile {folder}/127.0.0.1.pem\nkeyfile {folder}/127.0.0.1.key\n"
        "require_certificate true\nuse_identity_as_username true\nallow_anonymous false\n"
    )
    program = find("mosquitto")
    assert program is not None
    broker = subprocess.Popen([program, "-c", str(folder / "m.conf")], stderr=subprocess.DEVNULL)
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    try:
        eventually(lambda: _open(plain) and client.connect("127.0.0.1", plain) == 0, within=8)

        def answer(_client: object, _data: object, message: paho.MQTTMessage) -> None:
            told = json.dumps({"source": "cam-6", "ids": [json.loads(message.payload)["id"]]})
            client.publish("andon/demo/andon/receipt/cam-6", told)

        client.on_message = answer
        granted: list[object] = []
        client.on_subscribe = lambda *given: granted.append(given)
        client.subscribe("andon/demo/+/+/+/camera/+", qos=1)
        client.loop_start()
        eventually(lambda: granted)
        url, spool = f"mqtts://127.0.0.1:{port}", tmp_path / "spool"
        with Publisher(url, PLACE, "cam-6", spool, ca_file=folder / "ca.pem") as stranger:
            stranger.publish("camera", {"kind": "motion", "score": 0.5})
            assert eventually(lambda: stranger.problem)
            stranger.close(0)
        own = {"cert_file": folder / "cam-6.pem", "key_file": folder / "cam-6.key"}
        with Publisher(url, PLACE, "cam-6", spool, ca_file=folder / "ca.pem", resend_after=1, **own) as publisher:
            for _ in range(300):
                publisher.publish("camera", {"kind": "motion", "score": 0.5, "note": "x" * 5_000})
            assert publisher.wait(40), publisher.problem
            assert publisher.receipted == 301
    finally:
        client.disconnect()
        client.loop_stop()
        broker.terminate()
        broker.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_from_a_shell(site: Site) -> None:
    topic = f"{PLACE}/report/station-7"
    one = site.edge("publish", topic, '{"id": "s-1", "text": "สายพานหยุดเอง"}')
    assert one.returncode == 0, one.stderr
    assert "1 of 1 events receipted" in one.stdout
    lines = "".join(json.dumps({"text": f"no. {number}"}) + "\n" for number in range(50))
    many = site.edge("publish", topic, stdin=lines)
    assert many.returncode == 0, many.stderr
    assert "50 of 50 events receipted" in many.stdout
    assert len(site.stored("station-7")) == 51
    bad = site.edge("publish", topic, stdin='{"text": "good"}\nnot json\n')
    assert bad.returncode == 1
    assert "Line 2" in bad.stderr


def test_from_a_shell_what_has_no_receipt_waits_for_the_next_time(site: Site) -> None:
    site.kill_ingest()
    topic = f"{PLACE}/report/station-8"
    early = site.edge("publish", topic, '{"id": "s-1", "text": "x"}', "--timeout", "1")
    assert early.returncode == 1
    assert "0 of 1 events receipted" in early.stdout
    assert "keeps" in early.stderr
    site.start_ingest()
    later = site.edge("publish", topic, '{"id": "s-2", "text": "y"}')
    assert later.returncode == 0, later.stderr
    assert "1 of 1 events receipted" in later.stdout
    assert "1 event of an earlier time" in later.stdout
    assert sorted(site.stored("station-8")) == ["s-1", "s-2"]
