"""Frigate's payloads as it writes them, what they become, and that no bytes are too strange."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.contract import Frigate, Limits, Message, Reading, identify, interpret
from edge.contract.frigate import SUBJECTS
from edge.errors import Rejected

NOW = datetime(2026, 3, 5, 7, 30, tzinfo=UTC)
AT = NOW.timestamp()
FRIGATE = Frigate(("frigate", "hall-2/frigate"), {"dock": "cam-wh-1", "hall-2/frigate/dock": "cam-wh-2"})


def obj(**fields: Any) -> dict[str, Any]:
    return {
        "id": "1772695790.1-abc", "camera": "dock", "frame_time": AT - 5, "snapshot": None, "label": "person",
        "sub_label": None, "top_score": 0.8, "false_positive": False, "start_time": AT - 10, "end_time": None,
        "score": 0.75, "box": [1, 2, 3, 4], "current_zones": ["dock_door"], "entered_zones": ["dock_door"],
        "a_key_of_tomorrow": {"x": [1]}, **fields,
    }  # fmt: skip


def review(**fields: Any) -> dict[str, Any]:
    data = {
        "detections": ["1772695790.1-abc"],
        "objects": ["person"],
        "sub_labels": [],
        "zones": ["dock_door"],
        "audio": [],
    }
    return {
        "id": "1772695790.2-def", "camera": "dock", "start_time": AT - 10, "end_time": None, "severity": "alert",
        "thumb_path": "/media/frigate/clips/review/thumb-dock.webp", "data": data, **fields,
    }  # fmt: skip


def update(kind: str, after: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "before": after, "after": after}


def message(topic: str, body: Any) -> Message:
    return Message(topic, body if isinstance(body, bytes) else json.dumps(body).encode())


def read(topic: str, body: Any) -> Reading:
    return interpret(message(topic, body), received_at=NOW, fallback_id="inbox-1", limits=Limits(), frigate=FRIGATE)


def name(topic: str, body: Any) -> tuple[str, str]:
    found = identify(message(topic, body), Limits(), FRIGATE)
    assert found is not None
    return found.source, found.event_id


def test_an_object_is_a_detection_of_the_plants_own_camera() -> None:
    reading = read("frigate/events", update("new", obj()))
    assert (reading.event_class, reading.kind, reading.camera_id) == ("camera", "detection", "cam-wh-1")
    assert (reading.source, reading.area) == ("frigate/dock", "")
    assert reading.occurred_at == datetime(2026, 3, 5, 7, 29, 55, tzinfo=UTC)
    assert (reading.body["label"], reading.body["zones"]) == ("person", ["dock_door"])
    assert reading.body["frigate"]["after"]["a_key_of_tomorrow"] == {"x": [1]}, "unknown keys are kept"


def test_a_name_that_is_not_mapped_is_the_cameras_own_and_instances_differ() -> None:
    assert read("frigate/events", update("new", obj(camera="cam-cnc-1"))).camera_id == "cam-cnc-1"
    assert read("hall-2/frigate/events", update("new", obj())).camera_id == "cam-wh-2"


def test_updates_are_events_of_their_own_and_repeats_fold() -> None:
    first = update("update", obj())
    later = update("update", obj(frame_time=AT - 3))
    end = update("end", obj(frame_time=AT - 3, end_time=AT - 1))
    assert name("frigate/events", first) == name("frigate/events", json.loads(json.dumps(first, indent=1)))
    assert len({name("frigate/events", each) for each in (first, later, end, update("new", obj()))}) == 4
    assert read("frigate/events", end).occurred_at == datetime(2026, 3, 5, 7, 29, 59, tzinfo=UTC)


def test_the_same_object_of_two_instances_is_two_events() -> None:
    one = update("new", obj())
    assert name("frigate/events", one) != name("hall-2/frigate/events", one)


def test_what_identifies_an_event_is_the_same_at_the_door_and_at_its_reading() -> None:
    bodies = {
        "events": update("new", obj()), "reviews": update("end", review(end_time=AT)),
        "tracked_object_update": {"type": "description", "id": "1-a", "description": "a man with a box"},
    }  # fmt: skip
    for subject, body in bodies.items():
        reading = read(f"frigate/{subject}", body)
        assert (reading.source, reading.event_id) == name(f"frigate/{subject}", body)


def test_a_review_keeps_severity_labels_and_zones() -> None:
    reading = read("frigate/reviews", update("new", review()))
    assert reading.kind == "review"
    assert (reading.body["severity"], reading.body["labels"], reading.body["zones"]) == (
        "alert",
        ["person"],
        ["dock_door"],
    )
    told = update("genai", review(end_time=AT, data={"metadata": {"title": "A fall", "potential_threat_level": 2}}))
    assert read("frigate/reviews", told).body["metadata"]["title"] == "A fall"


def test_a_recording_played_again_is_nothing_that_happens() -> None:
    reading = read("frigate/reviews", update("new", review(camera="_replay_dock")))
    assert (reading.kind, reading.camera_id) == ("replay", None)
    told = {"type": "description", "id": "1700000000.1-a", "camera": "_replay_dock", "description": "A carton falls"}
    reading = read("frigate/tracked_object_update", told)
    assert (reading.kind, reading.camera_id) == ("replay", None)


@pytest.mark.parametrize(("state", "kind"), [("online", "health"), ("offline", "health"), ("stopped", "stopped")])
def test_availability_is_the_recorders_health(state: str, kind: str) -> None:
    reading = read("frigate/available", state.encode())
    assert (reading.kind, reading.source, reading.camera_id, reading.body) == (kind, "frigate", None, {"state": state})
    assert identify(message("frigate/available", state.encode()), Limits(), FRIGATE) is None


@pytest.mark.parametrize(
    ("topic", "body", "word"),
    [
        ("frigate/events", {"type": "new", "before": {}}, "after"),
        ("frigate/events", update("new", obj(label=None)), "label"),
        ("frigate/events", update("new", obj(frame_time=1e300)), "frame_time"),
        ("frigate/events", {"type": 4, "after": obj()}, "type"),
        ("frigate/events", update("new", obj(frame_time=AT + 200_000)), "ahead"),
        ("frigate/reviews", update("new", review(severity="panic")), "severity"),
        ("frigate/tracked_object_update", {"type": "description"}, "id"),
        ("frigate/available", b"\xff", "UTF-8"),
        ("frigate/available", b"perhaps", "perhaps"),
        ("elsewhere/events", update("new", obj()), "levels"),
    ],
)
def test_what_is_wrong_is_said_in_words(topic: str, body: Any, word: str) -> None:
    with pytest.raises(Rejected, match=word):
        read(topic, body)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)
_after = st.dictionaries(st.sampled_from([*obj(), *review()]), _json).map(lambda given: {**obj(), **review(), **given})


@given(
    st.sampled_from(SUBJECTS),
    st.binary(max_size=200)
    | _json.map(lambda value: json.dumps(value).encode())
    | st.builds(
        lambda kind, after: json.dumps({"type": kind, "before": None, "after": after, **after}).encode(), _json, _after
    ),
)
@settings(max_examples=500, deadline=None)
def test_any_bytes_give_an_event_or_a_reason(subject: str, payload: bytes) -> None:
    known = identify(Message(f"frigate/{subject}", payload), Limits(), FRIGATE)
    try:
        reading = read(f"frigate/{subject}", payload)
    except Rejected as error:
        assert str(error)
    else:
        assert known is None or (known.source, known.event_id) == (reading.source, reading.event_id)
        assert len(reading.event_id) <= 200
