"""`edge detect replay`: what the detectors would have raised over the past, as they are set and as they might be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edge.analytics.detectors import read_tunings
from edge.analytics.model import Finding, Observation
from edge.analytics.watch import places, replay, standards
from edge.analytics.workbook import observation
from edge.config import Settings
from edge.db import Database
from edge.roles.prepare import open_database

#: Events read at a time.
PAGE = 2_000

#: Findings of both sides this close in time are the same one.
SAME_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Raised:
    """A finding of a replay and where it would have been."""

    zone_id: str | None
    finding: Finding


@dataclass(frozen=True, slots=True)
class Comparison:
    """Findings by (detector, zone): as set, as proposed, and what each side alone would have said."""

    now: Counter[tuple[str, str]]
    then: Counter[tuple[str, str]]
    only_now: tuple[Raised, ...]
    only_then: tuple[Raised, ...]


def compare(
    settings: Settings,
    other: Path,
    *,
    since: datetime,
    until: datetime,
    progress: Callable[[datetime], None] = lambda _: None,
) -> Comparison:
    """Run the detectors twice over the stored events. Changes nothing. Raises `Stop`, `Unavailable`."""
    mine, theirs = read_tunings(settings.analytics.detectors), read_tunings(other)
    with open_database(settings, name="detect") as database:
        with database.transaction() as tx:
            works, cameras = standards(tx), places(tx)
        found: list[list[Raised]] = []
        for tunings in (mine, theirs):
            seen = stored(database, since, until, progress)
            found.append([Raised(one.zone_id, finding) for one, finding in replay(seen, tunings, works, cameras)])
    now, then = found
    return Comparison(
        now=Counter((one.finding.detector, one.zone_id or "") for one in now),
        then=Counter((one.finding.detector, one.zone_id or "") for one in then),
        only_now=tuple(_without(now, then)),
        only_then=tuple(_without(then, now)),
    )


def stored(
    database: Database, since: datetime, until: datetime, progress: Callable[[datetime], None] = lambda _: None
) -> Iterator[Observation]:
    """The events of a span of time, in order, a page at a time. Raises `Unavailable`."""
    after_at, after_id = since.astimezone(UTC), -1
    while True:
        with database.transaction() as tx:
            rows = tx.all("events_between", after_at=after_at, after_id=after_id, until=until, limit=PAGE)
        yield from map(observation, rows)
        if len(rows) < PAGE:
            return
        after_at, after_id = rows[-1]["occurred_at"], rows[-1]["inbox_id"]
        progress(after_at)


def _without(these: list[Raised], those: list[Raised]) -> Iterator[Raised]:
    """What of `these` has no counterpart in `those`: the same type in the same zone at about the same time."""
    times: dict[tuple[str, str | None], list[datetime]] = {}
    for one in those:
        times.setdefault((one.finding.type, one.zone_id), []).append(one.finding.at)
    for one in these:
        others = times.get((one.finding.type, one.zone_id), [])
        if not any(abs((one.finding.at - at).total_seconds()) <= SAME_SECONDS for at in others):
            yield one
