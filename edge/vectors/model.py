"""The language every side of the vector door speaks: points, filters, requests, answers and the store's interface.

Nothing of an engine's own types appears here. Whatever could make two engines disagree (number types, time zones,
duplicate ids, vectors without a direction) is normalised or refused here, before any engine sees it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge.errors import Rejected, Stop
from edge.vectors.catalogue import Collection

Dense: TypeAlias = NDArray[np.float32]
Scalar: TypeAlias = str | int | bool

MAX_WINDOW = 10_000
"""The most hits one search reaches: offset + limit."""

DEFAULT_QUANTIZE_ABOVE = 50_000
"""Points above which `optimize` adds an int8 copy; below, scanning the original vectors is fast enough."""

MAX_PAYLOAD_BYTES = 64 * 1024
"""The largest payload of one point, as JSON. Long texts belong in the database; this keeps every write batch small."""

_MAX_DEPTH = 16
_INT64 = range(-(2**63), 2**63)


def _set(instance: object, **values: object) -> None:
    for name, value in values.items():
        object.__setattr__(instance, name, value)


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """A lexical vector: `indices` uint32 [n], ascending and unique; `values` float32 [n], finite. n may be 0.

    Any sequence is taken and brought into that shape. Raises Rejected on a length mismatch, a repeated index, an index
    outside 32 bits, NaN or infinity.
    """

    indices: NDArray[np.uint32]
    values: Dense

    def __init__(self, indices: ArrayLike, values: ArrayLike) -> None:
        try:
            raw = np.asarray(indices, dtype=np.int64).reshape(-1)
            weights = np.asarray(values, dtype=np.float32).reshape(-1)
        except (TypeError, ValueError, OverflowError) as error:
            raise Rejected(f"A sparse vector needs whole-number indices and numeric values: {error}.") from error
        if len(raw) != len(weights):
            raise Rejected(f"A sparse vector has {len(raw)} indices and {len(weights)} values; they must be as many.")
        if len(raw) and (raw.min() < 0 or raw.max() > 0xFFFFFFFF):
            raise Rejected("A sparse index lies outside 0 … 4294967295.")
        if not np.isfinite(weights).all():
            raise Rejected("A sparse vector holds NaN or infinity.")
        order = np.argsort(raw, kind="stable")
        ordered = raw[order]
        if len(ordered) > 1 and bool((ordered[1:] == ordered[:-1]).any()):
            raise Rejected("A sparse vector names the same index twice.")
        _set(self, indices=ordered.astype(np.uint32), values=np.ascontiguousarray(weights[order]))

    @classmethod
    def stored(cls, indices: ArrayLike, values: ArrayLike) -> SparseVector:
        """One that comes from a store, where it went in as above: only brought into order."""
        raw = np.asarray(indices, dtype=np.uint32)
        weights = np.asarray(values, dtype=np.float32)
        if len(raw) > 1 and not bool((raw[1:] > raw[:-1]).all()):
            order = np.argsort(raw)
            raw, weights = raw[order], weights[order]
        made = object.__new__(cls)
        _set(made, indices=raw, values=weights)
        return made

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One point. `vectors` maps a vector's name to float32 [dimension]; a name may be missing (no fix known yet).

    The payload is JSON: dates, UUIDs and NumPy scalars are accepted on the way in and come back as strings and numbers.
    A stored vector comes back at unit length, because cosine collections keep it that way.
    """

    id: UUID
    vectors: Mapping[str, Dense]
    sparse: SparseVector | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)


def _check_key(key: str) -> None:
    if not isinstance(key, str) or not key.strip():
        raise Rejected(f"A filter's key must be a payload path, not {key!r}.")


@dataclass(frozen=True, slots=True)
class Match:
    """The field equals one of `any_of`, or is an array holding one of them. An empty `any_of` matches nothing.

    Types are told apart: True is not 1, and 1 is not "1". A float is refused; that is what Range is for.
    """

    key: str
    any_of: tuple[Scalar, ...]

    def __init__(self, key: str, any_of: Iterable[Scalar]) -> None:
        _check_key(key)
        if isinstance(any_of, (str, bytes)):
            raise Rejected(f"The values to match for {key} must be a list, not the single text {any_of!r}.")
        values: list[Scalar] = []
        for value in any_of:
            plain = value.item() if isinstance(value, np.generic) else value
            if isinstance(plain, UUID):
                plain = str(plain)
            if not isinstance(plain, (str, int)) or (isinstance(plain, int) and plain not in _INT64):
                raise Rejected(f"{key} can be matched against text, whole numbers and true/false, not {value!r}.")
            if isinstance(plain, str):
                _text(plain, key)
            values.append(plain)
        _set(self, key=key, any_of=tuple(values))


