"""MQTT and HTTP → inbox, and the way back over MQTT. An event is acknowledged only after COMMIT. The only importer of paho."""

from edge.intake.andon import Andon, zone_states
from edge.intake.http import ItemResult, accept_http
from edge.intake.inbox import Arrival, Stored, store
from edge.intake.mqtt import MqttIntake, address, mqtt_client

__all__ = [
    "Andon",
    "Arrival",
    "ItemResult",
    "MqttIntake",
    "Stored",
    "accept_http",
    "address",
    "mqtt_client",
    "store",
    "zone_states",
]
