"""The detectors at work: observations in order of arrival, their states kept in Postgres from one batch to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from edge.analytics.detectors import DETECTORS, Detector, State, Tunings
from edge.analytics.model import CLOCK, Finding, Observation
from edge.analytics.standard import Standard, StandardStep
from edge.db import Row, Transaction

#: Seconds of the events' own clock between two looks at what has *not* been seen.
TICK = timedelta(seconds=30)

#: An event no older than this is live: then the wall clock counts as well.
LIVE = timedelta(minutes=10)

Key = tuple[str, str]
Load = Callable[[Key], State | None]


class Bench:
    """The detectors of every zone, and a state for each of their subjects. Knows no database."""

    def __init__(self, tunings: Tunings, standards: Mapping[str, Standard]) -> None:
        self._tunings = tunings
        self._detectors: dict[str | None, list[Detector[Any, Any]]] = {}
        self.standards = standards
        self.states: dict[Key, State] = {}

    def see(self, seen: Observation, load: Load = lambda _: None) -> list[Finding]:
        """What an observation shows. `load` gives the state of a subject that is not in `states` yet."""
        found: list[Finding] = []
        for detector in self._of(seen.zone_id):
            subject = detector.subject(seen)
            if subject is None:
                continue
            key = (detector.name, subject)
            state = self.states.get(key) or load(key)
            if state is None:
                if seen.kind == CLOCK:
                    # The clock tells nothing about what was never heard of.
                    continue
                state = detector.state()
            self.states[key], findings = detector.step(state, seen)
            found += findings
        return found

    def _of(self, zone_id: str | None) -> list[Detector[Any, Any]]:
        if zone_id not in self._detectors:
            self._detectors[zone_id] = self._tunings.detectors(zone_id, self.standards.get)
        return self._detectors[zone_id]


def ticks(at: datetime, places: Iterable[tuple[str, str | None]]) -> Iterator[Observation]:
    """The clock for every (zone, camera); a zone without a camera has none."""
    for zone_id, camera_id in places:
        yield Observation(at, CLOCK, "clock", at.isoformat(), zone_id, camera_id, None, {}, 0)


def replay(
    seen: Iterable[Observation],
    tunings: Tunings,
    standards: Mapping[str, Standard],
    places: Sequence[tuple[str, str | None]],
) -> Iterator[tuple[Observation, Finding]]:
    """What would have been raised over a past, given in order of time, by detectors that start from nothing."""
    bench = Bench(tunings, standards)
    due: datetime | None = None
    for one in seen:
        if due is not None and one.at >= due + TICK:
            yield from (
                (tick, finding) for tick in ticks(one.at, places) for finding in bench.see(tick) if not finding.again
            )
        due = one.at if due is None or one.at >= due + TICK else due
        yield from ((one, finding) for finding in bench.see(one) if not finding.again)


class Watch:
    """One bench over many transactions. Not thread-safe: a worker has one.

    Only one process watches at a time; what another one did meanwhile is read from Postgres again.
    """

    def __init__(self, tunings: Tunings) -> None:
        self._tunings = tunings
        self._me = uuid4()
        self._bench: Bench | None = None
        self._clock: datetime | None = None
        self._ticked: datetime | None = None
        self._standards: datetime | None = None

    @contextmanager
    def over(self, tx: Transaction) -> Iterator[Bout]:
        """Watch within a transaction. What was remembered is forgotten when it fails."""
        taken = tx.one("watch_take", owner=self._me)
        if self._bench is None or taken is None or taken["owner"] != self._me:
            self._bench = Bench(self._tunings, standards(tx))
            self._clock = self._ticked = taken["clock"] if taken else None
            self._standards = taken["standards"] if taken else None
        elif taken["standards"] != self._standards:
            # An engineer changed standard work: it counts from here on. What detectors remember is in Postgres.
            self._bench, self._standards = Bench(self._tunings, standards(tx)), taken["standards"]
        bout = Bout(tx, self._bench, self._clock, self._ticked)
        try:
            yield bout
            bout.save()
        except BaseException:
            self._bench = None
            raise
        self._clock, self._ticked = bout.clock, bout.ticked

    def forget(self) -> None:
        """Read states and standards anew at the next batch: a commit failed."""
        self._bench = None


class Bout:
    """One transaction of a watch."""

    def __init__(self, tx: Transaction, bench: Bench, clock: datetime | None, ticked: datetime | None) -> None:
        self._tx = tx
        self._bench = bench
        self._before = dict(bench.states)
        self.clock = clock
        self.ticked = ticked
        self._began = clock

    def see(self, seen: Observation) -> list[Finding]:
        """What an observation shows. A caller whose savepoint fails calls `undo` with what `mark` gave it before."""
        found = self._bench.see(seen, self._load)
        if seen.kind != CLOCK and (self.clock is None or seen.at > self.clock):
            # A clock that runs ahead must not make the whole plant look silent.
            self.clock = min(seen.at, datetime.now(UTC))
        return found

    def mark(self) -> dict[Key, State]:
        return dict(self._bench.states)

    def undo(self, mark: dict[Key, State]) -> None:
        self._bench.states = mark

    def tick(
        self, now: datetime, places: Callable[[], Sequence[tuple[str, str | None]]]
    ) -> list[tuple[Observation, Finding]]:
        """What has not been seen. The clock is that of the events, so a past that is replayed is not a silent plant."""
        if self.clock is None:
            return []
        at = now if now - self.clock <= LIVE else self.clock
        if self.ticked is not None and at < self.ticked + TICK:
            return []
        self.ticked = at
        return [(tick, finding) for tick in ticks(at, places()) for finding in self._bench.see(tick, self._load)]

    def save(self) -> None:
        states = self._bench.states
        changed = [
            {"detector": name, "subject": subject, "state": state.model_dump(mode="json")}
            for (name, subject), state in states.items()
            if self._before.get((name, subject)) is not state
        ]
        if changed:
            self._tx.many("detector_state_put", sorted(changed, key=lambda row: (row["detector"], row["subject"])))
        if self.clock is not None and self.clock != self._began:
            self._tx.run("watch_clock", clock=self.clock)

    def _load(self, key: Key) -> State | None:
        row = self._tx.one("detector_state_get", detector=key[0], subject=key[1])
        if row is None:
            return None
        return DETECTORS[key[0]].state.model_validate(row["state"])


def places(tx: Transaction) -> list[tuple[str, str | None]]:
    """Every camera's zone and name."""
    return [(row["zone_id"], row["id"]) for row in tx.all("cameras")]


def standards(tx: Transaction) -> dict[str, Standard]:
    """The standard work of each zone, for whatever is made there before that of one product."""
    found: dict[str, Standard] = {}
    for row in tx.all("standards"):
        found.setdefault(row["zone_id"], standard_from(row))
    return found


def standard_from(row: Row) -> Standard:
    steps = tuple(StandardStep(step["name"], step["seconds"], step.get("critical", False)) for step in row["steps"])
    return Standard(row["zone_id"], steps, row["product_type"])
