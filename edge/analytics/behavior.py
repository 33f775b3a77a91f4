"""What a worker's week was like, in figures and in fair words: compared with the worker's own weeks and with what is
usual in the zone, never with a named person.

A week is told of as it stands: it is made anew from its sessions whenever these have changed, and the same sessions give
the same row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from statistics import median
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from edge.analytics.model import Words
from edge.db import Database, Row, Transaction

#: The collection that shows behaviours.
BEHAVIORS = "worker_behaviors"

#: Weeks a week is compared with, and pieces that a week must have for its pace to say anything.
BEFORE, PIECES = 4, 10

#: Workers whose pace makes what is usual in a zone: of fewer, one could tell who it is.
USUAL = 3

#: Seconds of an hour of the day that must have been seen before it is called a peak or a low.
HOUR_SEEN = 900


@dataclass(frozen=True, slots=True)
class Week:
    """One worker's week in figures. Times are seconds; shares 0 to 1; None: nothing was reported.

    `zone_id`: where most of it was spent. Pace is of that zone alone. `spread`: interquartile range over the median.
    """

    worker_id: str
    week: date
    zone_id: str
    sessions: int
    days: int
    active_seconds: float
    idle_seconds: float
    cycles: int
    cycle_seconds: float | None
    spread: float | None
    sources: str

    @property
    def productivity(self) -> float | None:
        seen = self.active_seconds + self.idle_seconds
        return self.active_seconds / seen if seen else None

    @property
    def paced(self) -> bool:
        return self.cycle_seconds is not None and self.cycle_seconds > 0 and self.cycles >= PIECES


@dataclass(frozen=True, slots=True)
class Behavior:
    """`metrics`: as the collection names them. What stands in both languages is the same."""

    metrics: Mapping[str, Any]
    strengths: tuple[Words, ...] = field(default=())
    points: tuple[Words, ...] = field(default=())


def period(week: date) -> str:
    """2026-W47."""
    year, number, _ = week.isocalendar()
    return f"{year}-W{number:02d}"


def monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


def weeks(rows: Sequence[Mapping[str, Any]]) -> list[Week]:
    """One `Week` for every worker and week of rows that are ordered by worker, week, and time spent in the zone."""
    grouped: dict[tuple[str, date], list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["worker_id"], row["week"]), []).append(row)
    made = []
    for (worker_id, week), zones in grouped.items():
        cuts = zones[0]["cuts"]
        made.append(
            Week(
                worker_id, week, zones[0]["zone_id"], sum(zone["sessions"] for zone in zones),
                len({day for zone in zones for day in zone["days"]}), sum(zone["active_seconds"] for zone in zones),
                sum(zone["idle_seconds"] for zone in zones), zones[0]["cycles"],
                cuts[1] if cuts else None, (cuts[2] - cuts[0]) / cuts[1] if cuts and cuts[1] else None,
                zones[0]["sources"],
            )
        )  # fmt: skip
    return made


def usual(those: Sequence[Week]) -> dict[str, float]:
    """The median seconds a piece takes in each zone, where enough people work to say so."""
    paces: dict[str, list[float]] = {}
    for one in those:
        if one.paced and one.cycle_seconds is not None:
            paces.setdefault(one.zone_id, []).append(one.cycle_seconds)
    return {zone_id: median(found) for zone_id, found in paces.items() if len(found) >= USUAL}


def behavior(
    this: Week, before: Sequence[Week], zone_seconds: float | None, hours: Sequence[Mapping[str, Any]]
) -> Behavior:
    """`before`: the same worker's weeks before this one. `zone_seconds`: what a piece usually takes in the zone."""
    own_paces = [one.cycle_seconds for one in before if one.paced and one.zone_id == this.zone_id and one.cycle_seconds]
    own_shares = [one.productivity for one in before if one.productivity is not None]
    own_pace = median(own_paces) if own_paces else None
    own_share = median(own_shares) if own_shares else None
    shares = {
        row["hour"]: row["active_seconds"] / (row["active_seconds"] + row["idle_seconds"])
        for row in hours
        if row["active_seconds"] + row["idle_seconds"] >= HOUR_SEEN
    }
    peak = max(shares, key=lambda hour: (shares[hour], -hour)) if len(shares) > 1 else None
    low = min(shares, key=lambda hour: (shares[hour], hour)) if len(shares) > 1 else None
    if peak is not None and low is not None and shares[peak] - shares[low] < 0.05:
        # Hours that are all alike have no peak.
        peak = low = None
    metrics = {
        "sessions": this.sessions, "days": this.days, "active_seconds": round(this.active_seconds, 1),
        "idle_seconds": round(this.idle_seconds, 1), "productivity_score": _round(this.productivity),
        "cycles": this.cycles, "task_seconds": _round(this.cycle_seconds), "task_spread": _round(this.spread),
        "own_task_seconds": _round(own_pace), "own_productivity": _round(own_share),
        "zone_task_seconds": _round(zone_seconds), "peak_hour": peak, "low_hour": low, "weeks_before": len(before),
    }  # fmt: skip
    strengths: list[Words] = []
    points: list[Words] = []
    if not this.paced:
        points.append(
            Words("ยังบันทึกได้ไม่กี่ชิ้น เลยยังบอกเรื่องจังหวะงานไม่ได้", "Too few pieces were recorded to say anything about pace.")
        )
    else:
        _pace(this, own_pace, zone_seconds, strengths, points)
    _share(this.productivity, own_share, strengths, points)
    if low is not None and shares[low] < 0.7:
        percent = round(shares[low] * 100)
        points.append(
            Words(
                f"ช่วง {low:02d}:00–{(low + 1) % 24:02d}:00 มีเวลาทำงานจริง {percent}% ลองดูว่าหน้างานติดรออะไรในช่วงนั้น",
                f"Between {low:02d}:00 and {(low + 1) % 24:02d}:00 {percent}% of the time was active: what is waited for?",
            )
        )
    return Behavior(metrics, tuple(strengths), tuple(points))


