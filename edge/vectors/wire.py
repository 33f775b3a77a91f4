"""What travels between the processes of one appliance: one frame per message, JSON for structure, raw bytes for arrays.

    frame    magic "AEV1" | header bytes (uint32, big-endian) | array bytes (uint32) | header | arrays
    header   UTF-8 JSON; everything JSON lacks is an object whose "$" names its kind

Decoding builds only the records listed here; nothing that arrives can name code to run.
"""

from __future__ import annotations

import itertools
import json
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np

from edge.errors import Rejected
from edge.vectors.catalogue import Collection, Hnsw, PayloadIndex
from edge.vectors.model import (
    FacetCount,
    Filter,
    HasId,
    Hit,
    IsEmpty,
    Match,
    Point,
    Range,
    SearchRequest,
    SparseVector,
    Stats,
    TimeRange,
    Versions,
)

DEFAULT_MAX_BYTES = 32 << 20
"""The largest frame either side sends or accepts."""

_HEAD = struct.Struct(">4sII")
_MAGIC = b"AEV1"
_RECORDS: Mapping[str, type[Any]] = {
    record.__name__: record
    for record in (
        Collection,
        FacetCount,
        Filter,
        HasId,
        Hit,
        Hnsw,
        IsEmpty,
        Match,
        PayloadIndex,
        Point,
        Range,
        SearchRequest,
        SparseVector,
        Stats,
        TimeRange,
        Versions,
    )
}
_DTYPES = {"<f4": np.dtype("<f4"), "<u4": np.dtype("<u4")}


class Malformed(Exception):
    """The bytes that arrived are no message of ours. The connection they came on is of no further use."""


class Lost(Exception):
    """The connection ended or stayed silent past its deadline."""