@dataclass(frozen=True, slots=True)
class Range:
    """The field is a number within the given bounds. A true/false field is not a number."""

    key: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None

    def __post_init__(self) -> None:
        _check_key(self.key)
        for bound in ("gt", "gte", "lt", "lte"):
            value = getattr(self, bound)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
                raise Rejected(f"The bound {bound} of {self.key} must be a finite number, not {value!r}.")
            _set(self, **{bound: float(value)})


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The field is a moment within the given bounds. Bounds carry a time zone; they are compared as moments."""

    key: str
    gt: datetime | None = None
    gte: datetime | None = None
    lt: datetime | None = None
    lte: datetime | None = None

    def __post_init__(self) -> None:
        _check_key(self.key)
        for bound in ("gt", "gte", "lt", "lte"):
            value = getattr(self, bound)
            if value is None:
                continue
            if not isinstance(value, datetime) or value.utcoffset() is None:
                raise Rejected(f"The bound {bound} of {self.key} must be a time with its time zone, not {value!r}.")
            _set(self, **{bound: value.astimezone(UTC)})


@dataclass(frozen=True, slots=True)
class HasId:
    """The point is one of `ids`. No ids match nothing."""

    ids: tuple[UUID, ...]

    def __init__(self, ids: Iterable[UUID]) -> None:
        _set(self, ids=checked_ids(ids))


@dataclass(frozen=True, slots=True)
class IsEmpty:
    """The field is missing, null or an empty array."""

    key: str

    def __post_init__(self) -> None:
        _check_key(self.key)


@dataclass(frozen=True, slots=True)
class Filter:
    """All of `must`, none of `must_not` and, where `should` is not empty, at least one of it. Filters may nest.

    An empty filter matches every point.
    """

    must: tuple[Condition, ...] = ()
    should: tuple[Condition, ...] = ()
    must_not: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        for clause in ("must", "should", "must_not"):
            conditions = tuple(getattr(self, clause))
            for condition in conditions:
                if not isinstance(condition, (Match, Range, TimeRange, HasId, IsEmpty, Filter)):
                    raise Rejected(f"{condition!r} is no condition a filter can hold.")
            _set(self, **{clause: conditions})


Condition: TypeAlias = Match | Range | TimeRange | HasId | IsEmpty | Filter


@dataclass(frozen=True, slots=True, eq=False)
class SearchRequest:
    """The nearest points to `vector`, which is float32 [dimension] for a dense `using` and a SparseVector for a sparse.

    Dense scores are cosines in [-1, 1]; sparse ones are IDF-weighted products. Only scores >= `score_threshold` return.
    `exact` forgoes the graph and the quantized copy. offset + limit may reach 10,000. `fields`: the top-level payload keys
    to bring along, None for all of them; a search that reads many hits is faster with few. `settle_ties`: points that score
    the same are ordered by id even where the window cuts through them, for which all of them are read. Records told in the
    same words come by the thousand, so whoever only gathers candidates does without.
    """

    vector: Dense | SparseVector
    using: str
    filter: Filter | None = None
    limit: int = 10
    offset: int = 0
    score_threshold: float | None = None
    with_vectors: bool = False
    exact: bool = False
    fields: tuple[str, ...] | None = None
    settle_ties: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """One answer. `vectors` (float32 [dimension], unit length) is None unless the request asked for them."""

    id: UUID
    score: float
    payload: Mapping[str, Any]
    vectors: Mapping[str, Dense] | None = None


@dataclass(frozen=True, slots=True)
class FacetCount:
    """How many points carry `value`."""

    value: Scalar
    count: int


@dataclass(frozen=True, slots=True)
class Stats:
    """What a collection holds now. `indexed_vectors` counts those in a graph; the rest is scanned."""

    name: str
    fingerprint: str
    dimension: int
    points: int
    indexed_vectors: int
    segments: int
    quantized: bool


@dataclass(frozen=True, slots=True)
class Versions:
    """The fingerprints a collection exists for, sorted, and the one its name answers with (None: none yet)."""

    active: str | None
    built: tuple[str, ...]


class VectorStore(Protocol):
    """The vector door. Every side behaves the same; the contract tests hold them to it.

    `name` is a collection's own name (whatever version is active) or the physical name that `ensure` and
    `build_beside` return, which keeps meaning the same encoder's points after a switch. Writers pin the physical one.

    Raises, everywhere: Unavailable (the engine does not answer, or someone else holds the directory; nothing was
    acknowledged), Rejected (the input cannot be right), Stop (dimension or encoder do not fit; a person must decide).
    """

    def ensure(self, collection: Collection, *, fingerprint: str) -> str:
        """Create the collection for this encoder, or check the one that is there; returns its physical name.

        Missing payload indexes are added. Another active fingerprint or dimension raises Stop; nothing is dropped.
        """

    def build_beside(self, collection: Collection, *, fingerprint: str) -> str:
        """Create a version for another encoder without making it the active one; returns its physical name."""

    def switch(self, name: str, *, fingerprint: str) -> None:
        """Let `name` answer with that version from now on. The former one stays, to switch back to."""

    def versions(self, name: str) -> Versions:
        """The versions of `name`."""

    def drop(self, name: str, *, fingerprint: str) -> None:
        """Remove a version that is not active. A version that does not exist is no error."""

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        """Write points whole, replacing those of the same id; durable when it returns. The last of equal ids wins.

        Everything is validated before anything is written. A failure on the way may leave a part written: repeat.
        """

    def delete(self, name: str, ids: Iterable[UUID]) -> None:
        """Remove points; durable when it returns. Missing ids are no error."""

    def set_payload(self, name: str, ids: Iterable[UUID], payload: Mapping[str, Any]) -> list[UUID]:
        """Merge `payload`'s top-level keys into existing points; durable when it returns. Returns the missing ids."""

    def search(self, name: str, request: SearchRequest) -> list[Hit]:
        """Hits by descending score, equal scores by ascending id."""

    def search_many(self, name: str, requests: Sequence[SearchRequest]) -> list[list[Hit]]:
        """Several searches in one call, answers in the order of the requests."""

    def get(self, name: str, ids: Iterable[UUID], *, with_vectors: bool | Sequence[str] = False) -> list[Point]:
        """The points that exist, in the order asked. `with_vectors`: all of their vectors, none, or those of these names.

        Where names are given, the payload is left out.
        """

    def scroll_ids(self, name: str, after: UUID | None = None, limit: int = 1000) -> list[UUID]:
        """Up to `limit` ids greater than `after`, ascending. Fewer than `limit` means the end."""

    def count(self, name: str, filter: Filter | None = None) -> int:
        """The exact number of points that match."""

    def facet(self, name: str, key: str, filter: Filter | None = None, limit: int = 100) -> list[FacetCount]:
        """The most frequent values of an indexed keyword or integer field; ties by value. Rejected when unindexed."""

    def stats(self, name: str) -> Stats:
        """Sizes and version of a collection."""

    def describe(self, name: str) -> tuple[Collection, str]:
        """The collection as it was created, and its fingerprint."""

    def optimize(self, name: str) -> bool:
        """Merge, index and, above the configured size, quantize what was written. True when something changed.

        Embedded: works on a copy in a process of its own, so it needs the collection's size on disk once more; searches
        and writes go on, and only the moments of copying and of taking over hold them up. One at a time; worth its while
        when more than the indexing threshold was written since. A server does this by itself and returns False.
        """

    def snapshot(self, target: Path) -> None:
        """Copy every collection into the new directory `target` while the process runs. Embedded side only."""

    def restore(self, source: Path) -> None:
        """Replace everything by a snapshot, all or nothing. Embedded side only."""

    def close(self) -> None:
        """Release files and connections. Closing twice is no error; any later call raises Unavailable."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing:
    """Makes a store close itself at the end of a `with` block."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# --- refusing bad input, the same on every side ---------------------------------------------------------------------


