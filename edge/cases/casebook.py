"""Reads and changes cases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from edge.cases.model import (
    COLLECTION,
    KINDS,
    SEVERITIES,
    Case,
    Evidence,
    Found,
    Impact,
    Kind,
    LiveCase,
    LogEntry,
    Match,
    NewCase,
    Outcome,
    Severity,
    Zone,
)  # fmt: skip
from edge.db import Database, Row, Transaction
from edge.errors import Rejected

#: Minutes.
_DAY = 24 * 60

_COLUMNS = [field.name for field in fields(Case) if field.name not in ("zone", "tags")]


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """`before`: hand it back as (occurred_at, id) for the next page; None on the last."""

    cases: tuple[Case, ...]
    before: tuple[datetime, UUID] | None


class Casebook:
    """The cases of one site. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def board(self, *, zone_ids: Sequence[str] = (), limit: int = 60) -> list[LiveCase]:
        """Open and acknowledged cases, newest activity first, with their best past cases."""
        with self.database.transaction() as tx:
            rows = tx.all("case_board", zone_ids=list(zone_ids), limit=limit)
            matches = _matches(tx, [row["id"] for row in rows])
        return [
            LiveCase(
                case_from(row),
                matches.get(row["id"], ()),
                row["indexed"],
                impact_from(row) if row["findings"] else None,
            )
            for row in rows
        ]

    def revision(self) -> str:
        """Changes whenever the board would look different."""
        with self.database.transaction() as tx:
            return str(tx.value("case_revision"))

    def get(self, record_id: str) -> Case | None:
        with self.database.transaction() as tx:
            row = tx.one("case_get", record_id=record_id)
        return case_from(row) if row else None

    def by_ids(self, ids: Sequence[UUID]) -> dict[UUID, Case]:
        with self.database.transaction() as tx:
            return {row["id"]: case_from(row) for row in tx.all("case_by_ids", ids=list(ids))}

    def sample(self, limit: int) -> list[Case]:
        """Up to `limit` cases, by chance."""
        with self.database.transaction() as tx:
            return [case_from(row) for row in tx.all("case_sample", limit=limit, start=uuid4())]

    def matches(self, case: Case) -> tuple[Match, ...]:
        """The past cases found when the case was indexed, best first."""
        with self.database.transaction() as tx:
            return _matches(tx, [case.id]).get(case.id, ())

    def history(
        self,
        *,
        kinds: Sequence[str] = (),
        severities: Sequence[str] = (),
        languages: Sequence[str] = (),
        outcomes: Sequence[str] = (),
        zone_ids: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        before: tuple[datetime, UUID] | None = None,
        limit: int = 30,
    ) -> HistoryPage:
        """Closed cases, latest first."""
        with self.database.transaction() as tx:
            rows = tx.all(
                "case_history",
                kinds=list(kinds), severities=list(severities), languages=list(languages), outcomes=list(outcomes),
                zone_ids=list(zone_ids), since=since, until=until,
                before_at=before and before[0], before_id=before and before[1], limit=limit + 1,
            )  # fmt: skip
        cases = tuple(case_from(row) for row in rows[:limit])
        return HistoryPage(cases, (cases[-1].occurred_at, cases[-1].id) if len(rows) > limit else None)

    def log(self, case: Case) -> list[LogEntry]:
        with self.database.transaction() as tx:
            return [LogEntry(**row) for row in tx.all("case_log", id=case.id)]

    def evidence(self, case: Case, limit: int = 50) -> list[Evidence]:
        """The latest events behind the case."""
        with self.database.transaction() as tx:
            rows = tx.all("case_evidence", id=case.id, limit=limit)
        return [Evidence(event_class=row.pop("class"), **row) for row in rows]

    def findings(self, case: Case, limit: int = 5) -> list[Found]:
        """What detectors found, latest first."""
        with self.database.transaction() as tx:
            return [Found(**row) for row in tx.all("finding_of_case", case_id=case.id, limit=limit)]

    def impact(self, case: Case) -> Impact | None:
        """None where no detector found anything."""
        with self.database.transaction() as tx:
            row = tx.one("impact_of_case", case_id=case.id)
        return impact_from(row) if row and row["findings"] else None

    def review_state(self, case: Case, timeout_minutes: int) -> str | None:
        """Of the camera's review behind a case: "going_on", "ended", or "unheard": its end was never reported."""
        with self.database.transaction() as tx:
            state = tx.value("review_state", id=case.id, minutes=timeout_minutes)
        return None if state is None else str(state)

    def zones(self) -> list[Zone]:
        with self.database.transaction() as tx:
            return [Zone(**row) for row in tx.all("zones")]

    def counts(self) -> dict[str, int]:
        """open, acknowledged, closed, quarantined, inbox_pending, outbox_pending, indexed."""
        with self.database.transaction() as tx:
            return dict(tx.one("case_counts") or {})

    def open(self, new: NewCase, *, actor: str) -> Case:
        """A person reports something."""
        with self.database.transaction() as tx:
            opened = open_case(tx, new, actor=actor)
        case = self.get(opened)
        assert case is not None
        return case

    def acknowledge(self, case: Case, *, actor: str) -> None:
        """Raises `Rejected` when the case is not open any more."""
        with self.database.transaction() as tx:
            if not tx.run("case_acknowledge", id=case.id, actor=actor):
                raise Rejected(f"Case {case.record_id} is not open any more. Reload the page.")
            _changed(tx, case.id, COLLECTION[case.kind], actor, "acknowledged", {})

    def close(self, case: Case, *, actor: str, root_cause: str, resolution: str, outcome: str) -> None:
        """Raises `Rejected` when the case is closed already or a text is missing."""
        root_cause, resolution = root_cause.strip(), resolution.strip()
        if not root_cause or not resolution:
            raise Rejected("To close a case, say its cause and what fixed it.")
        with self.database.transaction() as tx:
            if not tx.run(
                "case_close", id=case.id, actor=actor, root_cause=root_cause, resolution=resolution, outcome=outcome
            ):
                raise Rejected(f"Case {case.record_id} is closed already. Reload the page.")
            tx.run("lookup_outdate")
            details = {"root_cause": root_cause, "resolution": resolution, "outcome": outcome}
            _changed(tx, case.id, COLLECTION[case.kind], actor, "closed", details)

    def reopen(self, case: Case, *, actor: str) -> None:
        """Cause and fix stay to be read. Raises `Rejected` when the case is not closed."""
        with self.database.transaction() as tx:
            if not tx.run("case_reopen", id=case.id):
                raise Rejected(f"Case {case.record_id} is not closed. Reload the page.")
            _changed(tx, case.id, COLLECTION[case.kind], actor, "reopened", {})

    def promote(self, case: Case, *, actor: str) -> None:
        """A person makes an incident of an anomaly. Raises `Rejected` when it is one already."""
        with self.database.transaction() as tx:
            if not tx.run("case_promote", id=case.id):
                raise Rejected(f"Case {case.record_id} is an incident already. Reload the page.")
            tx.run("outbox_add", collection=COLLECTION["anomaly"], entity_id=case.id, operation="delete")
            _changed(tx, case.id, COLLECTION["incident"], actor, "incident", {})

    def judge(self, case: Case, *, actor: str, outcome: Outcome) -> None:
        """A person says whether a fix held; the appliance keeps to it. Raises `Rejected` when the case is not closed."""
        with self.database.transaction() as tx:
            if not tx.run("case_judge", id=case.id, actor=actor, outcome=outcome):
                raise Rejected(f"Case {case.record_id} is not closed. Reload the page.")
            _changed(tx, case.id, COLLECTION[case.kind], actor, "judged", {"outcome": outcome})