def encode(value: object, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
    """One frame. Raises Rejected where the value cannot travel or the frame would exceed `max_bytes`."""
    arrays: list[bytes] = []
    try:
        header = json.dumps(_flatten(value, arrays), allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Rejected(f"This cannot be sent to the vector host: {error}.") from error
    body = b"".join(arrays)
    size = _HEAD.size + len(header) + len(body)
    if size > max_bytes:
        raise Rejected(f"A message of {size} bytes exceeds the {max_bytes} one may have; ask for less at a time.")
    return b"".join((_HEAD.pack(_MAGIC, len(header), len(body)), header, body))


def send(connection: socket.socket, frame: bytes, deadline: float) -> None:
    """Raises Lost when the peer is gone or has not taken the frame by `deadline` (time.monotonic)."""
    try:
        connection.settimeout(_left(deadline))
        connection.sendall(frame)
    except OSError as error:
        raise Lost(str(error) or type(error).__name__) from error


def receive(connection: socket.socket, deadline: float, max_bytes: int = DEFAULT_MAX_BYTES) -> Any:
    """The next message, whole by `deadline` (time.monotonic). Raises Lost or Malformed."""
    magic, header_size, body_size = _HEAD.unpack(_exactly(connection, _HEAD.size, deadline))
    if magic != _MAGIC or _HEAD.size + header_size + body_size > max_bytes:
        raise Malformed(f"not one of ours, or larger than {max_bytes} bytes")
    header = _exactly(connection, header_size, deadline)
    body = _exactly(connection, body_size, deadline)
    try:
        return _rebuild(json.loads(header), body)
    except Rejected:
        raise
    except Exception as error:
        raise Malformed(f"{type(error).__name__}: {error}") from error


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def _exactly(connection: socket.socket, size: int, deadline: float) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    got = 0
    try:
        while got < size:
            connection.settimeout(_left(deadline))
            count = connection.recv_into(view[got:])
            if count == 0:
                raise Lost("the connection was closed")
            got += count
    except OSError as error:
        raise Lost(str(error) or type(error).__name__) from error
    return buffer


def _flatten(value: Any, arrays: list[bytes]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, UUID):
        return {"$": "uuid", "v": value.hex}
    if isinstance(value, datetime):
        return {"$": "time", "v": value.isoformat()}
    if isinstance(value, np.ndarray):
        dtype = "<u4" if value.dtype.kind == "u" else "<f4"
        arrays.append(np.ascontiguousarray(value, dtype=_DTYPES[dtype]).tobytes())
        return {"$": "array", "t": dtype, "n": int(value.size)}
    if isinstance(value, tuple):
        return {"$": "tuple", "v": [_flatten(item, arrays) for item in value]}
    if isinstance(value, list):
        if value and all(type(item) is Hit and item.vectors is None for item in value):
            # Many at a time, and a search waits for them: column by column. Their payloads are plain JSON as they stand.
            arrays.append(np.array([hit.score for hit in value], dtype="<f8").tobytes())
            return {
                "$": "hits",
                "ids": "".join(hit.id.hex for hit in value),
                "payloads": [dict(hit.payload) for hit in value],
            }
        if value and all(type(item) is Point and item.sparse and not (item.vectors or item.payload) for item in value):
            # As many and as often: the words of candidates.
            sparse = [point.sparse for point in value]
            arrays += [np.concatenate([each.indices for each in sparse]).astype("<u4", copy=False).tobytes()]
            arrays += [np.concatenate([each.values for each in sparse]).astype("<f4", copy=False).tobytes()]
            return {
                "$": "words",
                "ids": "".join(point.id.hex for point in value),
                "sizes": [len(each) for each in sparse],
            }
        return [_flatten(item, arrays) for item in value]
    if isinstance(value, Mapping):
        if "$" in value:
            return {"$": "mapping", "v": [[key, _flatten(item, arrays)] for key, item in value.items()]}
        return {key: _flatten(item, arrays) for key, item in value.items()}
    if is_dataclass(value) and _RECORDS.get(type(value).__name__) is type(value):
        flat = {each.name: _flatten(getattr(value, each.name), arrays) for each in fields(value)}
        return {"$": type(value).__name__, "v": flat}
    raise TypeError(f"a {type(value).__name__} has no form on the wire")


def _rebuild(header: Any, body: bytearray) -> Any:
    # Arrays lie in the body in the order the header names them, so reading in that order needs no offsets.
    position = 0

    def build(value: Any) -> Any:
        nonlocal position
        if isinstance(value, list):
            return [build(item) for item in value]
        if not isinstance(value, dict):
            return value
        kind = value.get("$")
        if kind is None:
            return {key: build(item) for key, item in value.items()}
        if kind == "array":
            array = np.frombuffer(body, dtype=_DTYPES[value["t"]], count=value["n"], offset=position)
            position += array.nbytes
            return array
        if kind == "hits":
            payloads = value["payloads"]
            scores = np.frombuffer(body, dtype="<f8", count=len(payloads), offset=position)
            position += scores.nbytes
            ids = [UUID(hex=value["ids"][start : start + 32]) for start in range(0, len(value["ids"]), 32)]
            return [Hit(*parts) for parts in zip(ids, scores.tolist(), payloads, strict=True)]
        if kind == "words":
            sizes = value["sizes"]
            indices = np.frombuffer(body, dtype="<u4", count=sum(sizes), offset=position)
            weights = np.frombuffer(body, dtype="<f4", count=sum(sizes), offset=position + indices.nbytes)
            position += indices.nbytes + weights.nbytes
            ids = [UUID(hex=value["ids"][start : start + 32]) for start in range(0, len(value["ids"]), 32)]
            ends = np.cumsum([0, *sizes])
            cuts = [slice(start, end) for start, end in itertools.pairwise(ends.tolist())]
            return [
                Point(each, {}, SparseVector.stored(indices[cut], weights[cut]))
                for each, cut in zip(ids, cuts, strict=True)
            ]
        if kind == "uuid":
            return UUID(hex=value["v"])
        if kind == "time":
            return datetime.fromisoformat(value["v"])
        if kind == "tuple":
            return tuple(build(item) for item in value["v"])
        if kind == "mapping":
            return {key: build(item) for key, item in value["v"]}
        return _RECORDS[kind](**{key: build(item) for key, item in value["v"].items()})

    return build(header)
