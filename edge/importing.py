"""Past cases from JSONL, CSV or XLSX: columns by name, one verdict per row, idempotent by `id`."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from edge.cases import KINDS, LANGUAGES, Kind, NewCase, Outcome, Severity
from edge.cases.casebook import import_cases
from edge.db import Database
from edge.embedding import detect_language
from edge.errors import Rejected

#: The fields of a past case. `id` and `description` must be there.
FIELDS = (
    "id", "kind", "description", "language", "root_cause", "resolution", "outcome", "zone_id", "camera_id",
    "worker_id", "type", "severity", "timestamp", "tags", "minutes_to_restore",
)  # fmt: skip

#: Other names a column may carry, compared without case, spaces and punctuation.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": ("caseid", "recordid", "no", "เลขที่", "รหัส", "รหัสเคส"),
    "kind": ("casekind", "ประเภทเคส"),
    "description": ("symptom", "problem", "details", "text", "อาการ", "อาการเสีย", "ปัญหา", "ปัญหาที่พบ", "รายละเอียด"),
    "language": ("lang", "ภาษา"),
    "root_cause": ("cause", "reason", "สาเหตุ"),
    "resolution": ("fix", "solution", "action", "correctiveaction", "การแก้ไข", "วิธีแก้", "วิธีแก้ไข"),
    "outcome": ("result", "ผล", "ผลการแก้", "ผลการแก้ไข"),
    "zone_id": ("zone", "location", "โซน", "พื้นที่", "จุดที่เกิด"),
    "camera_id": ("camera", "กล้อง"),
    "worker_id": ("worker", "operator", "reporter", "พนักงาน", "ผู้แจ้ง"),
    "type": ("anomalytype", "incidenttype", "category", "ชนิด", "ชนิดปัญหา", "ประเภท"),
    "severity": ("priority", "ความรุนแรง", "ระดับ"),
    "timestamp": ("time", "date", "datetime", "occurredat", "วันที่", "เวลา", "วันเวลา", "วันที่เกิด", "เวลาที่เกิด"),
    "tags": ("tag", "keywords", "แท็ก", "คำค้น"),
    "minutes_to_restore": ("downtime", "downtimeminutes", "minutes", "เวลาหยุด", "นาทีที่หยุด"),
}

_KINDS: Mapping[str, Kind] = {
    "anomaly": "anomaly",
    "incident": "incident",
    "อุบัติการณ์": "incident",
    "ผิดปกติ": "anomaly",
    "ความผิดปกติ": "anomaly",
}
_SEVERITIES: Mapping[str, Severity] = {
    "low": "low", "minor": "low", "ต่ำ": "low", "เล็กน้อย": "low", "medium": "medium", "moderate": "medium", "normal": "medium",
    "ปานกลาง": "medium", "high": "high", "major": "high", "สูง": "high", "รุนแรง": "high",
    "critical": "critical", "วิกฤต": "critical", "วิกฤติ": "critical",
}  # fmt: skip
_OUTCOMES: Mapping[str, Outcome] = {
    "held": "held", "worked": "held", "fixed": "held", "resolved": "held", "effective": "held", "yes": "held",
    "success": "held", "successful": "held", "หาย": "held", "ได้ผล": "held", "แก้แล้วหาย": "held", "หายขาด": "held",
    "แก้แล้วหายขาด": "held",
    "recurred": "recurred", "cameback": "recurred", "failed": "recurred", "ineffective": "recurred", "no": "recurred",
    "reopened": "recurred", "เป็นอีก": "recurred", "กลับมาเป็นอีก": "recurred", "ไม่ได้ผล": "recurred",
    "unknown": "unknown", "": "unknown", "ไม่ทราบ": "unknown", "ยังไม่รู้ผล": "unknown",
}  # fmt: skip

#: Rows a transaction takes at once.
BATCH = 200

Result = Literal["added", "changed", "unchanged", "error"]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """`number`: the line or row in the file, from 1. `error` is set when the row could not even be read."""

    number: int
    values: Mapping[str, Any]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RowResult:
    """`message` says why for an error, and what was assumed for a row that was taken all the same."""

    number: int
    id: str
    result: Result
    message: str = ""


def read_rows(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[SourceRow]:
    """The rows of a file, by its suffix: .jsonl/.ndjson/.json, .csv/.tsv, .xlsx.

    `columns`: field → the column's own name, where the automatic match is not wanted.
    Raises `Rejected` when the file as a whole cannot be read.
    """
    wanted = dict(columns or {})
    if unknown := sorted(set(wanted) - set(FIELDS)):
        raise Rejected(f"There is no field {unknown[0]!r}. The fields are {', '.join(FIELDS)}.")
    suffix = path.suffix.lower()
    try:
        if suffix in (".jsonl", ".ndjson", ".json"):
            yield from _jsonl(path, wanted)
        elif suffix in (".csv", ".tsv"):
            yield from _csv(path, wanted, "\t" if suffix == ".tsv" else None)
        elif suffix == ".xlsx":
            yield from _xlsx(path, wanted)
        else:
            raise Rejected(f"The file {path.name} is none of .jsonl, .csv and .xlsx.")
    except OSError as error:
        raise Rejected(f"The file {path} cannot be read: {error.strerror or error}.") from error


def check_row(values: Mapping[str, Any], timezone: ZoneInfo) -> tuple[NewCase, list[str]]:
    """One past case from one row, and what was assumed. `timezone` is for times without one. Raises `Rejected`."""
    notes: list[str] = []
    record_id = _text(values, "id", 200)
    description = _text(values, "description", 8_000)
    if not record_id:
        raise Rejected("The field id is missing.")
    if not description:
        raise Rejected("The field description is missing.")
    kind = _KINDS.get(_folded(values.get("kind") or "anomaly"))
    if kind is None:
        raise Rejected(f"The kind {values['kind']!r} is none of {', '.join(KINDS)}.")
    severity = _SEVERITIES.get(_folded(values.get("severity") or "medium"))
    if severity is None:
        notes.append(f"severity {values['severity']!r} is not known, taken as medium")
    outcome = _OUTCOMES.get(_folded(values.get("outcome") or ""))
    if outcome is None:
        notes.append(f"outcome {values['outcome']!r} is not known, taken as unknown")
    language = _folded(values.get("language") or "")
    minutes = _minutes(values.get("minutes_to_restore"))
    occurred_at = _time(values.get("timestamp"), timezone)
    case = NewCase(
        kind=kind,
        type=_text(values, "type", 100) or "unspecified",
        severity=severity or "medium",
        origin="import",
        description=description,
        language=language if language in LANGUAGES else detect_language(description),
        occurred_at=occurred_at,
        zone_id=_text(values, "zone_id", 100),
        camera_id=_text(values, "camera_id", 100),
        worker_id=_text(values, "worker_id", 100),
        tags=_tags(values.get("tags")),
        record_id=record_id,
        root_cause=_text(values, "root_cause", 8_000),
        resolution=_text(values, "resolution", 8_000),
        outcome=outcome or "unknown",
        closed_at=occurred_at + timedelta(minutes=minutes or 0),
        minutes_to_restore=minutes,
    )
    return case, notes


def import_rows(database: Database, rows: Sequence[SourceRow], *, dry_run: bool = False) -> list[RowResult]:
    """Check and store up to a batch of rows in one transaction. Wrong rows cost only themselves.

    Raises `Unavailable` when the database does not answer; a repeat then changes nothing twice.
    """
    with database.transaction() as tx:
        site = tx.one("site_get")
        if site is None:
            raise Rejected("No plant is loaded yet: name its file in EDGE__PLANT__FILE and run `edge migrate`.")
        timezone = ZoneInfo(site["timezone"])
        results: dict[int, RowResult] = {}
        good: dict[str, tuple[SourceRow, NewCase, list[str]]] = {}
        for row in rows:
            try:
                if row.error:
                    raise Rejected(row.error)
                case, notes = check_row(row.values, timezone)
                assert case.record_id is not None
                if case.record_id in good:
                    raise Rejected(f"The id {case.record_id} stands in row {good[case.record_id][0].number} already.")
                good[case.record_id] = (row, case, notes)
            except Rejected as error:
                results[row.number] = RowResult(row.number, str(row.values.get("id", "")), "error", str(error))
        verdicts = {} if dry_run else import_cases(tx, [case for _, case, _ in good.values()])
        for record_id, (row, _, notes) in good.items():
            verdict = verdicts.get(record_id, "added")
            if verdict == "taken":
                message = f"The id {record_id} belongs to a case that was opened on this appliance."
                results[row.number] = RowResult(row.number, record_id, "error", message)
            else:
                results[row.number] = RowResult(row.number, record_id, verdict, "; ".join(notes))  # type: ignore[arg-type]
    return [results[row.number] for row in rows]


def _jsonl(path: Path, wanted: Mapping[str, str]) -> Iterator[SourceRow]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8-sig"))
                if not isinstance(values, dict):
                    raise ValueError("it is not a JSON object")
            except (ValueError, RecursionError) as error:
                yield SourceRow(number, {}, f"The line is not valid JSON: {error}.")
                continue
            names = _match(list(values), wanted)
            yield SourceRow(number, {field: values[column] for field, column in names.items()})


def _csv(path: Path, wanted: Mapping[str, str], delimiter: str | None) -> Iterator[SourceRow]:
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Spreadsheets on Thai machines still write this code page.
        text = raw.decode("cp874", "replace")
    if delimiter is None:
        first = text.partition("\n")[0]
        delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = next(reader, [])
        names = _header(header, wanted, path)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                values = {field: cells[at] for field, at in names.items() if at < len(cells)}
                yield SourceRow(reader.line_num, values)
    except csv.Error as error:
        raise Rejected(f"The file {path.name} is not valid CSV near line {reader.line_num}: {error}.") from error


def _xlsx(path: Path, wanted: Mapping[str, str]) -> Iterator[SourceRow]:
    # Only a workbook needs this library, and every start of the sample plant would wait for it.
    import openpyxl

    # Opened here, since the library leaves the file open when it cannot read it.
    with _workbook(path), path.open("rb") as file:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        try:
            if not book.worksheets:
                raise Rejected(f"The file {path.name} is not a readable XLSX workbook: it has no sheet.")
            rows = book.worksheets[0].iter_rows(values_only=True)
            names = _header([str(cell or "") for cell in next(rows, ())], wanted, path)
            for number, cells in enumerate(rows, 2):
                if any(cell is not None for cell in cells):
                    yield SourceRow(number, {field: cells[at] for field, at in names.items() if at < len(cells)})
        finally:
            book.close()


@contextmanager
def _workbook(path: Path) -> Iterator[None]:
    try:
        yield
    except (Rejected, OSError):
        raise
    except Exception as error:
        # A damaged archive fails in its compression, its XML or the library's own classes: any error there may be.
        reason = str(error).strip() or type(error).__name__
        raise Rejected(f"The file {path.name} is not a readable XLSX workbook: {reason[:200]}.") from error


def _header(header: Sequence[str], wanted: Mapping[str, str], path: Path) -> dict[str, int]:
    names = _match(header, wanted)
    for field in ("id", "description"):
        if field not in names:
            columns = ", ".join(header) or "none"
            raise Rejected(
                f"{path.name} has no column for {field} (columns: {columns}). Name it: --map {field}=COLUMN."
            )
    return {field: list(header).index(column) for field, column in names.items()}


def _match(columns: Sequence[str], wanted: Mapping[str, str]) -> dict[str, str]:
    by_fold = {_folded(column): column for column in reversed(columns)}
    found = {}
    for field in FIELDS:
        if field in wanted:
            if wanted[field] in columns:
                found[field] = wanted[field]
            continue
        for name in (_folded(field), *ALIASES[field]):
            if name in by_fold:
                found[field] = by_fold[name]
                break
    return found


def _folded(value: object) -> str:
    return re.sub(r"[\s_\-./]+", "", unicodedata.normalize("NFC", str(value)).casefold())


def _text(values: Mapping[str, Any], field: str, longest: int) -> str | None:
    value = values.get(field)
    if value is None:
        return None
    if isinstance(value, dict | list):
        raise Rejected(f"The field {field} must be a text.")
    # 12.0 is how a spreadsheet stores the id 12.
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    if len(text) > longest:
        raise Rejected(f"The field {field} has {len(text)} characters; at most {longest} are kept.")
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Rejected(f"The field {field} holds a character that is not text.")
    return text or None


def _tags(value: Any) -> tuple[str, ...]:
    parts = value if isinstance(value, list) else re.split(r"[,;|]", str(value or ""))
    tags = dict.fromkeys(str(part).strip().lower() for part in parts if str(part).strip())
    if len(tags) > 50 or any(len(tag) > 100 or "\x00" in tag for tag in tags):
        raise Rejected("The field tags holds more than 50 tags, or one of more than 100 characters.")
    return tuple(tags)


def _minutes(value: Any) -> int | None:
    if value is None or str(value).strip() == "":
        return None
    try:
        minutes = float(str(value).strip())
    except ValueError:
        minutes = -1
    if not 0 <= minutes <= 5_256_000:
        raise Rejected(f"The field minutes_to_restore is {value!r}, not a number of minutes.")
    return round(minutes)


def _time(value: Any, timezone: ZoneInfo) -> datetime:
    if value is None or str(value).strip() == "":
        raise Rejected("The field timestamp is missing.")
    if isinstance(value, datetime):
        moment = value
    else:
        text = str(value).strip()
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = _thai_date(text)
    if moment.year >= 2400:
        moment = moment.replace(year=moment.year - 543)
    if not 2000 <= moment.year < 2200:
        raise Rejected(f"The timestamp {value!r} lies outside the years 2000 to 2199.")
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone)


def _thai_date(text: str) -> datetime:
    """31/12/2568 14:05, day first, as it is written in Thailand; the year may be Buddhist."""
    found = re.fullmatch(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4})(?:[ T]+(\d{1,2})[:.](\d{2})(?::(\d{2}))?)?", text)
    try:
        if found:
            day, month, year = (int(part) for part in found.groups()[:3])
            hour, minute, second = (int(part or 0) for part in found.groups()[3:])
            # Without a zone on purpose: the caller gives it the plant's.
            return datetime(year - 543 if year >= 2400 else year, month, day, hour, minute, second)  # noqa: DTZ001
    except ValueError:
        pass
    raise Rejected(f"The timestamp {text!r} is not a date; write 2026-03-05 14:30 or 05/03/2569 14:30.")
