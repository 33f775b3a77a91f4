"""The embedded broker: real mosquitto, real clients, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.config import Settings, load
from edge.doors import child, mosquitto
from edge.doors.mosquitto import Mosquitto, busy, find, free_port
from edge.errors import Stop


@pytest.fixture
def data() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="edge-mq-"))
    folder.chmod(0o711)
    yield folder / "data"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def port() -> int:
    return free_port()


def settings(data: Path, port: int = 0) -> Settings:
    return load(environ={"EDGE__DATA__DIR": str(data), "EDGE__BROKER__PORT": str(port)})


class Client:
    """An MQTT 5 client with a lasting session, driven by hand."""

    def __init__(self, port: int, name: str) -> None:
        self.got: list[bytes] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        self._client.on_message = lambda _client, _data, message: self.got.append(message.payload)
        self._granted: list[int] = []
        self._acknowledged: set[int] = set()
        self._client.on_subscribe = lambda _client, _data, number, *_: self._granted.append(number)
        self._client.on_publish = lambda _client, _data, number, *_: self._acknowledged.add(number)
        lasting = Properties(PacketTypes.CONNECT)
        lasting.SessionExpiryInterval = 0xFFFFFFFF
        self._client.connect("127.0.0.1", port, clean_start=False, properties=lasting)

    def until(self, done: object, patience: float = 10) -> None:
        deadline = time.monotonic() + patience
        while not done():  # type: ignore[operator]
            assert time.monotonic() < deadline
            self._client.loop(0.05)

    def subscribe(self, topic: str) -> None:
        self.until(self._client.is_connected)
        self._client.subscribe(topic, qos=1)
        self.until(lambda: self._granted)

    def publish(self, topic: str, payloads: list[bytes]) -> None:
        self.until(self._client.is_connected)
        sent = {self._client.publish(topic, payload, qos=1).mid for payload in payloads}
        self.until(lambda: sent <= self._acknowledged, 20)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop(0.05)
        # To a broker that was killed nothing can be said any more.
        if (left := self._client.socket()) is not None:
            left.close()


def test_a_lasting_session_survives_kill_nine(data: Path, port: int) -> None:
    broker = Mosquitto(settings(data, port))
    broker.start()
    try:
        listener = Client(broker.port, "listener")
        listener.subscribe("andon/#")
        listener.close()
        sent = [f"{n}".encode() for n in range(200)]
        publisher = Client(broker.port, "publisher")
        publisher.publish("andon/x", sent)
        time.sleep(1.5)
        os.kill(broker.pid, signal.SIGKILL)
        assert child.wait_for(lambda: broker.poll() is not None, 5)
        publisher.close()
        broker.stop()
        broker.start()
        listener = Client(broker.port, "listener")
        listener.until(lambda: len(listener.got) >= len(sent))
        assert sorted(listener.got) == sorted(sent)
        listener.close()
    finally:
        broker.stop()


def test_a_long_queue_is_kept_whole(data: Path, port: int) -> None:
    with Mosquitto(settings(data, port)):
        listener = Client(port, "listener")
        listener.subscribe("andon/#")
        listener.close()
        publisher = Client(port, "publisher")
        publisher.publish("andon/x", [f"{n}".encode() for n in range(1500)])
        listener = Client(port, "listener")
        listener.until(lambda: len(listener.got) >= 1500, 20)
        listener.close()
        publisher.close()


def test_only_this_machine_can_reach_it_and_it_never_runs_as_root(data: Path, port: int) -> None:
    broker = Mosquitto(settings(data, port))
    broker.start()
    try:
        process = psutil.Process(broker.pid)
        listening = [c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
        assert broker.inner is not None
        assert sorted(tuple(address) for address in listening) == sorted(
            [("127.0.0.1", port), ("127.0.0.1", int(broker.inner[0].rpartition(":")[2]))]
        )
        assert process.uids().effective != 0
    finally:
        broker.stop()


def test_the_address_stays_the_same(data: Path, port: int) -> None:
    with Mosquitto(settings(data)) as first:
        assert (data / "run" / "broker.port").read_text() == first.rpartition(":")[2] + "\n"
    # Another test may take that port at any moment; nobody takes this one.
    (data / "run" / "broker.port").write_text(f"{port}\n")
    with Mosquitto(settings(data)) as second:
        assert second == f"mqtt://127.0.0.1:{port}"


def test_two_find_a_port_each(data: Path) -> None:
    with Mosquitto(settings(data)) as one, Mosquitto(settings(data.with_name("other"))) as two:
        assert one != two


def test_another_broker_that_took_its_port_is_not_taken_for_its_own(
    data: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def free_a_moment_ago(host: str, number: int) -> str:
        looked.append(number)
        return "" if len(looked) == 1 else busy(host, number)

    with Mosquitto(settings(data.with_name("other"), port)) as other:
        (data / "run").mkdir(parents=True)
        (data / "run" / "broker.port").write_text(f"{port}\n")
        monkeypatch.setattr(mosquitto, "busy", free_a_moment_ago)
        with Mosquitto(settings(data)) as url:
            assert url != other
            assert looked[0] == port


def test_a_busy_port_is_named(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(Stop, match=rf"broker port {number} cannot be used.*EDGE__BROKER__PORT"):
            Mosquitto(settings(data, number)).start()


def test_a_store_it_cannot_read_is_set_aside(data: Path, port: int) -> None:
    with Mosquitto(settings(data, port)):
        pass
    (data / "mosquitto" / "mosquitto.db").write_bytes(b"\xff" * 500)
    with Mosquitto(settings(data, port)) as url:
        assert url == f"mqtt://127.0.0.1:{port}"
    assert list((data / "mosquitto").glob("mosquitto.db.broken-*"))


def test_below_a_closed_folder_it_works(data: Path, port: int) -> None:
    data.mkdir(mode=0o700)
    with Mosquitto(settings(data / "checkout" / "data", port)):
        assert busy("127.0.0.1", port)
    assert not busy("127.0.0.1", port)


def test_the_printed_example_has_its_program() -> None:
    assert find("mosquitto_pub")