def open_case(tx: Transaction, new: NewCase, *, actor: str) -> str:
    """Open a case inside the caller's transaction. Returns its record id."""
    return str(_open(tx, new, actor)["record_id"])


@dataclass(frozen=True, slots=True)
class Chatter:
    """So many `alarms` of one source in one case within `seconds` are chatter (ISA-18.2); 0: never."""

    alarms: int = 0
    seconds: float = 60


@dataclass(frozen=True, slots=True)
class _More:
    """Alarms that are folded and not written yet: how many, the last of them, and the end of the last burst."""

    count: int = 0
    last: datetime | None = None
    burst: tuple[datetime, str] | None = None


_Alarm = tuple[str, str | None, int, str | None]


class Folds:
    """What a storm of one alarm adds to its case, written once a transaction.

    Every alarm would otherwise make a new version of the case's row and of its entries in a dozen indexes, which nobody
    clears away before the transaction ends: seen at 200 a second, the work slowed down to a third. `mark` and `undo` go
    along with a savepoint, `write` comes before COMMIT.
    """

    def __init__(self) -> None:
        # Of an alarm (type, zone, minutes, words): its only case from one time to another, and when there is one.
        self._known: dict[_Alarm, tuple[Row, datetime, datetime]] = {}
        self._looked: set[_Alarm] = set()
        self._more: dict[UUID, _More] = {}

    def mark(self) -> dict[UUID, _More]:
        return dict(self._more)

    def undo(self, mark: dict[UUID, _More]) -> None:
        self._more = mark
        self._known.clear()

    def write(self, tx: Transaction) -> None:
        """Write what was folded, at the end of the transaction."""
        self._flush(tx)
        self._known.clear()
        self._looked.clear()

    def look(self, tx: Transaction, alarm: _Alarm) -> bool:
        """Before cases are looked for: what is known of them is written. Whether this alarm was looked for before."""
        self._flush(tx)
        for other in [other for other in self._known if other[:2] == alarm[:2]]:
            del self._known[other]
        known = alarm in self._looked
        self._looked.add(alarm)
        return known

    def _flush(self, tx: Transaction) -> None:
        for case_id, more in sorted(self._more.items()):
            if more.count:
                tx.run("case_fold_more", id=case_id, count=more.count, last=more.last)
            if more.burst:
                tx.run("case_chatter", id=case_id, at=more.burst[0], source=more.burst[1])
        for row, _, _ in self._known.values():
            row["last_seen_at"] = self._last(row)
        self._more.clear()

    def _last(self, row: Row) -> datetime:
        more = self._more.get(row["id"])
        last: datetime = row["last_seen_at"]
        return max(last, more.last) if more and more.last else last

    def plain(self, alarm: _Alarm, new: NewCase, reach: timedelta) -> UUID | None:
        """Fold an alarm that changes nothing but the count. None when cases must be looked for."""
        row, since, until = self._known.get(alarm, (None, None, None))
        if row is None or since is None or until is None or not since <= new.occurred_at <= until:
            return None
        more = self._more.get(row["id"], _More())
        last = self._last(row)
        alike = (
            row["occurred_at"] < new.occurred_at <= last + reach
            and _worse(row["severity"], new.severity) == row["severity"]
            and max(row["kind"], new.kind, key=KINDS.index) == row["kind"]
            and set(new.tags) <= set(row["tags"])
        )
        if not alike:
            return None
        self._more[row["id"]] = replace(more, count=more.count + 1, last=max(last, new.occurred_at))
        case_id: UUID = row["id"]
        return case_id

    def learn(self, alarm: _Alarm, found: Sequence[Row], at: datetime, reach: timedelta) -> None:
        """What a look showed: the only case there is for this alarm, from `at` on for as long as alarms fold."""
        if len(found) == 1 and found[0]["status"] != "closed":
            self._known[alarm] = (found[0], at, at + reach)

    def burst(self, case_id: UUID, at: datetime, source: str) -> None:
        more = self._more.get(case_id, _More())
        ends = (at, source)
        if more.burst is None or at > more.burst[0] or (at == more.burst[0] and source < more.burst[1]):
            self._more[case_id] = replace(more, burst=ends)


