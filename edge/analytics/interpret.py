"""Pending inbox rows become events, and findings become cases. One transaction a batch; a bad row costs only itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from edge.analytics.detectors import read_tunings
from edge.analytics.model import Finding, Observation, Severity, Words
from edge.analytics.watch import Bout, Watch, places
from edge.analytics.workbook import ask, rules_of
from edge.cases import NewCase
from edge.cases.casebook import Chatter, Folds, raise_alarm, tell
from edge.cases.model import Origin
from edge.config import Settings
from edge.contract import Frigate, Limits, Message, Reading, interpret
from edge.db import Database, Row, Transaction
from edge.embedding import detect_language
from edge.errors import Rejected, Stop, Unavailable

_log = logging.getLogger(__name__)


class Interpreter:
    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._frigate = Frigate(settings.intake.frigate_prefixes, settings.intake.frigate_cameras)
        self._limits = Limits.of(settings.intake)
        self._zones: dict[tuple[str, ...], str] = {}
        self._folds = Folds()
        self._chatter = Chatter(settings.analytics.chatter_alarms, settings.analytics.chatter_seconds)
        self._watch = Watch(read_tunings(settings.analytics.detectors))

    def step(self, batch: int = 100) -> bool:
        """Settle up to `batch` pending events. True if there were any. Raises `Unavailable`."""
        # A zone may move; within a batch it stays.
        self._zones.clear()
        try:
            with self._database.transaction() as tx:
                rows = tx.all("inbox_claim", limit=batch)
                if rows:
                    self._settle(tx, rows)
        except BaseException:
            # Nobody must remember what was not committed.
            self._watch.forget()
            self._folds = Folds()
            raise
        return bool(rows)

    def tick(self) -> bool:
        """Look for what has not been seen, such as a camera that is silent. Never finds work. Raises `Unavailable`."""
        try:
            with self._database.transaction() as tx, self._watch.over(tx) as bout:
                for tick, finding in bout.tick(datetime.now(UTC), lambda: places(tx)):
                    self._found(tx, tick, finding)
                self._folds.write(tx)
        except BaseException:
            self._watch.forget()
            self._folds = Folds()
            raise
        return False

    def _settle(self, tx: Transaction, rows: Sequence[Row]) -> None:
        seen: list[Observation] = []
        with self._watch.over(tx) as bout:
            for row in rows:
                mark, folded = bout.mark(), self._folds.mark()
                reason = self._one(tx, bout, row, seen)
                if reason is not None:
                    bout.undo(mark)
                    self._folds.undo(folded)
                    tx.run("quarantine_put", inbox_id=row["id"], reason=reason[:2_000])
                tx.run("inbox_settle", id=row["id"], state="done" if reason is None else "quarantined")
            self._folds.write(tx)
        if seen:
            ask(tx, rules_of(self._settings, tx), seen)

    def _one(self, tx: Transaction, bout: Bout, row: Row, seen: list[Observation]) -> str | None:
        """None when all went well, else the reason for quarantine."""
        try:
            with tx.savepoint():
                message = Message(row["topic"], bytes(row["payload"]), row["content_type"], row["properties"])
                reading = interpret(
                    message, received_at=row["received_at"], fallback_id=f"inbox-{row['id']}",
                    limits=self._limits, frigate=self._frigate,
                )  # fmt: skip
                observed = self._record(tx, bout, row["id"], reading)
        except Rejected as error:
            return str(error)
        except (Unavailable, Stop):
            raise
        except Exception as error:  # noqa: BLE001 - see below
            # A fault of ours must cost a replay after the fix, never the event and never the queue behind it.
            _log.exception("Event %d could not be understood because of a fault in the appliance.", row["id"])
            return f"A fault in the appliance ({type(error).__name__}: {error}). Replay it after an update."
        seen.append(observed)
        return None

    def _record(self, tx: Transaction, bout: Bout, inbox_id: int, reading: Reading) -> Observation:
        zone_id = self._zone(tx, reading)
        values: dict[str, Any] = {
            "event_class": reading.event_class, "kind": reading.kind, "source": reading.source,
            "event_id": reading.event_id, "sequence": reading.sequence, "occurred_at": reading.occurred_at,
            "camera_id": reading.camera_id, "worker_id": reading.worker_id, "body": reading.body,
        }  # fmt: skip
        late = self._settings.analytics.late_minutes
        tx.run("event_put", inbox_id=inbox_id, zone_id=zone_id, late_minutes=late, **values)
        observed = Observation(
            reading.occurred_at, f"{reading.event_class}/{reading.kind}", reading.source, reading.event_id, zone_id,
            reading.camera_id, reading.worker_id, reading.body, inbox_id,
        )  # fmt: skip
        if case_id := self._known(tx, reading):
            tx.run("case_event_add", case_id=case_id, inbox_id=inbox_id)
            return observed
        findings = [*bout.see(observed), *_camera_alert(observed)]
        if reading.event_class == "report":
            self._raise(tx, observed, _reported(reading), origin="person")
        for finding in findings:
            self._found(tx, observed, finding)
        return observed

    def _found(self, tx: Transaction, seen: Observation, finding: Finding) -> None:
        case_id = self._raise(tx, seen, finding, origin="event")
        if case_id is None or finding.again:
            return
        tx.run("case_evidence_add", case_id=case_id, inbox_ids=list(finding.evidence))
        tx.run(
            "finding_put",
            case_id=case_id, detector=finding.detector, type=finding.type, severity=finding.severity, at=finding.at,
            reason_th=finding.words.th, reason_en=finding.words.en, zone_id=seen.zone_id,
            seconds_lost=finding.seconds_lost, workers_affected=finding.workers_affected,
            productivity_loss=finding.productivity_loss,
        )  # fmt: skip
        tell(
            tx, case_id, "appliance", "found",
            {
                "detector": finding.detector, "reason_th": finding.words.th, "reason_en": finding.words.en,
                "seconds_lost": finding.seconds_lost, "workers_affected": finding.workers_affected,
                "productivity_loss": finding.productivity_loss,
            },
        )  # fmt: skip

    def _raise(self, tx: Transaction, seen: Observation, finding: Finding, *, origin: Origin) -> UUID | None:
        description = finding.words.in_(self._settings.web.language)
        case = NewCase(
            kind="incident" if finding.incident else "anomaly",
            type=finding.type,
            severity=finding.severity,
            origin=origin,
            description=description,
            language=detect_language(description),
            occurred_at=seen.at,
            zone_id=seen.zone_id,
            camera_id=seen.camera_id,
            worker_id=seen.worker_id,
            tags=finding.tags,
        )
        fold = self._settings.analytics.fold_minutes
        return raise_alarm(
            tx, case, inbox_id=seen.ref or None, fold_minutes=fold, folds=self._folds, again=finding.again,
            chatter=self._chatter,
        )  # fmt: skip

    def _known(self, tx: Transaction, reading: Reading) -> Any:
        """The case a camera's review has made already: its updates are evidence, not further alarms."""
        if reading.kind != "review":
            return None
        # Two workers with two updates of one review must not open two cases for it.
        tx.run("case_fold_lock", key=f"{reading.source}/{reading.body['review']}")
        return tx.value("case_of_review", source=reading.source, review=reading.body["review"], at=reading.occurred_at)

    def _zone(self, tx: Transaction, reading: Reading) -> str | None:
        if not reading.area:
            return self._camera_zone(tx, reading.camera_id)
        place = (reading.site, reading.area, reading.line, reading.cell)
        if known := self._zones.get(place):
            return known
        zone_id = tx.value("zone_at", site=reading.site, area=reading.area, line=reading.line, cell=reading.cell)
        if zone_id is None:
            raise Rejected(
                f"The plant has no zone at {reading.site}/{reading.area}/{reading.line}/{reading.cell}. "
                "Correct the topic, or add the zone to the file in plant.file."
            )
        self._zones[place] = str(zone_id)
        return str(zone_id)

    def _camera_zone(self, tx: Transaction, camera_id: str | None) -> str | None:
        if camera_id is None:
            return None
        zone_id = tx.value("camera_zone", id=camera_id)
        if zone_id is None:
            raise Rejected(
                f"The plant has no camera {camera_id[:100]}. Add it to the file in plant.file, "
                "or say in EDGE__INTAKE__FRIGATE_CAMERAS what it is called there."
            )
        return str(zone_id)


