"""The MQTT door: MQTT 5, persistent session, acknowledged by hand after COMMIT, receipts by `(source, id)`."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections import defaultdict
from typing import Any
from urllib.parse import quote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.config import Broker, Settings
from edge.contract import KINDS, Frigate, Limits
from edge.db import Database
from edge.errors import Rejected, Stop, Unavailable
from edge.intake.inbox import Arrival, Stored, store

#: Session expiry: never.
FOREVER = 0xFFFFFFFF

#: Seconds a commit waits for more after the first message of a batch: one sync of the disk then serves many.
LINGER = 0.01

#: Seconds the broker may take to accept what we write.
_WRITE_WITHIN = 5.0


def mqtt_client(broker: Broker, client_id: str, *, manual_ack: bool = False) -> paho.Client:
    """An MQTT 5 client for this broker, not yet connected. Raises `Stop` for unusable TLS files."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5, manual_ack=manual_ack)
    if broker.username:
        client.username_pw_set(broker.username, broker.password.get_secret_value() or None)
    if broker.url.startswith("mqtts://"):
        try:
            client.tls_set(
                ca_certs=str(broker.ca_file) if broker.ca_file else None,
                certfile=str(broker.cert_file) if broker.cert_file else None,
                keyfile=str(broker.key_file) if broker.key_file else None,
                tls_version=ssl.PROTOCOL_TLS_CLIENT,
            )
        except (OSError, ValueError) as error:
            raise Stop(f"The broker's TLS files cannot be used: {error}. Check EDGE__BROKER__CA_FILE.") from error
    client.on_socket_open = _at_once
    return client