def raise_alarm(
    tx: Transaction,
    new: NewCase,
    *,
    inbox_id: int | None,
    fold_minutes: int,
    folds: Folds,
    again: bool = False,
    chatter: Chatter = Chatter(),
) -> UUID | None:
    """Open a case for an event, or fold it into the case of the same alarm (ISA-18.2), keeping the event.

    What comes in another order ends alike: the earliest event gives a case its words, and an event between two cases
    makes them one. Cases a person has done something about stay. A late event joins the case that was closed since.

    `inbox_id` None: nothing was received, as when something fell silent. `again`: what was raised before still goes on,
    which opens no case where there is none. `folds` is the transaction's. Returns the case.
    """
    exact = new.type == "report"
    minutes = _DAY if again else fold_minutes
    reach = timedelta(minutes=minutes)
    alarm = (new.type, new.zone_id, minutes, new.description if exact else None)
    case_id = folds.plain(alarm, new, reach)
    if case_id is None:
        before = folds.look(tx, alarm)
        tx.run("case_fold_lock", key=f"{new.zone_id}/{new.type}")
        asked: dict[str, Any] = {"type": new.type, "zone_id": new.zone_id, "minutes": minutes, "exact": exact}
        asked |= {"description": new.description, "since": new.occurred_at}
        found = tx.all("case_fold_find", until=new.occurred_at, **asked)
        if not found and again:
            return None
        if not found:
            case_id = _open(tx, new, "appliance")["id"]
        else:
            case_id = found[0]["id"]
            _fold(tx, found[0], new, inbox_id)
            for other in found[1:]:
                if not (other["touched"] or found[0]["status"] == "closed" or again):
                    _merge(tx, found[0], other)
        if before:
            # The second of its kind in this transaction: more may follow, and a look ahead is worth its while.
            folds.learn(alarm, tx.all("case_fold_find", until=new.occurred_at + reach, **asked), new.occurred_at, reach)
    if inbox_id is not None:
        tx.run("case_event_add", case_id=case_id, inbox_id=inbox_id)
        _listen_for_chatter(tx, case_id, inbox_id, chatter, folds)
    return case_id


