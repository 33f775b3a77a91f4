"""Events of workers become sessions, work cycles and time logs.

The rules, which hold whatever order events came in and however often:

1. A session is one worker in one zone within one shift. What goes on past the end of a shift is the next shift's
   session, marked `continued`.
2. It begins with `session_start`, or with the first event of the worker there (`start_seen` is then False).
3. It ends with `session_end`. Where that is missing, it ends with its last event: when the worker starts again, works
   in another zone, or is silent for `Rules.gap`. A worker is in one place at a time; the later event says where.
4. An event counts once by its source and id. Of two events at one time, a start goes first and an end last.
5. A cycle ends with an `index` event and holds the steps since the one before. The same index number again, with no step
   between, is a repeat. Steps without an index event at the end make an incomplete cycle.
6. Active and idle seconds are unions of the intervals that end at each event, cut to the session; time that is reported
   as both counts as active.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from edge.analytics.model import Observation

_ORDER = {"worker/session_start": 0, "worker/session_end": 2}
Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Shift:
    """One shift of one production day: the day it begins, in plant time. `end` is exclusive."""

    day: date
    number: int
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Rules:
    """`gap`: silence that ends a session whose end was not reported. `starts`: shift starts in plant time, ascending."""

    zone: ZoneInfo
    starts: tuple[time, ...] = (time(6), time(14), time(22))
    gap: timedelta = timedelta(minutes=30)

    def shift(self, at: datetime) -> Shift:
        """The shift `at` falls in. A clock change makes a shift an hour shorter or longer, never two of one."""
        local = at.astimezone(self.zone)
        marks = [
            (self._mark(local.date() + timedelta(days=offset), begins), local.date() + timedelta(days=offset), number)
            for offset in (-1, 0, 1)
            for number, begins in enumerate(self.starts, 1)
        ]
        for (start, day, number), (end, _, _) in pairwise(marks):
            if start <= at < end:
                return Shift(day, number, start, end)
        raise AssertionError(f"{at} is in no shift of {self.starts}")

    def _mark(self, day: date, begins: time) -> datetime:
        return datetime.combine(day, begins, self.zone).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Step:
    """`seconds` None: neither told nor to be derived, as for the first step of an inferred session."""

    name: str
    ended_at: datetime
    seconds: float | None
    ref: int


@dataclass(frozen=True, slots=True)
class Cycle:
    """One index record: the steps of one piece. `index_number` None: its end was not reported."""

    index_number: int | None
    started_at: datetime
    ended_at: datetime
    seconds: float
    steps: tuple[Step, ...]

    @property
    def complete(self) -> bool:
        return self.index_number is not None


@dataclass(frozen=True, slots=True)
class TimeLog:
    """What of a session fell into one hour of plant time. `motion`: mean motion score of the zone, 0 to 1, if seen."""

    hour: datetime
    active_seconds: float
    idle_seconds: float
    cycles: int
    motion: float | None


@dataclass(frozen=True, slots=True)
class Session:
    """`ended`: False while it may still go on. `motion`: mean motion score of the zone meanwhile, 0 to 1, if seen."""

    worker_id: str
    zone_id: str
    shift: Shift
    started_at: datetime
    ended_at: datetime
    ended: bool
    start_seen: bool
    end_seen: bool
    continued: bool
    product_type: str | None
    active_seconds: float
    idle_seconds: float
    motion: float | None
    cycles: tuple[Cycle, ...]
    hours: tuple[TimeLog, ...]
    refs: tuple[int, ...] = field(repr=False)

    @property
    def seconds(self) -> float:
        return (self.ended_at - self.started_at).total_seconds()


def sessionize(worker_id: str, seen: Iterable[Observation], rules: Rules, *, now: datetime) -> list[Session]:
    """The sessions of one worker, by start.

    `seen`: events of this worker and motion of cameras in the zones, in any order, repeated or not. They have to
    cover whole shifts: a session never looks beyond its shift, save that `continued` asks for the shift before.
    """
    events = in_order(seen)
    own = [event for event in events if event.worker_id == worker_id and event.zone_id]
    made: list[Session] = []
    run: list[Observation] = []
    for event in own:
        if run and _cuts(run, event, rules):
            made.append(_session(worker_id, run, events, rules, now, after=made[-1:], following=True))
            run = []
        run.append(event)
    if run:
        made.append(_session(worker_id, run, events, rules, now, after=made[-1:], following=False))
    return [
        replace(later, continued=_continues(earlier, later, rules)) if earlier else later
        for earlier, later in zip([None, *made], made, strict=False)
    ]


def in_order(seen: Iterable[Observation]) -> list[Observation]:
    """Each event once, by time; the same list for any order of `seen`."""
    once: dict[tuple[str, str], Observation] = {}
    for event in seen:
        once.setdefault((event.source, event.event_id), event)
    return sorted(once.values(), key=lambda event: (event.at, _ORDER.get(event.kind, 1), event.source, event.event_id))


def _cuts(run: Sequence[Observation], event: Observation, rules: Rules) -> bool:
    last = run[-1]
    return (
        last.kind == "worker/session_end"
        or event.kind == "worker/session_start"
        or event.zone_id != last.zone_id
        or _begins(event) - last.at > rules.gap
        or event.at >= rules.shift(run[0].at).end
    )


def _begins(event: Observation) -> datetime:
    """When what an event tells of began: an interval or a step of 40 minutes is no silence of 40 minutes."""
    seconds = event.body.get("seconds")
    return event.at - timedelta(seconds=seconds) if isinstance(seconds, int | float) else event.at


def _continues(earlier: Session, later: Session, rules: Rules) -> bool:
    return (
        earlier.zone_id == later.zone_id
        and not earlier.end_seen
        and not later.start_seen
        and earlier.shift.end == later.shift.start
        and later.started_at - earlier.ended_at <= rules.gap
    )


def _session(
    worker_id: str,
    run: Sequence[Observation],
    events: Sequence[Observation],
    rules: Rules,
    now: datetime,
    *,
    after: Sequence[Session],
    following: bool,
) -> Session:
    first, last = run[0], run[-1]
    shift = rules.shift(first.at)
    start_seen = first.kind == "worker/session_start"
    floor = [shift.start, *(session.ended_at for session in after)]
    started = first.at if start_seen else max(min(_begins(event) for event in run), *floor)
    ended_at = last.at
    motion = [
        (event.at, float(event.body["score"]))
        for event in events
        if event.kind == "camera/motion" and event.zone_id == first.zone_id and started <= event.at <= ended_at
    ]
    active = _spans(run, "worker/active", started, ended_at)
    idle = _spans(run, "worker/idle", started, ended_at) + _spans(run, "camera/idle", started, ended_at)
    cycles = tuple(_cycles(run, started, start_seen))
    hours = tuple(_hours(rules.zone, (started, ended_at), active, idle, cycles, motion))
    products = [event.body.get("product_type") for event in run if event.kind.startswith("worker/session_")]
    end_seen = last.kind == "worker/session_end"
    return Session(
        worker_id=worker_id,
        zone_id=str(first.zone_id),
        shift=shift,
        started_at=started,
        ended_at=ended_at,
        ended=end_seen or following or now > ended_at + rules.gap or now >= shift.end,
        start_seen=start_seen,
        end_seen=end_seen,
        continued=False,
        product_type=next((str(product) for product in products if product), None),
        active_seconds=sum(hour.active_seconds for hour in hours),
        idle_seconds=sum(hour.idle_seconds for hour in hours),
        motion=_mean([score for _, score in motion]),
        cycles=cycles,
        hours=hours,
        refs=tuple(event.ref for event in run),
    )


def _cycles(run: Sequence[Observation], started: datetime, start_seen: bool) -> Iterable[Cycle]:
    steps: list[Step] = []
    began: datetime | None = started if start_seen else None
    mark = began
    number: int | None = None
    for event in run:
        if event.kind in ("worker/step", "camera/step"):
            seconds = _seconds(event, mark)
            if not steps:
                began = event.at - timedelta(seconds=seconds) if seconds is not None else mark or event.at
            steps.append(Step(str(event.body["step"]), event.at, seconds, event.ref))
            mark = event.at
        elif event.kind == "worker/index":
            told = int(event.body["index_number"])
            if told == number and not steps:
                continue
            seconds = _seconds(event, began)
            begins = event.at - timedelta(seconds=seconds) if seconds is not None else event.at
            yield Cycle(told, max(begins, started), event.at, seconds or 0.0, tuple(steps))
            number, steps, began, mark = told, [], event.at, event.at
    if steps:
        ended = steps[-1].ended_at
        begins = max(began or ended, started)
        yield Cycle(None, begins, ended, (ended - begins).total_seconds(), tuple(steps))


def _seconds(event: Observation, mark: datetime | None) -> float | None:
    told: Any = event.body.get("seconds")
    if told is not None:
        return float(told)
    return (event.at - mark).total_seconds() if mark is not None else None


def _spans(run: Sequence[Observation], kind: str, start: datetime, end: datetime) -> list[Span]:
    told = ((_begins(event), event.at) for event in run if event.kind == kind)
    return _cut(told, start, end)


def _hours(
    zone: ZoneInfo,
    whole: Span,
    active: Sequence[Span],
    idle: Sequence[Span],
    cycles: Sequence[Cycle],
    motion: Sequence[tuple[datetime, float]],
) -> Iterable[TimeLog]:
    """One row for every hour the session touches, its last moment included."""
    start, end = whole
    local = start.astimezone(zone).replace(minute=0, second=0, microsecond=0)
    hour = local.astimezone(UTC)
    while hour <= end:
        after = hour + timedelta(hours=1)
        worked = _length(_cut(active, hour, after))
        yield TimeLog(
            hour=hour,
            active_seconds=worked,
            idle_seconds=_length(_cut([*active, *idle], hour, after)) - worked,
            cycles=sum(cycle.complete and hour <= cycle.ended_at < after for cycle in cycles),
            motion=_mean([score for at, score in motion if hour <= at < after]),
        )
        hour = after


def _cut(spans: Iterable[Span], start: datetime, end: datetime) -> list[Span]:
    cut = ((max(start, begins), min(end, ends)) for begins, ends in spans)
    return [(begins, ends) for begins, ends in cut if begins < ends]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _length(spans: Sequence[Span]) -> float:
    """Seconds covered by at least one of the spans."""
    total, reached = 0.0, None
    for start, end in sorted(spans):
        if reached is None or start > reached:
            total += (end - start).total_seconds()
            reached = end
        elif end > reached:
            total += (end - reached).total_seconds()
            reached = end
    return total
