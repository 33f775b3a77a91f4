"""CloudEvents 1.0, binary and structured, become the same readings as native events."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.contract import Limits, Message, Reading, identify, interpret
from edge.errors import Rejected

NOW = datetime(2026, 3, 5, 7, 30, tzinfo=UTC)
TOPIC = "andon/demo/assembly/line-1/cell-1/camera/cam-asm-1"
STRUCTURED = "application/cloudevents+json; charset=utf-8"
ATTRIBUTES = {
    "specversion": "1.0", "id": "A-17", "source": "//plc.example/line-1", "type": "andon.camera.idle",
    "time": "2026-03-05T14:29:00+07:00", "sequence": "00000017", "subject": "station 3",
}  # fmt: skip


def binary(payload: bytes = b'{"seconds": 400, "lens": "wide"}', **changed: str) -> Message:
    return Message(TOPIC, payload, "application/json", {**ATTRIBUTES, **changed})


def structured(content_type: str | None = STRUCTURED, **changed: Any) -> Message:
    body = {**ATTRIBUTES, "datacontenttype": "application/json", "data": {"seconds": 400, "lens": "wide"}, **changed}
    return Message(
        TOPIC, json.dumps({key: value for key, value in body.items() if value is not ...}).encode(), content_type
    )


def read(message: Message) -> Reading:
    return interpret(message, received_at=NOW, fallback_id="inbox-1", limits=Limits())


@pytest.mark.parametrize(
    "message",
    [
        binary(),
        structured(),
        structured(None),  # MQTT 3.1.1: no content type
        structured(data=..., data_base64=base64.b64encode(b'{"seconds": 400, "lens": "wide"}').decode()),
        structured(sequence=17),
    ],
    ids=["binary", "structured", "3.1.1", "base64", "number"],
)
def test_both_modes_say_the_same(message: Message) -> None:
    reading = read(message)
    assert (reading.event_class, reading.kind, reading.event_id) == ("camera", "idle", "A-17")
    assert (reading.source, reading.camera_id) == ("//plc.example/line-1", "cam-asm-1")
    assert (reading.sequence, reading.area, reading.cell) == (17, "assembly", "cell-1")
    assert reading.occurred_at == datetime(2026, 3, 5, 7, 29, tzinfo=UTC)
    assert (reading.body["seconds"], reading.body["lens"]) == (400, "wide")
    assert reading.body["cloudevent"]["subject"] == "station 3", "attributes without a place are kept"
    found = identify(message, Limits())
    assert found is not None
    assert (found.source, found.event_id) == (reading.source, reading.event_id)


def test_a_report_needs_no_kind() -> None:
    topic = "andon/demo/a/l/c/report/station-1"
    message = Message(topic, '{"text": "ไฟดับ"}'.encode(), None, {**ATTRIBUTES, "type": "andon.report"})
    assert read(message).body["text"] == "ไฟดับ"


def test_the_worker_is_who_the_topic_names() -> None:
    message = Message("andon/demo/a/l/c/worker/W-101", b"", None, {**ATTRIBUTES, "type": "andon.worker.session_start"})
    assert read(message).worker_id == "W-101"


def test_a_native_event_with_a_field_of_that_name_stays_native() -> None:
    body = {"id": "1", "source": "x", "type": "t", "specversion": "9", "kind": "motion", "score": 0.5}
    assert read(Message(TOPIC, json.dumps(body).encode())).kind == "motion"


def test_a_payload_that_cannot_be_read_still_has_a_name() -> None:
    found = identify(binary(b"\xff\xfe"), Limits())
    assert found is not None
    assert (found.source, found.event_id) == ("//plc.example/line-1", "A-17")
    found = identify(Message(TOPIC, b"not json", None, {"id": "9"}), Limits())
    assert found is not None
    assert (found.source, found.event_id) == ("cam-asm-1", "9")


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (binary(specversion="0.3"), "specversion"),
        (binary(type="andon.worker.idle"), "class camera"),
        (binary(type="org.example.idle"), "andon.camera"),
        (binary(type="andon.camera.dance"), "kind"),
        (binary(id=""), "id"),
        (binary(source="\x00"), "not text"),
        (binary(b"[1]"), "object"),
        (binary(time="2026-03-05T14:29:00"), "time"),
        (binary(sequence="9" * 30), "sequence"),
        (Message(TOPIC, b"<a/>", "application/xml", ATTRIBUTES), "xml"),
        (Message(TOPIC, b"[]", "application/cloudevents-batch+json"), "alone"),
        (structured(data=..., data_base64="%%%"), "Base64"),
        (structured(data_base64="e30="), "both"),
        (structured(data="text"), "object"),
        (structured(datacontenttype="text/plain"), "text/plain"),
        (structured(datacontenttype=4), "datacontenttype"),
        (structured(type=..., kind="idle"), "type"),
    ],
)
def test_what_is_wrong_is_said_in_words(message: Message, word: str) -> None:
    with pytest.raises(Rejected, match=word):
        read(message)


_text = st.text(st.characters(), max_size=20)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner) | st.dictionaries(_text, inner),
    max_leaves=6,
)
_names = st.sampled_from([*ATTRIBUTES, "data", "data_base64", "datacontenttype", "kind", "seconds"])
_payload = st.binary(max_size=100) | st.builds(
    lambda value: json.dumps(value).encode(),
    _json | st.dictionaries(_names, _json | _text).map(lambda given: {**ATTRIBUTES, **given}),
)


@given(
    _payload,
    st.none() | st.sampled_from(["application/json", STRUCTURED, "text/plain"]) | _text,
    st.dictionaries(_names | _text, _text),
)
@settings(max_examples=600, deadline=None)
def test_any_message_gives_an_event_or_a_reason(
    payload: bytes, content_type: str | None, properties: dict[str, str]
) -> None:
    for given_ in (properties, {**ATTRIBUTES, **properties}):
        message = Message(TOPIC, payload, content_type, given_)
        known = identify(message, Limits())
        try:
            reading = read(message)
        except Rejected as error:
            assert str(error)
        else:
            assert known is None or (known.source, known.event_id) == (reading.source, reading.event_id)
