"""Every parser of what comes from outside, as a function of bytes. One that returns has kept its contract.

The fuzzer calls them with what it makes up (`make fuzz`), the tests with the examples and with every input that was
ever found to break one.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import socket
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from edge import publisher
from edge.contract import Frigate, Limits, Message, identify, interpret
from edge.contract.strict_json import is_text, loads
from edge.dashboard import api
from edge.errors import Rejected
from edge.importing import check_row, read_rows
from edge.roles.desk import plural_filters
from edge.search import filters
from edge.vectors import COLLECTIONS, Range, wire

LIMITS = Limits(bytes=65_536)
NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)
PLACE = "andon/demo/assembly/line-1/cell-1"
TOPICS = (*(f"{PLACE}/{each}/it" for each in ("camera", "worker", "system", "report")), "andon/too/short", "")
FRIGATE = Frigate(("frigate",), {"front": "cam-1"})


def strict_json(data: bytes) -> None:
    with contextlib.suppress(Rejected):
        _keepable(loads(data, LIMITS))


def native(data: bytes) -> None:
    """The first byte chooses the topic."""
    _message(Message(TOPICS[data[0] % len(TOPICS)] if data else "", data[1:]))


def cloudevents_structured(data: bytes) -> None:
    _message(Message(TOPICS[data[0] % 4] if data else "", data[1:], "application/cloudevents+json"))


def cloudevents_binary(data: bytes) -> None:
    """Lines `name: value` as user properties, an empty line, the payload; the first byte chooses the topic."""
    head, _, payload = data[1:].partition(b"\n\n")
    properties = {"specversion": "1.0"}
    for line in head.decode("utf-8", "surrogateescape" if data[:1] > b"\x7f" else "replace").split("\n"):
        name, _, value = line.partition(": ")
        properties[name] = value
    content_type = properties.pop("content-type", "application/json")
    _message(Message(TOPICS[data[0] % 4] if data else "", payload, content_type, properties))


def frigate(data: bytes) -> None:
    subject = ("events", "reviews", "tracked_object_update", "available")[data[0] % 4] if data else "events"
    _message(Message(f"frigate/{subject}", data[1:]))


def import_jsonl(data: bytes) -> None:
    _import(data, ".jsonl")


def import_csv(data: bytes) -> None:
    _import(data, ".csv")


def import_xlsx(data: bytes) -> None:
    _import(data, ".xlsx")


def import_xlsx_part(data: bytes) -> None:
    """One part of a good workbook replaced: the first byte chooses which. A whole archive hardly survives a change."""
    parts = _parts()
    names = sorted(parts)
    if data:
        parts[names[data[0] % len(names)]] = data[1:]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    _import(file.getvalue(), ".xlsx")


def vector_wire(data: bytes) -> None:
    """One end sends the bytes and closes; the other reads messages until it refuses."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(1)
        with contextlib.suppress(OSError):
            theirs.sendall(data[:100_000])
        theirs.close()
        with contextlib.suppress(wire.Lost, wire.Malformed, Rejected):
            while True:
                value = wire.receive(ours, time.monotonic() + 1, max_bytes=200_000)
                with contextlib.suppress(Rejected):
                    wire.encode(value)


def search_filters(data: bytes) -> None:
    """As the JSON API takes them, as the command line does, and conditions as a person writes them, one a line; what
    passes the check can be told to the index."""
    with contextlib.suppress(ValidationError, Rejected):
        asked = api.SearchIn.model_validate_json(data)
        api.collections_from(asked.collections)
        _compile(api.filters_from(asked.filters))
    with contextlib.suppress(ValueError, RecursionError):
        plain = json.loads(data)
        if isinstance(plain, dict):
            with contextlib.suppress(ValidationError):
                api.FiltersIn.model_validate(plural_filters(plain))
    for line in data.decode("utf-8", "replace").splitlines()[:20]:
        with contextlib.suppress(Rejected):
            where = filters.parse(line, list(COLLECTIONS))
            _compile(filters.Filters(must=(where,), must_not=(where,)))


def _compile(given: filters.Filters) -> None:
    filters.check(given, list(COLLECTIONS))
    for collection in COLLECTIONS:
        _, found = filters.compiled(given, collection, NOW)
        for condition in (*found.must, *found.must_not) if found else ():
            if isinstance(condition, Range):
                bounds = (condition.gt, condition.gte, condition.lt, condition.lte)
                assert all(bound is None or abs(bound) < 2**63 for bound in bounds), condition
        wire.encode(found)


def receipts(data: bytes) -> None:
    """What the client for integrators reads: receipts from the broker, and its own spool after a crash."""
    assert all(isinstance(identity, str) for identity in publisher._ids(data))
    for line in data.splitlines(keepends=True):
        publisher._record(line)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        strict_json, native, cloudevents_structured, cloudevents_binary, frigate, import_jsonl, import_csv,
        import_xlsx, import_xlsx_part, vector_wire, search_filters, receipts,
    )
}  # fmt: skip