def _fold(tx: Transaction, into: Row, new: NewCase, inbox_id: int | None) -> None:
    late = into["status"] == "closed"
    first = not late and not into["touched"] and _first(tx, into, new.occurred_at, inbox_id)
    after = tx.one(
        "case_fold", id=into["id"], occurred_at=new.occurred_at, late=late, tags=[] if late else list(new.tags),
        severity=into["severity"] if late else _worse(into["severity"], new.severity),
        kind=into["kind"] if late else max(into["kind"], new.kind, key=KINDS.index),
    )  # fmt: skip
    assert after is not None
    if late:
        tx.run("case_log_add", id=into["id"], actor="appliance", action="late", details={})
        return
    if first:
        tx.run(
            "case_fold_first", id=into["id"], description=new.description, language=new.language,
            camera_id=new.camera_id, worker_id=new.worker_id,
        )  # fmt: skip
    changed = first or any(after[name] != into[name] for name in after)
    if changed:
        _reindex(tx, into["id"], after["kind"])
    if after["severity"] != into["severity"]:
        note(tx, into["id"], "appliance", "escalated", {"severity": after["severity"]})
    elif changed:
        tell(tx, into["id"], "appliance", "changed", {})
    into.update(after)


def _first(tx: Transaction, into: Row, at: datetime, inbox_id: int | None) -> bool:
    if at != into["occurred_at"] or inbox_id is None:
        return bool(at < into["occurred_at"])
    first, own = tx.one("case_first", id=into["id"]), tx.one("event_name", inbox_id=inbox_id)
    return bool(first and own and (own["source"], own["event_id"]) < (first["source"], first["event_id"]))


def _merge(tx: Transaction, into: Row, other: Row) -> None:
    after = tx.one(
        "case_merge", id=into["id"], other=other["id"], severity=_worse(into["severity"], other["severity"]),
        kind=max(into["kind"], other["kind"], key=KINDS.index),
    )  # fmt: skip
    assert after is not None
    into.update(after)
    tell(tx, other["id"], "appliance", "merged", {"into": into["record_id"]})
    tx.run("case_drop", id=other["id"])
    tx.run("outbox_add", collection=COLLECTION[other["kind"]], entity_id=other["id"], operation="delete")
    details = {"record_id": other["record_id"]}
    tx.run("case_log_add", id=into["id"], actor="appliance", action="merged", details=details)
    _reindex(tx, into["id"], after["kind"])
    tell(tx, into["id"], "appliance", "changed", {})


def _reindex(tx: Transaction, case_id: UUID, kind: Kind) -> None:
    tx.run("case_bump", id=case_id)
    tx.run("outbox_add", collection=COLLECTION[kind], entity_id=case_id, operation="upsert")


