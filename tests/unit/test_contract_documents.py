"""What integrators read is what the appliance does: JSON Schema, AsyncAPI and examples against the models."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.config import resources
from edge.contract import KINDS, Frigate, Limits, Message, interpret
from edge.contract.andon import EVENTS, CaseEvent, ZoneState, case_topic, colour_of, zone_topic
from edge.contract.frigate import SUBJECTS
from edge.contract.schema import rendered, write

ETC = resources() / "etc"
NAMES = [f"{event_class}.{kind}" for event_class, kinds in KINDS.items() for kind in kinds]
SENT = {"andon.zone": (ZoneState, zone_topic), "andon.case": (CaseEvent, case_topic)}
EXAMPLES = [file for file in sorted((ETC / "examples").glob("*.json")) if file.stem not in SENT]


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    return dict(yaml.safe_load((ETC / "asyncapi.yaml").read_text("utf-8")))


def test_the_schemas_are_those_of_the_models(tmp_path: Path) -> None:
    found = {path.name: path.read_text("utf-8") for path in (ETC / "schema").glob("*.json")}
    assert found == rendered(), "run `python -m edge.contract.schema etc/schema`"
    write(tmp_path / "again")
    assert {path.name: path.read_text("utf-8") for path in (tmp_path / "again").iterdir()} == found
    assert {name.removesuffix(".json") for name in found} == {*NAMES, "receipt", *SENT}


def test_every_class_and_kind_has_its_channel_and_message(asyncapi: dict[str, Any]) -> None:
    assert asyncapi["asyncapi"] == "3.0.0"
    assert set(asyncapi["channels"]) == {*KINDS, "receipt", *SENT, *(f"frigate.{name}" for name in SUBJECTS)}
    for event_class, kinds in KINDS.items():
        channel = asyncapi["channels"][event_class]
        assert channel["address"] == f"{{root}}/{{site}}/{{area}}/{{line}}/{{cell}}/{event_class}/{{source}}"
        assert set(channel["messages"]) == {*(f"{event_class}.{kind}" for kind in kinds), "cloudevent"}
        for kind in kinds:
            message = asyncapi["components"]["messages"][f"{event_class}.{kind}"]
            assert message["payload"] == {"$ref": f"schema/{event_class}.{kind}.json"}
            assert message["summary"].endswith(".")
    for name in SUBJECTS:
        assert asyncapi["channels"][f"frigate.{name}"]["address"] == f"{{prefix}}/{name}"
    assert asyncapi["channels"]["receipt"]["address"] == "{root}/{site}/andon/receipt/{source}"


def test_every_channel_is_used_and_every_parameter_is_said(asyncapi: dict[str, Any]) -> None:
    used = {operation["channel"]["$ref"].rpartition("/")[2] for operation in asyncapi["operations"].values()}
    assert used == set(asyncapi["channels"])
    for channel in asyncapi["channels"].values():
        assert set(re.findall(r"\{(\w+)\}", channel["address"])) == set(channel["parameters"])


def test_every_reference_leads_somewhere(asyncapi: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, list):
            return [found for item in node for found in references(item)]
        if not isinstance(node, dict):
            return []
        here = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return here + [found for item in node.values() for found in references(item)]

    found = references(asyncapi)
    assert found
    for reference in found:
        file, _, pointer = reference.partition("#")
        node = json.loads((ETC / file).read_text("utf-8")) if file else asyncapi
        for part in pointer.split("/")[1:]:
            node = node[part]
        assert node


def test_the_limits_said_are_the_defaults(asyncapi: dict[str, Any]) -> None:
    assert str(Limits().bytes) in asyncapi["info"]["description"]


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_every_example_is_understood_and_fits_its_schema(file: Path) -> None:
    example = json.loads(file.read_text("utf-8"))
    payload = example["payload"]
    written = payload.encode() if isinstance(payload, str) else json.dumps(payload).encode()
    message = Message(example["topic"], written, example.get("content_type"), example.get("properties", {}))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    reading = interpret(message, received_at=now, fallback_id="x", limits=Limits(), frigate=Frigate(("frigate",)))
    if file.stem in NAMES:
        assert file.stem == f"{reading.event_class}.{reading.kind}"
        schema = json.loads(rendered()[file.name])
        assert set(payload) <= set(schema["properties"]), "an example shows fields that are explained"
        assert set(schema["required"]) <= set(payload)


@pytest.mark.parametrize("name", SENT)
def test_every_example_of_what_is_sent_fits_its_schema_and_its_channel(name: str, asyncapi: dict[str, Any]) -> None:
    model, topic = SENT[name]
    example = json.loads((ETC / f"examples/{name}.json").read_text("utf-8"))
    told = model.model_validate(example["payload"])
    about = told.zone if isinstance(told, ZoneState) else told.case.record_id
    assert example["topic"] == topic("andon", "demo", about)
    assert isinstance(told, CaseEvent) or told.colour == colour_of(told.severity)
    address = re.sub(r"\{\w+\}", "x", asyncapi["channels"][name]["address"])
    assert address == topic("x", "x", "x")
    assert asyncapi["channels"][name]["messages"] == {name: {"$ref": f"#/components/messages/{name}"}}


def test_the_documentation_names_every_event() -> None:
    text = (resources() / "docs/events.md").read_text("utf-8")
    published = text[text.index("## What the appliance publishes") :]
    for event in EVENTS:
        assert f"`{event}`" in published


def test_the_documentation_names_every_kind() -> None:
    text = (resources() / "docs/events.md").read_text("utf-8")
    table = text[text.index("## Kinds") : text.index("## CloudEvents")]
    for name in NAMES:
        assert f"`{name.partition('.')[2]}`" in table