def _pace(this: Week, own: float | None, zone: float | None, strengths: list[Words], points: list[Words]) -> None:
    pace, spread = this.cycle_seconds or 0.0, this.spread or 0.0
    if spread <= 0.15:
        strengths.append(
            Words(
                f"จังหวะงานสม่ำเสมอ เวลาต่อชิ้นต่างกันราว {spread:.0%}",
                f"A steady pace: times per piece differ by about {spread:.0%}.",
            )
        )
    elif spread >= 0.4:
        points.append(
            Words(
                f"เวลาต่อชิ้นต่างกันมาก ราว {spread:.0%} ลองถามว่ามีอะไรติดขัดระหว่างงาน",
                f"Times per piece differ by about {spread:.0%}: ask what gets in the way.",
            )
        )
    if own is not None and pace <= own * 0.95:
        strengths.append(
            Words(
                f"เวลาต่อชิ้นสั้นลงจาก {own:.0f} เหลือ {pace:.0f} วินาที เทียบกับสัปดาห์ก่อน ๆ",
                f"A piece took {pace:.0f} s, down from {own:.0f} s in the weeks before.",
            )
        )
    elif own is not None and pace >= own * 1.1:
        points.append(
            Words(
                f"เวลาต่อชิ้นนานขึ้นจาก {own:.0f} เป็น {pace:.0f} วินาที ลองดูชิ้นส่วน เครื่องมือ และสภาพหน้างาน",
                f"A piece took {pace:.0f} s, up from {own:.0f} s in the weeks before: look at parts, tools and the station.",
            )
        )
    if zone is not None and pace <= zone * 0.95:
        strengths.append(
            Words(
                f"ใช้เวลา {pace:.0f} วินาทีต่อชิ้น โดยทั่วไปในโซนนี้ราว {zone:.0f} วินาที",
                f"A piece took {pace:.0f} s where about {zone:.0f} s is usual in this zone.",
            )
        )
    elif zone is not None and pace >= zone * 1.15:
        points.append(
            Words(
                f"ใช้เวลา {pace:.0f} วินาทีต่อชิ้น โดยทั่วไปในโซนนี้ราว {zone:.0f} วินาที ลองสอนงานเพิ่มหรือจัดหน้างานใหม่อาจช่วยได้",
                f"A piece took {pace:.0f} s where about {zone:.0f} s is usual in this zone: training or the layout may help.",
            )
        )