def _message(message: Message) -> None:
    named = identify(message, LIMITS, FRIGATE)
    if named is not None:
        assert named.source, named
        assert named.event_id, named
        assert is_text(named.source + named.event_id), named
    try:
        reading = interpret(message, received_at=NOW, fallback_id="fallback", limits=LIMITS, frigate=FRIGATE)
    except Rejected as error:
        assert str(error)
        return
    if named is None:
        assert reading.event_id == "fallback", reading
    else:
        assert (reading.source, reading.event_id) == (named.source, named.event_id), (reading, named)
    assert reading.occurred_at.tzinfo is not None
    assert 2000 <= reading.occurred_at.astimezone(UTC).year < 2200
    assert reading.sequence is None or 0 <= reading.sequence < 2**63
    for text in (reading.source, reading.event_id, reading.kind, reading.camera_id, reading.worker_id):
        assert text is None or is_text(text), reading
    _keepable(reading.body)


def _keepable(value: Any) -> None:
    """What Postgres can store as jsonb, and gives back."""
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    for text in _texts(value):
        assert is_text(text), text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, float):
        assert math.isfinite(value)


def _import(data: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"it{suffix}"
        file.write_bytes(data)
        try:
            for row in read_rows(file):
                if row.error:
                    continue
                with contextlib.suppress(Rejected):
                    case, notes = check_row(row.values, ZoneInfo("Asia/Bangkok"))
                    assert all(notes)
                    assert 2000 <= case.occurred_at.year < 2200
                    assert case.closed_at is not None
                    assert case.closed_at.astimezone(UTC) >= case.occurred_at.astimezone(UTC)
                    for text in (case.record_id, case.description, case.type, case.root_cause, case.zone_id):
                        assert text is None or is_text(text), text
                    assert all(is_text(tag) for tag in case.tags), case.tags
        except Rejected as error:
            assert str(error)


def seeds() -> dict[str, list[bytes]]:
    """Where the fuzzer starts from: the examples that integrators get."""
    from edge.config import resources

    found: dict[str, list[bytes]] = {name: [] for name in TARGETS}
    for path in sorted((resources() / "etc/examples").glob("*.json")):
        example = json.loads(path.read_text("utf-8"))
        payload = example["payload"]
        raw = payload.encode() if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False).encode()
        first = path.name.partition(".")[0]
        if first == "andon":
            # What goes out is read by nobody here.
            continue
        if first == "frigate":
            subjects = ["events", "reviews", "tracked_object_update", "available"]
            found["frigate"].append(bytes([subjects.index(path.name.split(".")[1])]) + raw)
            continue
        topic = bytes([["camera", "worker", "system", "report"].index(example["topic"].split("/")[5])])
        if path.name == "cloudevents.binary.json":
            head = "\n".join(f"{name}: {value}" for name, value in example["properties"].items())
            found["cloudevents_binary"].append(topic + head.encode() + b"\n\n" + raw)
        elif path.name == "cloudevents.structured.json":
            found["cloudevents_structured"].append(topic + raw)
        else:
            found["native"].append(topic + raw)
        found["strict_json"].append(raw)
    found["import_jsonl"] = [b'{"id": "A-1", "description": "belt", "timestamp": "05/03/2569 14:30", "tags": "a,b"}\n']
    found["import_csv"] = ["id,อาการ,วันที่,ระดับ\nA-1,สายพานขาด,05/03/2569 14:30,สูง\n".encode(), b"id;description\n1;x"]
    found["import_xlsx"] = [_workbook()]
    found["import_xlsx_part"] = [bytes([at]) + part for at, (_, part) in enumerate(sorted(_parts().items()))]
    found["vector_wire"] = [wire.encode(["search", {"limit": 3, "at": NOW}]), wire.encode((1, None, "x"))]
    found["search_filters"] = [
        b'{"text": "x", "filters": {"kinds": ["anomaly"], "tags": ["a"], "since": "2026-03-05T00:00:00+07:00"}}',
        b'{"kind": "anomaly", "from": "2026-03-05T00:00Z", "limit": 3, "collections": ["anomaly_patterns"]}',
        b"zone_id=Z1,Z2\nindex_number>=3\ntimestamp=last:24h\ntags=empty\ntimestamp>=2026-03-05\nseverity=high",
    ]
    found["receipts"] = [b'{"source": "a", "ids": ["1", "2"]}', publisher._line(publisher._Record(1, "a", "t", "{}"))]
    return found


@functools.cache
def _workbook() -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["id", "description", "timestamp", "downtime"])
    book.active.append(["A-1", "สายพานขาด", datetime(2026, 3, 5, 14, 30), 12.5])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _parts() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(_workbook())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