def checked_ids(ids: Iterable[UUID]) -> tuple[UUID, ...]:
    """The ids without repeats, in order. Raises Rejected on anything but a UUID."""
    if isinstance(ids, (UUID, str)):
        raise Rejected(f"Ids come as a list of UUIDs, not as the single value {ids!r}.")
    unique = dict.fromkeys(ids)
    for each in unique:
        if not isinstance(each, UUID):
            raise Rejected(f"A point's id must be a UUID, not {each!r}.")
    return tuple(unique)


def checked_names(names: bool | Sequence[str], collection: Collection) -> bool | list[str]:
    """Which vectors to read. Raises Rejected for a name the collection does not have."""
    if isinstance(names, bool):
        return names
    for name in names:
        if name != collection.sparse and name not in collection.vectors:
            raise Rejected(f"{collection.name} has no vector {name!r}.")
    return list(names)


def checked_points(points: Iterable[Point], collection: Collection) -> list[Point]:
    """The points as engines may take them, the last of equal ids only. Raises Rejected before anything is written."""
    unique: dict[UUID, Point] = {}
    for point in points:
        (identity,) = checked_ids((point.id,))
        unknown = [name for name in point.vectors if name not in collection.vectors]
        if unknown:
            raise Rejected(
                f"Point {identity}: {collection.name} has no vector {unknown[0]!r}, only {', '.join(collection.vectors)}."
            )
        vectors = {
            name: _dense(vector, collection, f"Point {identity}, vector {name}")
            for name, vector in point.vectors.items()
        }
        sparse = point.sparse
        if sparse is not None and not isinstance(sparse, SparseVector):
            raise Rejected(f"Point {identity}: the sparse vector must be a SparseVector.")
        payload = checked_payload(point.payload, f"Point {identity}")
        unique.pop(identity, None)
        unique[identity] = Point(identity, vectors, sparse if sparse is not None and len(sparse) else None, payload)
    return list(unique.values())