def _share(share: float | None, own: float | None, strengths: list[Words], points: list[Words]) -> None:
    if share is None:
        return
    if share >= 0.85:
        strengths.append(
            Words(f"ทำงานต่อเนื่อง {share:.0%} ของเวลาที่บันทึก", f"Active for {share:.0%} of the recorded time.")
        )
    if own is not None and share >= own + 0.05:
        strengths.append(
            Words(
                f"เวลารอน้อยลง เวลาทำงานจริงเพิ่มจาก {own:.0%} เป็น {share:.0%}",
                f"Less waiting: active time rose from {own:.0%} to {share:.0%}.",
            )
        )
    elif own is not None and share <= own - 0.05:
        points.append(
            Words(
                f"รองานมากขึ้น เวลาทำงานจริงลดจาก {own:.0%} เป็น {share:.0%} ลองเช็กก่อนว่าของมาทันไหม เครื่องติดอะไรไหม",
                f"More waiting: active time fell from {own:.0%} to {share:.0%}. Look at supply and machines first.",
            )
        )


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def behavior_key(worker_id: str, week: date) -> UUID:
    """The same worker's week has the same id however often it is made."""
    return uuid5(NAMESPACE_URL, f"andon-edge:behavior/{worker_id}/{week.isoformat()}")


def due(database: Database, since: date | None = None, until: date | None = None) -> list[date]:
    """Mondays of the weeks to tell anew: those whose sessions differ, and those after that are compared with them.

    With dates: every week of which a day lies in [since, until).
    """
    with database.transaction() as tx:
        found = {row["week"] for row in tx.all("behavior_weeks", since=since, until=until)}
        if since is None and until is None and found:
            known = {row["week"] for row in tx.all("behavior_all_weeks")}
            found |= {week for week in known for one in found if timedelta(0) < week - one <= timedelta(weeks=BEFORE)}
    return sorted(found)


def tell(database: Database, week: date) -> tuple[int, list[UUID]]:
    """Make the rows of one week what its sessions say, in one transaction, and queue what changed.

    Returns how many workers there were, and the rows that changed. Doing it twice changes nothing. Raises `Unavailable`.
    """
    with database.transaction() as tx:
        tx.run("behavior_lock")
        site = tx.one("site_get")
        those = weeks(tx.all("behavior_time", since=week - timedelta(weeks=BEFORE), until=week + timedelta(weeks=1)))
        hours: dict[str, list[Row]] = {}
        for row in tx.all("behavior_hours", week=week, timezone=site["timezone"] if site else "UTC"):
            hours.setdefault(row["worker_id"], []).append(row)
        known = {row["worker_id"]: row for row in tx.all("behavior_known", week=week)}
        this = [one for one in those if one.week == week]
        zones = usual(this)
        changed = []
        for one in this:
            before = [other for other in those if other.worker_id == one.worker_id and other.week < week]
            told = behavior(one, before, zones.get(one.zone_id), hours.get(one.worker_id, []))
            if (key := _keep(tx, one, told, known.pop(one.worker_id, None))) is not None:
                changed.append(key)
        gone = [row["id"] for row in known.values()]
        if gone:
            tx.run("behavior_drop", ids=gone)
        for key in changed:
            tx.run("outbox_add", collection=BEHAVIORS, entity_id=key, operation="upsert")
        for key in gone:
            tx.run("outbox_add", collection=BEHAVIORS, entity_id=key, operation="delete")
    return len(this) + len(gone), changed + gone


def _keep(tx: Transaction, one: Week, told: Behavior, known: Row | None) -> UUID | None:
    """The row's id if it says something new."""
    key = behavior_key(one.worker_id, one.week)
    said = {"zone_id": one.zone_id, **asdict(told)}
    checksum = hashlib.sha256(json.dumps(said, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
    if known is not None and known["checksum"] == checksum:
        if known["sources"] != one.sources:
            tx.run("behavior_sources", id=key, sources=one.sources)
        return None
    tx.run(
        "behavior_put",
        id=key, worker_id=one.worker_id, week=one.week, zone_id=one.zone_id, metrics=dict(told.metrics),
        strengths=_both(told.strengths), points=_both(told.points), sources=one.sources, checksum=checksum,
    )  # fmt: skip
    return key


def _both(words: Sequence[Words]) -> dict[str, list[str]]:
    return {"th": [one.th for one in words], "en": [one.en for one in words]}
