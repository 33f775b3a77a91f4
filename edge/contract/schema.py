"""The contract as JSON Schema, written from the models: `python -m edge.contract.schema etc/schema`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edge.contract.andon import CaseEvent, ZoneState
from edge.contract.native import KINDS, Envelope

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """Name (`camera.idle`) → the schema of a whole event of that kind; `receipt`, `andon.…` → what is sent."""
    envelope = Envelope.model_json_schema(by_alias=True)["properties"]
    found: dict[str, dict[str, Any]] = {}
    for event_class, kinds in KINDS.items():
        for kind, model in kinds.items():
            body = model.model_json_schema()
            named = {"kind": {"const": kind, "description": "May be left out." if event_class == "report" else ""}}
            if event_class != "report":
                del named["kind"]["description"]
            found[f"{event_class}.{kind}"] = {
                "$schema": _DIALECT,
                "$id": f"urn:andon-edge:event:1:{event_class}.{kind}",
                "title": f"{event_class}.{kind}",
                "type": "object",
                "properties": _plain({**envelope, **named, **body.get("properties", {})}),
                "required": [*([] if event_class == "report" else ["kind"]), *body.get("required", [])],
                "additionalProperties": True,
            }
    found["receipt"] = {
        "$schema": _DIALECT,
        "$id": "urn:andon-edge:receipt:1",
        "title": "receipt",
        "type": "object",
        "properties": {
            "source": {"type": "string"},
            "ids": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        },
        "required": ["source", "ids"],
        "additionalProperties": True,
    }
    sent: tuple[tuple[str, type[BaseModel]], ...] = (("andon.zone", ZoneState), ("andon.case", CaseEvent))
    for name, out in sent:
        found[name] = {"$schema": _DIALECT, "$id": f"urn:andon-edge:{name}:1", **out.model_json_schema()}
    return found


def rendered() -> dict[str, str]:
    """File name → its text."""
    return {
        f"{name}.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas().items()
    }


def write(folder: Path) -> None:
    """Write every file, and remove those of kinds that are gone."""
    folder.mkdir(parents=True, exist_ok=True)
    files = rendered()
    for path in folder.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")


def _plain(properties: dict[str, Any]) -> dict[str, Any]:
    """Without the titles pydantic makes of field names: they say nothing."""
    return {name: {key: value for key, value in field.items() if key != "title"} for name, field in properties.items()}


if __name__ == "__main__":
    write(Path(sys.argv[1]))
