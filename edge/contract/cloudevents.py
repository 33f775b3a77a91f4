"""CloudEvents 1.0 over MQTT become native events: `andon.camera.idle` is the kind `idle` of the class `camera`.

Binary mode carries the attributes as user properties and the data as payload; structured mode carries both in one JSON
object. MQTT 3.1.1 has neither properties nor a content type: there an object that looks like a CloudEvent is one.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from edge.contract.native import place
from edge.contract.strict_json import Limits, is_text, loads
from edge.errors import Rejected

#: Where the attributes that have no place in the envelope are kept, beside the fields of the kind.
MARK = "cloudevent"

_REQUIRED = ("specversion", "id", "source", "type")
_DATA = ("data", "data_base64")
#: What the data may not decide: CloudEvents says it in attributes.
_OURS = ("id", "source", "kind", "time", "sequence")


def is_binary(properties: Mapping[str, str]) -> bool:
    return "specversion" in properties


def is_batch(content_type: str | None) -> bool:
    return _media(content_type) == "application/cloudevents-batch+json"


def is_structured(content_type: str | None, raw: Mapping[str, Any]) -> bool:
    media = _media(content_type)
    if media.startswith("application/cloudevents"):
        return True
    return media in ("", "application/json") and "kind" not in raw and all(name in raw for name in _REQUIRED)


def from_binary(
    topic: str, payload: bytes, content_type: str | None, properties: Mapping[str, str], limits: Limits
) -> dict[str, Any]:
    """Raises `Rejected`."""
    _check_data_type(content_type)
    for name, value in properties.items():
        if not (is_text(name) and is_text(value)):
            raise Rejected("A user property of the CloudEvent holds what is not text.")
    return _native(topic, dict(properties), loads(payload, limits) if payload else {})


def from_structured(topic: str, raw: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Raises `Rejected`."""
    attributes = {name: value for name, value in raw.items() if name not in _DATA}
    content_type = attributes.pop("datacontenttype", None)
    if content_type is not None and not isinstance(content_type, str):
        raise Rejected("The attribute datacontenttype of the CloudEvent must be text.")
    _check_data_type(content_type)
    if "data" in raw and "data_base64" in raw:
        raise Rejected("The CloudEvent carries both data and data_base64.")
    if "data_base64" in raw:
        try:
            decoded = base64.b64decode(raw["data_base64"], validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise Rejected("The data_base64 of the CloudEvent is not Base64.") from error
        return _native(topic, attributes, loads(decoded, limits))
    data = raw.get("data")
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise Rejected("The data of the CloudEvent must be a JSON object.")
    return _native(topic, attributes, data)


def _native(topic: str, attributes: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    for name in _REQUIRED:
        if not attributes.get(name):
            raise Rejected(f"The CloudEvent lacks the attribute {name}.")
    if attributes["specversion"] != "1.0":
        raise Rejected(f"The CloudEvent has the specversion {str(attributes['specversion'])[:20]}; 1.0 is read.")
    event_class = place(topic)[5]
    kind = _kind(attributes["type"], event_class)
    raw: dict[str, Any] = {name: value for name, value in data.items() if name not in (*_OURS, MARK)}
    raw |= {"id": attributes["id"], "source": attributes["source"], "kind": kind}
    if "time" in attributes:
        raw["time"] = attributes["time"]
    sequence = attributes.get("sequence", data.get("sequence"))
    if isinstance(sequence, str) and sequence.isascii() and sequence.isdigit():
        # The extension `sequence` is text by its own specification; other orders than counting are kept as they are.
        sequence = int(sequence[:40])
    if isinstance(sequence, int) and not isinstance(sequence, bool):
        raw["sequence"] = sequence
    raw[MARK] = {name: value for name, value in attributes.items() if name not in ("id", "source", "time")}
    return raw


def _kind(type_: object, event_class: str) -> str:
    if not isinstance(type_, str):
        raise Rejected("The attribute type of the CloudEvent must be text.")
    if type_ == "andon.report":
        type_ = "andon.report.report"
    root, _, rest = type_.partition(".")
    named, _, kind = rest.partition(".")
    if root != "andon" or not kind:
        raise Rejected(f"The CloudEvent has the type {type_[:100]!r}; types are of the form andon.{event_class}.kind.")
    if named != event_class:
        raise Rejected(f"The CloudEvent has the type {type_[:100]!r}, and its topic the class {event_class}.")
    return kind


def _check_data_type(content_type: str | None) -> None:
    media = _media(content_type)
    if media and media != "application/json" and not media.endswith("+json"):
        raise Rejected(f"The data of the CloudEvent are {media[:100]}; application/json is read.")


def _media(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()