#: What cameras name in English.
_SEEN_TH: Mapping[str, str] = {
    "person": "คน", "car": "รถยนต์", "truck": "รถบรรทุก", "motorcycle": "รถจักรยานยนต์", "bicycle": "จักรยาน",
    "forklift": "รถโฟล์คลิฟท์", "package": "พัสดุ", "fire": "เปลวไฟ", "smoke": "ควัน", "dog": "สุนัข", "cat": "แมว",
}  # fmt: skip


def _reported(reading: Reading) -> Finding:
    """A person's own words, which stay as they were typed."""
    text = reading.body["text"]
    return Finding("report", "report", reading.body["severity"], Words(text, text), reading.occurred_at, ())


def _camera_alert(seen: Observation) -> list[Finding]:
    """A review the camera's own rules call an alert. Its severity may rise while it lasts; then this is when it counts."""
    if seen.kind != "camera/review" or seen.body["severity"] != "alert":
        return []
    # "person-verified" and the like: the same thing, recognised.
    labels = list(dict.fromkeys(label.removesuffix("-verified") for label in seen.body["labels"]))
    where = ", ".join(zone.replace("_", " ") for zone in seen.body["zones"])
    seen_th = ", ".join(_SEEN_TH.get(label, label) for label in labels)
    seen_en = ", ".join(label.replace("_", " ") for label in labels)
    camera = seen.camera_id or seen.source
    th = f"กล้อง {camera} แจ้งเตือน{': พบ' + seen_th if labels else ''}{' ที่ ' + where if where else ''}"
    en = f"Camera {camera} raised an alert{': ' + seen_en if labels else ''}{' in ' + where if where else ''}"
    metadata = seen.body.get("metadata") or {}
    threat = metadata.get("potential_threat_level")
    title = metadata.get("title")
    more = f" ({title.strip()[:200]})" if isinstance(title, str) and title.strip() else ""
    severity: Severity = "high" if isinstance(threat, int) and threat > 0 else "medium"
    return [
        Finding(
            detector="camera_alert",
            type="camera_alert",
            severity=severity,
            words=Words((th + more)[:2_000], (en + more)[:2_000]),
            at=seen.at,
            evidence=(seen.ref,),
            tags=tuple(label[:100] for label in labels[:20]),
        )
    ]
