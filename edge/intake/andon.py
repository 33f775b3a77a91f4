"""The way back over MQTT: the state of each zone, retained, and what happens to cases, from the table `outbound`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import paho.mqtt.client as paho

from edge.config import Settings
from edge.contract.andon import ZoneState, case_topic, colour_of, zone_topic
from edge.db import Database, Transaction
from edge.errors import Unavailable
from edge.intake.mqtt import address, mqtt_client

#: Seconds the broker may take to acknowledge what a step has published.
PATIENCE = 10.0


class Andon:
    """Sends what is due, at least once. One thread drives it by calling `step`; of several processes one sends at a time."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._root = settings.intake.root
        self._broker = settings.broker
        self._connected = threading.Event()
        self._client = mqtt_client(settings.broker, f"{settings.intake.client_id}-andon")
        self._client.reconnect_delay_set(1, 10)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = lambda *_: self._connected.clear()
        self._client.on_publish = self._on_publish
        self._refused = ""
        self._forbidden = ""
        self._started = False
        # The broker may have lost what it retained: after each connection all zones are told again.
        self._all = True

    def step(self, batch: int = 100) -> bool:
        """Publish up to `batch` events and the state of their zones. True if there were any.

        Raises `Unavailable` when the broker or the database does not answer; what was not acknowledged goes out again.
        """
        self._connect()
        whole, self._all = self._all, False
        try:
            with self._database.transaction() as tx:
                rows = tx.all("outbound_take", limit=batch)
                zones = sorted({row["zone_id"] for row in rows if row["zone_id"]})
                if not rows and not whole:
                    return False
                site = str(tx.value("site_id"))
                sent = [
                    self._publish(case_topic(self._root, site, row["record_id"]), _json(row["payload"])) for row in rows
                ]
                # After the events: whoever shows a zone asks for nothing else.
                states = zone_states(tx, [] if whole else zones) if whole or zones else []
                sent += [
                    self._publish(zone_topic(self._root, site, state.zone), state.model_dump_json(), retain=True)
                    for state in states
                ]
                self._wait(sent)
                tx.run("outbound_sent", ids=[row["id"] for row in rows])
        except BaseException:
            self._all = self._all or whole
            raise
        return True

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _connect(self) -> None:
        host, port = address(self._broker)
        if not self._started:
            try:
                self._client.connect(host, port, keepalive=15)
            except OSError as error:
                raise Unavailable(
                    f"The broker at {host}:{port} does not answer: {error}. Check EDGE__BROKER__URL."
                ) from error
            self._client.loop_start()
            self._started = True
        if not self._connected.wait(2):
            why = f"refuses us: {self._refused}" if self._refused else "does not answer"
            raise Unavailable(f"The broker at {host}:{port} {why}, so nothing goes out. Check EDGE__BROKER__URL.")

    def _publish(self, topic: str, payload: str, retain: bool = False) -> paho.MQTTMessageInfo:
        return self._client.publish(topic, payload, qos=1, retain=retain)

    def _wait(self, sent: Sequence[paho.MQTTMessageInfo]) -> None:
        deadline = time.monotonic() + PATIENCE
        self._forbidden = ""
        try:
            for message in sent:
                message.wait_for_publish(max(0.0, deadline - time.monotonic()))
            done = all(message.is_published() for message in sent)
        except (RuntimeError, ValueError) as error:
            raise Unavailable(f"The broker does not take what goes out: {error}.") from error
        if self._forbidden:
            raise Unavailable(
                f"The broker forbids us to publish ({self._forbidden}): allow {self._root}/+/andon/# for our account."
            )
        if not done:
            raise Unavailable("The broker does not acknowledge what goes out.")

    def _on_connect(
        self, _client: paho.Client, _data: object, _flags: object, reason: object, _properties: object
    ) -> None:
        if getattr(reason, "is_failure", False):
            self._refused = str(reason)
            return
        self._refused = ""
        self._all = True
        self._connected.set()

    def _on_publish(self, _client: paho.Client, _data: object, _mid: int, reason: object, _properties: object) -> None:
        if getattr(reason, "is_failure", False):
            self._forbidden = str(reason)


def zone_states(tx: Transaction, zones: Sequence[str] = ()) -> list[ZoneState]:
    """The state of these zones, or of all."""
    at = datetime.now(UTC)
    return [
        ZoneState(colour=colour_of(row["severity"]), flashing=row["open"] > 0, at=at, **row)
        for row in tx.all("andon_zones", zones=list(zones))
    ]


def _json(payload: dict[str, Any]) -> str:
    return json.dumps(payload, ensure_ascii=False)
