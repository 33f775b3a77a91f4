"""What may come in, and that nothing else than an event or a reason ever comes out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.contract import KINDS, Limits, Message, Reading, identify, interpret
from edge.errors import Rejected

NOW = datetime(2026, 3, 5, 7, 30, tzinfo=UTC)
CAMERA = "andon/demo/assembly/line-1/cell-1/camera/cam-1"
REPORT = "andon/demo/assembly/line-1/cell-1/report/station-1"


def read(topic: str, body: Any) -> Reading:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return interpret(Message(topic, payload), received_at=NOW, fallback_id="inbox-1", limits=Limits())


def test_a_full_event() -> None:
    body = {"id": "7", "sequence": 7, "time": "2026-03-05T14:29:00+07:00", "schema": 1, "kind": "idle", "seconds": 400}
    reading = read(CAMERA, {**body, "lens": "wide"})
    assert (reading.site, reading.area, reading.line, reading.cell) == ("demo", "assembly", "line-1", "cell-1")
    assert (reading.source, reading.event_id, reading.sequence) == ("cam-1", "7", 7)
    assert reading.occurred_at == datetime(2026, 3, 5, 7, 29, tzinfo=UTC)
    assert reading.camera_id == "cam-1"
    assert reading.body == {"seconds": 400, "lens": "wide"}, "unknown fields are kept"


def test_a_report_typed_by_hand_needs_only_its_text() -> None:
    reading = read(REPORT, {"text": "  ไฟดับ "})
    assert reading.body["text"] == "ไฟดับ"
    assert reading.event_id == "inbox-1"
    assert reading.occurred_at == NOW


def test_the_worker_of_a_worker_event_is_its_source() -> None:
    assert read("andon/demo/a/l/c/worker/W-101", {"kind": "session_start"}).worker_id == "W-101"


@pytest.mark.parametrize(
    ("topic", "body", "word"),
    [
        ("andon/demo/assembly", {"text": "x"}, "levels"),
        ("andon/demo/a/l/c/robot/r1", {"text": "x"}, "class"),
        (CAMERA, {"kind": "report", "text": "x"}, "kind"),
        (CAMERA, {"seconds": 3}, "kind"),
        (CAMERA, {"kind": "idle"}, "seconds"),
        (CAMERA, {"kind": "idle", "seconds": -1}, "seconds"),
        (CAMERA, {"kind": "motion", "score": 1.5}, "score"),
        (REPORT, {"text": ""}, "text"),
        (REPORT, {"text": "x", "severity": "extreme"}, "severity"),
        (REPORT, {"text": "x", "time": "2026-03-05T14:29:00"}, "time"),
        (REPORT, {"text": "x", "time": "2569-03-05T14:29:00+07:00"}, "Buddhist"),
        (REPORT, {"text": "x", "time": "1999-03-05T14:29:00+07:00"}, "1999"),
        (REPORT, {"text": "x", "time": "2026-03-07T14:29:00+07:00"}, "ahead"),
        (REPORT, {"text": "x", "schema": 2}, "schema"),
        (REPORT, {"text": "x", "sequence": -1}, "sequence"),
        (REPORT, {"text": "x", "id": ""}, "id"),
    ],
)
def test_what_is_wrong_is_said_in_words(topic: str, body: dict[str, Any], word: str) -> None:
    with pytest.raises(Rejected, match=word):
        read(topic, body)


@pytest.mark.parametrize("event_class", KINDS)
def test_every_kind_of_every_class_refuses_an_empty_body_or_reads_it(event_class: str) -> None:
    for kind in KINDS[event_class]:  # type: ignore[index]
        try:
            assert read(f"andon/demo/a/l/c/{event_class}/s", {"kind": kind}).kind == kind
        except Rejected as error:
            assert str(error).endswith(".")


def test_identity_comes_before_understanding() -> None:
    found = identify(Message(REPORT, b'{"id": "9", "kind": "nobody knows this"}'), Limits())
    assert found is not None
    assert (found.source, found.event_id) == ("station-1", "9")
    assert identify(Message(REPORT, b"not json"), Limits()) is None


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip


@given(st.binary(max_size=400) | st.builds(lambda value: json.dumps(value).encode(), _json))
@settings(max_examples=400, deadline=None)
def test_any_bytes_give_an_event_or_a_reason(payload: bytes) -> None:
    for topic in (CAMERA, REPORT):
        identify(Message(topic, payload), Limits())
        try:
            interpret(Message(topic, payload), received_at=NOW, fallback_id="x", limits=Limits())
        except Rejected as error:
            assert str(error)


@given(st.dictionaries(st.sampled_from(["id", "time", "sequence", "kind", "text", "severity", "source"]), _json))
@settings(max_examples=300, deadline=None)
def test_any_values_in_the_known_fields_give_an_event_or_a_reason(body: dict[str, Any]) -> None:
    try:
        reading = read(REPORT, body)
    except Rejected as error:
        assert str(error)
    else:
        assert reading.event_class == "report"
        assert reading.occurred_at.year < 2200