def checked_request(request: SearchRequest, collection: Collection) -> SearchRequest:
    """The request with its vector in the engine's shape. Raises Rejected where it cannot be answered."""
    if request.limit < 1 or request.offset < 0 or request.limit + request.offset > MAX_WINDOW:
        raise Rejected(
            f"A search returns between 1 and {MAX_WINDOW} hits counted from its offset, "
            f"not limit {request.limit} at offset {request.offset}."
        )
    if request.score_threshold is not None and not math.isfinite(request.score_threshold):
        raise Rejected("The score threshold must be a finite number.")
    if isinstance(request.vector, SparseVector):
        if request.using != collection.sparse:
            raise Rejected(f"{collection.name} has no sparse vector {request.using!r}, only {collection.sparse}.")
        return request
    if request.using not in collection.vectors:
        raise Rejected(f"{collection.name} has no vector {request.using!r}, only {', '.join(collection.vectors)}.")
    return replace(request, vector=_dense(request.vector, collection, f"The query for {request.using}"))


def checked_payload(payload: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of `payload` made of JSON values only. Raises Rejected, naming the path, on anything else."""
    plain = _plain(payload, where, 0)
    if not isinstance(plain, dict):
        raise Rejected(f"{where}: the payload must be a mapping.")
    size = len(json.dumps(plain, ensure_ascii=False).encode())
    if size > MAX_PAYLOAD_BYTES:
        raise Rejected(f"{where}: the payload takes {size} bytes as JSON; {MAX_PAYLOAD_BYTES} are allowed.")
    return plain


def checked_facet(key: str, limit: int, collection: Collection) -> None:
    """Raises Rejected unless the values of `key` can be counted."""
    if not collection.facetable(key):
        raise Rejected(f"{collection.name} keeps no index that could count the values of {key!r}.")
    if not 1 <= limit <= MAX_WINDOW:
        raise Rejected(f"A facet returns between 1 and {MAX_WINDOW} values, not {limit}.")


def checked_page(limit: int) -> None:
    """Raises Rejected unless `limit` is a page size."""
    if not 1 <= limit <= MAX_WINDOW:
        raise Rejected(f"A page holds between 1 and {MAX_WINDOW} ids, not {limit}.")


def _dense(vector: ArrayLike, collection: Collection, where: str) -> Dense:
    try:
        array = np.ascontiguousarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise Rejected(f"{where} is not a vector of numbers: {error}.") from error
    if array.shape != (collection.dimension,):
        raise Rejected(f"{where} has shape {array.shape}; {collection.name} takes ({collection.dimension},).")
    norm = float(np.linalg.norm(array.astype(np.float64)))
    if not math.isfinite(norm):
        raise Rejected(f"{where} holds NaN or infinity.")
    # Below float32's resolution the engines' normalisation gives up and they disagree about the score.
    if norm < 1e-6:
        raise Rejected(f"{where} has no direction (length {norm:g}); leave the vector out instead.")
    return array


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Rejected(f"{where}: the text holds half a character (a lone surrogate).") from error
    return value


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise Rejected(f"{where}: the payload is nested deeper than {_MAX_DEPTH} levels.")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(str(value), where)
    if isinstance(value, int):
        if value not in _INT64:
            raise Rejected(f"{where}: the number {value} does not fit 64 bits.")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Rejected(f"{where}: {value} is not a number JSON can carry.")
        return float(value)
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise Rejected(f"{where}: the time {value.isoformat()} needs its time zone.")
        return value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        plain: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise Rejected(f"{where}: a payload's keys are texts, not {key!r}.")
            plain[_text(key, where)] = _plain(item, f"{where}, {key}", depth + 1)
        return plain
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, where, depth + 1) for item in value]
    raise Rejected(f"{where}: a payload cannot carry a {type(value).__name__}.")


# --- how an index is searched ---------------------------------------------------------------------------------------

HNSW_EF = 256
"""Points a graph is searched for at once. With the engine's own 100, ten of a third of a million came back .93 to .975
complete, with this 1.0, at 1.1 instead of 0.6 ms."""


def oversampling(limit: int) -> float:
    """How many times `limit` are scored anew by their original vectors, which lie on disk: each is a page to be read.

    Where many are asked for, the best of them are safe without further ones.
    """
    return 2.0 if limit <= 32 else 1.0


# --- one order of results on every side -----------------------------------------------------------------------------

TIE_SLACK = 16
"""Hits fetched beyond the window, so that equal scores at its edge are ordered by id and not by the engine's mood."""


def ordered(hits: Iterable[Hit]) -> list[Hit]:
    """By descending score, then ascending id."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id.int))


def window(hits: list[Hit], request: SearchRequest) -> list[Hit]:
    """The requested part of `hits`, which are ordered and start at rank 0."""
    return hits[request.offset : request.offset + request.limit]


def edge_is_tied(hits: list[Hit], request: SearchRequest, fetched: int) -> bool:
    """Whether points beyond the `fetched` ones may tie with the window's last hit, so that more must be fetched."""
    last = request.offset + request.limit - 1
    return (
        request.settle_ties
        and len(hits) >= fetched
        and last < len(hits)
        and hits[last].score == hits[-1].score
        and fetched < MAX_WINDOW
    )


# --- what both engines say and share -----------------------------------------------------------------------------------


def other_fingerprint(name: str, active: str, wanted: str) -> Stop:
    return Stop(
        f"{name} holds the vectors of the encoder {active}, but this process encodes with {wanted}; their scores cannot "
        "be compared. Re-index beside the old version and switch, or set encoder.model back."
    )


def check_fits(built: Collection, wanted: Collection) -> None:
    """Raises Stop where the vectors of the collection that is there are not those that are wanted."""
    if built.dimension != wanted.dimension:
        raise Stop(
            f"{wanted.name} holds vectors of {built.dimension} dimensions, but {wanted.dimension} are wanted. Nothing was "
            "changed: give the encoder its own fingerprint and re-index, or set encoder.model back."
        )
    if set(built.vectors) != set(wanted.vectors) or built.sparse != wanted.sparse:
        raise Stop(
            f"{wanted.name} was built with the vectors {', '.join(built.vectors)} and {built.sparse}, but "
            f"{', '.join(wanted.vectors)} and {wanted.sparse} are wanted. Re-index it under another fingerprint."
        )


def no_collection(name: str) -> Rejected:
    return Rejected(f"There is no collection {name!r} here; it must be ensured before it is used.")


def not_built(name: str, fingerprint: str) -> Stop:
    return Stop(f"{name} has not been built for the encoder {fingerprint}; nothing was switched.")


def still_active(name: str, fingerprint: str) -> Stop:
    return Stop(f"{name} answers with the encoder {fingerprint} now, so that version is kept. Switch first.")


def next_id(after: UUID | None) -> UUID | None:
    """The smallest id greater than `after`; None where there is none or nothing to be greater than."""
    return None if after is None or after.int == 2**128 - 1 else UUID(int=after.int + 1)


def sorted_facet(counts: Iterable[FacetCount]) -> list[FacetCount]:
    return sorted(counts, key=lambda each: (-each.count, str(each.value)))