def _worse(one: Severity, other: Severity) -> Severity:
    return max(one, other, key=SEVERITIES.index)


def _listen_for_chatter(tx: Transaction, case_id: UUID, inbox_id: int, chatter: Chatter, folds: Folds) -> None:
    if not chatter.alarms:
        return
    rows = tx.all("case_alarms_near", id=case_id, inbox_id=inbox_id, seconds=chatter.seconds, count=chatter.alarms)
    times = [row["at"] for row in rows]
    ends = [
        last
        for first, last in zip(times, times[chatter.alarms - 1 :], strict=False)
        if (last - first).total_seconds() <= chatter.seconds
    ]
    if ends:
        folds.burst(case_id, max(ends), rows[0]["source"])


def import_cases(tx: Transaction, cases: Sequence[NewCase]) -> dict[str, str]:
    """Store past cases by their own ids. Returns record id → "added" | "changed" | "unchanged" | "taken".

    "taken": a case opened on this appliance already has this id; it is left alone.
    """
    ids = [case.record_id for case in cases]
    before = {row["record_id"]: row["origin"] for row in tx.all("case_origins", record_ids=ids)}
    result = {}
    rows = tx.many_returning("case_import", [_values(case) for case in cases])
    for case, row in zip(cases, rows, strict=True):
        record_id = case.record_id or ""
        if row is None:
            result[record_id] = "unchanged" if before.get(record_id) == "import" else "taken"
            continue
        result[record_id] = "changed" if record_id in before else "added"
        tx.run("outbox_add", collection=COLLECTION[case.kind], entity_id=row["id"], operation="upsert")
    if set(result.values()) & {"added", "changed"}:
        tx.run("lookup_outdate")
    return result


def _open(tx: Transaction, new: NewCase, actor: str) -> Row:
    """A new case: its `id` and `record_id`."""
    row = tx.one("case_open", **_values(new))
    assert row is not None
    _changed(tx, row["id"], COLLECTION[new.kind], actor, "opened", {})
    return row


def _changed(tx: Transaction, case_id: UUID, collection: str, actor: str, action: str, details: dict[str, Any]) -> None:
    note(tx, case_id, actor, action, details)
    tx.run("outbox_add", collection=collection, entity_id=case_id, operation="upsert")


def note(tx: Transaction, case_id: UUID, actor: str, action: str, details: dict[str, Any]) -> None:
    """Write into the log of a case what was done to it, and tell the plant."""
    tx.run("case_log_add", id=case_id, actor=actor, action=action, details=details)
    tell(tx, case_id, actor, action, details)


def tell(tx: Transaction, case_id: UUID, actor: str, event: str, details: dict[str, Any]) -> None:
    """What goes out about a case once this transaction is committed: `edge.contract.andon` says in which form."""
    tx.run("outbound_add", id=case_id, actor=actor, event=event, details=details)


def impact_from(row: Mapping[str, Any] | Row) -> Impact:
    return Impact(row["findings"], row["seconds_lost"], row["workers_affected"], row["productivity_loss"])


def _values(new: NewCase) -> dict[str, Any]:
    values = {field.name: getattr(new, field.name) for field in fields(new)}
    values["tags"] = list(new.tags)
    return values


def _matches(tx: Transaction, ids: Sequence[UUID]) -> dict[UUID, tuple[Match, ...]]:
    found: dict[UUID, list[Match]] = defaultdict(list)
    for row in tx.all("case_matches", ids=list(ids)):
        found[row["for_id"]].append(Match(case_from(row), row["match_score"]))
    return {key: tuple(value) for key, value in found.items()}


def case_from(row: Mapping[str, Any] | Row) -> Case:
    """A row of `case_row`."""
    zone = None
    if row["area_id"] is not None:
        zone = Zone(
            id=row["zone_id"], area_id=row["area_id"], line=row["line"], cell=row["cell"],
            name_th=row["zone_th"], name_en=row["zone_en"], area_th=row["area_th"], area_en=row["area_en"],
        )  # fmt: skip
    return Case(zone=zone, tags=tuple(row["tags"]), **{name: row[name] for name in _COLUMNS})