def _at_once(_client: paho.Client, _data: object, connection: Any) -> None:
    """A receipt must not wait 40 ms for the acknowledgement of the packet before it (Nagle's algorithm)."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def address(broker: Broker) -> tuple[str, int]:
    """Host and port of the broker. Raises `Stop` when none is set."""
    if not broker.url:
        raise Stop("No broker is set: set EDGE__BROKER__URL, or start everything embedded with `edge run`.")
    parts = urlsplit(broker.url)
    return parts.hostname or "127.0.0.1", parts.port or (8883 if parts.scheme == "mqtts" else 1883)


class MqttIntake:
    """Takes messages from the broker into the inbox. One thread drives it by calling `step`.

    The broker sends at most `receive_maximum` unacknowledged messages: that bounds memory, and a slow database
    slows the broker down instead of filling this process.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        intake = settings.intake
        self._database = database
        self._broker = settings.broker
        self._topics = [f"{intake.root}/+/+/+/+/{name}/+" for name in KINDS]
        self._root = intake.root
        self._group = intake.shared_group
        self._batch = intake.receive_maximum
        self._frigate = Frigate(intake.frigate_prefixes, intake.frigate_cameras)
        self._limits = Limits.of(intake)
        self._arrived: list[paho.MQTTMessage] = []
        self._connected = False
        self._refused = ""
        self._retry_at = 0.0
        self._retry_after = 0.5
        self._client = mqtt_client(settings.broker, intake.client_id, manual_ack=True)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = lambda _client, _data, message: self._arrived.append(message)
        self._properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        self._properties.SessionExpiryInterval = FOREVER
        self._properties.ReceiveMaximum = intake.receive_maximum

    @property
    def connected(self) -> bool:
        return self._connected

    def step(self, patience: float = 0.5) -> bool:
        """Wait up to `patience` seconds for messages, commit what came, acknowledge it. True if there was any.

        Raises `Unavailable` when broker or database do not answer; what was not acknowledged is sent again.
        """
        if not self._connected and not self._connect(patience):
            return False
        self._turn(patience)
        if not self._arrived:
            return False
        until = time.monotonic() + LINGER
        while len(self._arrived) < self._batch and (left := until - time.monotonic()) > 0:
            self._turn(left)
        taken, self._arrived = self._arrived, []
        try:
            stored = store(self._database, [_arrival(message) for message in taken], self._limits, self._frigate)
        except Rejected as error:
            # Raw bytes fit any row, so this is a fault of ours: stop loudly rather than drop or acknowledge.
            raise Stop(f"The inbox refused a message: {error}") from error
        except Unavailable:
            # Unacknowledged messages come again only on a new connection.
            self.close()
            raise
        # First the receipts: mosquitto reads one packet of a client a turn and saves its store after each PUBACK.
        self._receipts(taken, stored)
        self._acknowledge(taken)
        return True

    def close(self) -> None:
        if self._connected:
            self._client.disconnect()
        # A connection the broker never answered is not disconnected by the library.
        if (left := self._client.socket()) is not None:
            left.close()
        self._connected = False
        self._arrived.clear()

    def _acknowledge(self, taken: list[paho.MQTTMessage]) -> None:
        """Send every PUBACK in one piece. Over TLS that is one record, which mosquitto takes in at once."""
        acks = b"".join(b"\x40\x02" + message.mid.to_bytes(2, "big") for message in taken if message.qos)
        try:
            # What the library has begun to write must be whole before anything else is.
            deadline = time.monotonic() + _WRITE_WITHIN
            while self._client.want_write() and self._connected and time.monotonic() < deadline:
                self._turn(0.05)
            connection = self._client.socket()
            if not isinstance(connection, socket.socket) or self._client.want_write():
                raise Unavailable("The connection to the broker was lost.")
            connection.settimeout(_WRITE_WITHIN)
            connection.sendall(acks)
            connection.setblocking(False)
        except (OSError, Unavailable) as error:
            # Committed and not acknowledged: it comes again, and folds.
            self.close()
            raise Unavailable(f"The broker does not take acknowledgements: {error}.") from error

    def _connect(self, patience: float) -> bool:
        if time.monotonic() < self._retry_at:
            time.sleep(min(patience, max(0.0, self._retry_at - time.monotonic())))
            return False
        host, port = address(self._broker)
        self._refused = ""
        self._arrived.clear()
        self._retry_at = time.monotonic() + self._retry_after
        self._retry_after = min(self._retry_after * 2, 10)
        try:
            self._client.connect(host, port, keepalive=15, clean_start=False, properties=self._properties)
            deadline = time.monotonic() + 5
            while not self._connected and not self._refused and time.monotonic() < deadline:
                if self._client.loop(timeout=0.2) != MQTTErrorCode.MQTT_ERR_SUCCESS and not self._refused:
                    break
        except OSError as error:
            raise Unavailable(
                f"The broker at {host}:{port} does not answer: {error}. Check EDGE__BROKER__URL."
            ) from error
        if self._refused:
            raise Unavailable(f"The broker at {host}:{port} refuses us: {self._refused}. Check EDGE__BROKER__USERNAME.")
        if not self._connected:
            raise Unavailable(f"The broker at {host}:{port} does not answer. Check EDGE__BROKER__URL.")
        self._retry_after = 0.5
        return True

    def _turn(self, timeout: float) -> None:
        code = self._client.loop(timeout=timeout)
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._connected = False
            self._arrived.clear()
            raise Unavailable(f"The connection to the broker was lost ({paho.error_string(code)}).")

    def _on_connect(
        self, client: paho.Client, _data: object, _flags: object, reason: object, _properties: object
    ) -> None:
        if getattr(reason, "is_failure", False):
            self._refused = str(reason)
            return
        # What a broker retains is sent for a new subscription only: Frigate's availability would else come again with
        # every reconnect.
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        topics = self._topics + self._frigate.topics()
        if self._group:
            # The session may remember that it once took everything for itself.
            client.unsubscribe(topics)
            topics = [f"$share/{self._group}/{topic}" for topic in topics]
        client.subscribe([(topic, options) for topic in topics])
        self._connected = True

    def _on_disconnect(self, *_: object) -> None:
        self._connected = False

    def _receipts(self, taken: list[paho.MQTTMessage], stored: list[Stored]) -> None:
        """Tell each source what is safe now: `{root}/{site}/andon/receipt/{source}`, `{"source": …, "ids": […]}`."""
        grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
        for message, result in zip(taken, stored, strict=True):
            # Frigate waits for no receipt, and its topics name no site.
            if result.identity and not self._frigate.subject(message.topic):
                site = message.topic.split("/")[1]
                grouped[site, result.identity.source].append(result.identity.event_id)
        for (site, source), ids in grouped.items():
            topic = f"{self._root}/{site}/andon/receipt/{quote(source, safe='')}"
            self._client.publish(topic, json.dumps({"source": source, "ids": ids}, ensure_ascii=False), qos=0)


def _arrival(message: paho.MQTTMessage) -> Arrival:
    properties = message.properties
    user = dict(getattr(properties, "UserProperty", None) or [])
    return Arrival("mqtt", message.topic, bytes(message.payload), getattr(properties, "ContentType", None), user)
