"""What narrows a search: conditions over the indexed fields, checked against the catalogue and told to the store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from edge.cases import COLLECTION, LANGUAGES, OUTCOMES, SEVERITIES
from edge.cases.model import STATUSES
from edge.errors import Rejected
from edge.vectors import COLLECTIONS, Condition, Filter, IsEmpty, Match, PayloadIndex, Range, TimeRange

#: Fields of which only these values exist.
VOCABULARY: Mapping[str, Sequence[str]] = {
    "status": STATUSES, "severity": SEVERITIES, "outcome": OUTCOMES, "language": LANGUAGES,
}  # fmt: skip

#: The most conditions of one search, and values of one condition.
MOST_CONDITIONS, MOST_VALUES = 64, 1_000

_LAST = re.compile(r"([1-9][0-9]{0,4})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_WRITTEN = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(>=|<=|>|<|=)\s*(.*?)\s*")
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


class BadFilter(Rejected):
    """A condition that cannot be: `field` is at fault, `allowed` what could stand there."""

    def __init__(self, sentence: str, field: str, allowed: Iterable[str] = ()) -> None:
        super().__init__(sentence)
        self.field = field
        self.allowed = tuple(allowed)


@dataclass(frozen=True, slots=True)
class Where:
    """One condition on an indexed field: one of `any_of`, or within bounds, or the `last` "24h", or `empty`.

    Bounds are numbers, or aware times; `last` counts m, h, d or w back from now. `empty`: True wants the field to be
    missing or empty, False to be there.
    """

    field: str
    any_of: tuple[str | int | bool, ...] = ()
    gt: float | datetime | None = None
    gte: float | datetime | None = None
    lt: float | datetime | None = None
    lte: float | datetime | None = None
    last: str | None = None
    empty: bool | None = None


@dataclass(frozen=True, slots=True)
class Filters:
    """Narrow the history. An empty tuple means any. Times are aware; `since` is inclusive, `until` exclusive.

    `last`: such as "24h", instead of `since`. All of `must`, none of `must_not` and, where `should` is not empty, at
    least one of it. The others are short for conditions that must hold. What a collection has no field for matches
    nothing in it.
    """

    kinds: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    severities: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    zone_ids: tuple[str, ...] = ()
    camera_ids: tuple[str, ...] = ()
    worker_ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    last: str | None = None
    must: tuple[Where, ...] = ()
    should: tuple[Where, ...] = ()
    must_not: tuple[Where, ...] = ()


ANY = Filters()


def fields_of(collections: Iterable[str]) -> dict[str, PayloadIndex]:
    """The fields that can be filtered on in any of `collections`, by name."""
    found = {index.key: index for name in collections for index in COLLECTIONS[name].indexes}
    return dict(sorted(found.items()))


def check(filters: Filters, collections: Sequence[str]) -> None:
    """Raises `BadFilter` for a field or a value that none of `collections` could match, naming what could."""
    known = fields_of(collections)
    conditions = (*filters.must, *filters.should, *filters.must_not)
    if len(conditions) > MOST_CONDITIONS:
        raise Rejected(f"A search takes {MOST_CONDITIONS} conditions, not {len(conditions)}.")
    for where in conditions:
        index = known.get(where.field)
        if index is None:
            raise BadFilter(
                f"There is no field {where.field!r} to filter on in {', '.join(collections)}. "
                f"Known are {', '.join(known)}.",
                where.field,
                known,
            )
        _condition(where, index, datetime.now(UTC))
    for name, values in (("status", filters.statuses), ("severity", filters.severities),
                         ("language", filters.languages), ("outcome", filters.outcomes)):  # fmt: skip
        if values:
            _vocabulary(name, values)
    if filters.last is not None:
        if filters.since is not None:
            raise BadFilter("A search has either `last` or `since`, not both.", "last")
        span(filters.last)


def span(last: str) -> timedelta:
    """30m, 24h, 7d, 2w as a span of time. Raises `BadFilter`."""
    match = _LAST.fullmatch(last)
    if match is None:
        raise BadFilter(f"{last!r} is no span of time: write 30m, 24h, 7d or 2w.", "last", ("30m", "24h", "7d", "2w"))
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def compiled(filters: Filters, collection: str, now: datetime) -> tuple[bool, Filter | None]:
    """Whether anything in `collection` can match, and the filter for the store. `check` comes first."""
    known = fields_of((collection,))
    kind = next((kind for kind, name in COLLECTION.items() if name == collection), None)
    if filters.kinds and kind not in filters.kinds:
        return False, None
    zone = "zone_applicable" if "zone_applicable" in known else "zone_id"
    short: list[tuple[str, Sequence[str]]] = [
        ("status", filters.statuses), (f"{kind}_type", filters.types), ("severity", filters.severities),
        ("language", filters.languages), ("outcome", filters.outcomes), (zone, filters.zone_ids),
        ("camera_id", filters.camera_ids), ("worker_id", filters.worker_ids), ("tags", filters.tags),
    ]  # fmt: skip
    short = [(name, values) for name, values in short if values]
    if any(name not in known for name, _ in short):
        return False, None
    must: list[Condition] = [Match(name, values) for name, values in short]
    since = now - span(filters.last) if filters.last else filters.since
    if since or filters.until:
        when = next((index.key for index in known.values() if index.kind == "datetime"), None)
        if when is None:
            return False, None
        must.append(TimeRange(when, gte=since, lt=filters.until))
    if any(where.field not in known for where in filters.must):
        return False, None
    must += [_condition(where, known[where.field], now) for where in filters.must]
    should = [_condition(where, known[where.field], now) for where in filters.should if where.field in known]
    if filters.should and not should:
        return False, None
    must_not = [_condition(where, known[where.field], now) for where in filters.must_not if where.field in known]
    if not (must or should or must_not):
        return True, None
    return True, Filter(tuple(must), tuple(should), tuple(must_not))


def parse(written: str, collections: Sequence[str]) -> Where:
    """A condition as a person writes it: `zone_id=Z1,Z2`, `index_number>=3`, `timestamp=last:24h`, `tags=empty`.

    Raises `BadFilter`.
    """
    match = _WRITTEN.fullmatch(written)
    if match is None or not match[3]:
        raise BadFilter(
            f"{written!r} is no condition: write field=value,value, field>=value or field=last:24h.", written
        )
    name, sign, value = match.groups()
    index = fields_of(collections).get(name)
    if sign == "=":
        if value.startswith("last:"):
            return Where(name, last=value.removeprefix("last:"))
        if value in ("empty", "present"):
            return Where(name, empty=value == "empty")
        values = [part.strip() for part in value.split(",")]
        whole = index is not None and index.kind == "integer"
        return Where(name, tuple(int(part) if whole and _WHOLE.fullmatch(part) else part for part in values))
    bound: float | datetime
    try:
        bound = moment(value, name) if index is not None and index.kind == "datetime" else float(value)
    except ValueError as error:
        raise BadFilter(f"{value!r} is no number to compare {name} with.", name) from error
    return Where(name, **{_BOUNDS[sign]: bound})  # type: ignore[arg-type]


def moment(value: str, name: str) -> datetime:
    """A time with its zone; a day alone begins at midnight UTC. Raises `BadFilter`."""
    try:
        found = datetime.fromisoformat(value)
    except ValueError as error:
        raise BadFilter(f"{value!r} is no time for {name}: write 2026-03-05T00:00+07:00.", name) from error
    if found.tzinfo is None:
        if len(value) > len("2026-03-05"):
            raise BadFilter(f"The time {value} for {name} needs its zone, such as +07:00.", name)
        found = found.replace(tzinfo=UTC)
    return found


def _condition(where: Where, index: PayloadIndex, now: datetime) -> Condition:
    bounds: dict[str, Any] = {
        name: value for name in ("gt", "gte", "lt", "lte") if (value := getattr(where, name)) is not None
    }
    ways = [bool(where.any_of), bool(bounds), where.last is not None, where.empty is not None]
    if sum(ways) != 1:
        raise BadFilter(
            f"A condition on {where.field} needs exactly one of any_of, bounds (gt, gte, lt, lte), last and empty.",
            where.field,
        )
    if where.empty is not None:
        gone = IsEmpty(where.field)
        return gone if where.empty else Filter(must_not=(gone,))
    if where.any_of:
        return _one_of(where, index)
    if index.kind == "datetime":
        if where.last is not None:
            return TimeRange(where.field, gte=now - span(where.last))
        for name, value in bounds.items():
            if not isinstance(value, datetime):
                bounds[name] = moment(str(value), where.field)
        return TimeRange(where.field, **bounds)
    if where.last is not None or index.kind not in ("integer", "float"):
        raise BadFilter(
            f"{where.field} holds {index.kind} values: "
            + ("it takes numbers to compare with." if index.kind in ("integer", "float") else "it takes any_of."),
            where.field,
        )
    for name, value in bounds.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:
            raise BadFilter(f"{where.field} is a number; {name} cannot be {value!r}.", where.field)
    return Range(where.field, **bounds)


def _one_of(where: Where, index: PayloadIndex) -> Condition:
    if len(where.any_of) > MOST_VALUES:
        raise BadFilter(f"A condition takes {MOST_VALUES} values, not {len(where.any_of)}.", where.field)
    if index.kind not in ("keyword", "integer", "bool"):
        raise BadFilter(f"{where.field} holds {index.kind} values: it takes bounds (gt, gte, lt, lte).", where.field)
    wanted = {"keyword": str, "integer": int, "bool": bool}[index.kind]
    for value in where.any_of:
        beyond = isinstance(value, int) and abs(value) >= 2**63
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)) or beyond:
            raise BadFilter(f"{where.field} holds {index.kind} values, so it is never {value!r}.", where.field)
    _vocabulary(where.field, where.any_of)
    return Match(where.field, where.any_of)


def _vocabulary(name: str, values: Iterable[object]) -> None:
    allowed = VOCABULARY.get(name)
    for value in values:
        if allowed is not None and value not in allowed:
            raise BadFilter(f"{name} is never {value!r}, but one of {', '.join(allowed)}.", name, allowed)
