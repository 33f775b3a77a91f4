"""A labelled month of a plant of its own: 8 zones, 40 workers, 12 cameras. The same seed, the same month.

What is disturbed is written down as a `Label`, and everything else is ordinary work with its ordinary scatter. So one can
say of every finding whether it is true, and of every disturbance whether it was found, and how soon.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from edge.analytics.model import Observation
from edge.analytics.standard import Standard, StandardStep

PLANT_TIME = ZoneInfo("Asia/Bangkok")

#: Zone, area, line, cell, Thai name, English name, product, seconds of one piece.
_ZONES = (
    ("M-ASM", "assembly", "line-1", "cell-1", "ประกอบปั๊ม", "Pump assembly", "pump", 900),
    ("M-CNC", "machining", "line-1", "cell-1", "กลึงเพลา", "Shaft turning", "shaft", 840),
    ("M-INJ", "moulding", "line-1", "cell-1", "ฉีดฝาครอบ", "Cover moulding", "cover", 780),
    ("M-SMT", "electronics", "line-1", "cell-1", "ลงอุปกรณ์บนบอร์ด", "Board placement", "board", 960),
    ("M-PKG", "packaging", "line-1", "cell-1", "บรรจุกล่อง", "Carton packing", "carton", 720),
    ("M-WH", "warehouse", "dock-1", "cell-1", "รับสินค้า", "Receiving", "pallet", 1_080),
    ("M-WLD", "welding", "robot-1", "cell-1", "เชื่อมโครง", "Frame welding", "frame", 1_020),
    ("M-PNT", "painting", "booth-1", "cell-1", "พ่นสี", "Spray painting", "panel", 1_140),
)
_STEPS = ("set_up", "load_part", "fit_or_run", "check_result", "unload_part", "record_result")
_SHARES = (0.10, 0.15, 0.40, 0.15, 0.12, 0.08)
_WORKERS = 5


@dataclass(frozen=True, slots=True)
class Label:
    """A disturbance: the type of finding it should lead to, where, and from when to when."""

    type: str
    zone_id: str
    source: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class MonthEvent:
    """One publication. `topic` has no root; `body` is whole but for `sequence`."""

    at: datetime
    topic: str
    body: dict[str, Any]


class Month:
    """`days` from `first` on. Disturbances and ordinary scatter have chances of their own for every source."""

    def __init__(self, first: date, days: int = 30, seed: int = 1) -> None:
        self.first, self.days, self.seed = first, days, seed
        self.labels: list[Label] = []
        self._events: list[MonthEvent] = []
        for zone in _ZONES:
            for number in range(_WORKERS):
                self._worker(zone, number)
        cameras = [(zone, 1) for zone in _ZONES] + [(zone, 2) for zone in _ZONES[:4]]
        for zone, number in cameras:
            self._camera(zone, number)
        for zone in _ZONES:
            self._controller(zone)
        self._events.sort(key=lambda event: (event.at, event.body["id"]))

    def __iter__(self) -> Iterator[MonthEvent]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)

    @property
    def standards(self) -> dict[str, Standard]:
        return {zone[0]: Standard(zone[0], tuple(map(StandardStep, _STEPS, _times(zone)))) for zone in _ZONES}

    @property
    def cameras(self) -> list[tuple[str, str]]:
        """Zone and name of each."""
        numbers = [(zone[0], 1) for zone in _ZONES] + [(zone[0], 2) for zone in _ZONES[:4]]
        return [(zone, f"{zone.lower()}-cam-{number}") for zone, number in numbers]

    def plant(self) -> str:
        """The plant as a file for `plant.file`."""
        lines = [
            '[site]\nid = "month"\nname = { th = "โรงงานจำลอง", en = "Simulated plant" }\ntimezone = "Asia/Bangkok"\n'
        ]
        for zone_id, area, line, cell, th, en, _, _ in _ZONES:
            names = f'{{ th = "{th}", en = "{en}" }}'
            lines.append(
                f'[[area]]\nid = "{area}"\nname = {names}\nzones = [{{ id = "{zone_id}", line = "{line}", '
                f'cell = "{cell}", name = {names} }}]\n'
            )
        lines += [f'[[camera]]\nid = "{camera}"\nzone = "{zone}"\n' for zone, camera in self.cameras]
        skills = ("new", "skilled", "skilled", "expert", "skilled")
        for zone in _ZONES:
            lines += [
                f'[[worker]]\nid = "{_name(zone, number)}"\nzone = "{zone[0]}"\nskill = "{skills[number]}"\n'
                for number in range(_WORKERS)
            ]
        for zone_id, standard in self.standards.items():
            steps = ", ".join(f'{{ name = "{step.name}", seconds = {step.seconds} }}' for step in standard.steps)
            lines.append(f'[[standard]]\nzone = "{zone_id}"\nsteps = [{steps}]\n')
        return "\n".join(lines)

    def _put(self, at: datetime, zone: tuple[Any, ...], event_class: str, source: str, **body: Any) -> None:
        at = at.replace(microsecond=0)
        topic = f"month/{zone[1]}/{zone[2]}/{zone[3]}/{event_class}/{source}"
        name = f"{source}-{body['kind']}-{at:%y%m%d%H%M%S}"
        self._events.append(MonthEvent(at, topic, {"id": name, "time": at.isoformat(), "schema": 1, **body}))

    def _label(self, kind: str, zone: tuple[Any, ...], source: str, start: datetime, end: datetime) -> None:
        self.labels.append(Label(kind, zone[0], source, start.replace(microsecond=0), end))

    def _dice(self, *of: object) -> random.Random:
        return random.Random(f"{self.seed}/{of}")  # noqa: S311 - a simulation is no secret

    def _working_days(self) -> Iterator[date]:
        for offset in range(self.days):
            day = self.first + timedelta(days=offset)
            if day.weekday() < 6:
                yield day

    # --- workers ---------------------------------------------------------------------------------------------------

    def _worker(self, zone: tuple[Any, ...], number: int) -> None:
        worker = _name(zone, number)
        chance = self._dice("worker", worker)
        # People differ: some are a little faster, the day's rhythm matters, and the first hour is slow.
        pace = chance.uniform(0.94, 1.08)
        begins = time(6) if number % 2 == 0 else time(14)
        for day in self._working_days():
            start = _at(day, begins) + timedelta(minutes=chance.uniform(1, 6))
            end = _at(day, begins) + timedelta(minutes=chance.uniform(462, 475))
            trouble = chance.choices(
                ("", "idle", "stops", "slow", "sequence", "step"), weights=(0.90, 0.02, 0.02, 0.02, 0.02, 0.02)
            )[0]
            self._day(zone, worker, pace, start, end, trouble, chance)

    def _day(
        self,
        zone: tuple[Any, ...],
        worker: str,
        pace: float,
        at: datetime,
        end: datetime,
        trouble: str,
        chance: random.Random,
    ) -> None:
        self._put(at, zone, "worker", worker, kind="session_start", product_type=zone[6])
        lunch = at + timedelta(minutes=chance.uniform(225, 250))
        strikes = at + timedelta(minutes=chance.uniform(60, 330))
        lasts = timedelta(minutes=chance.uniform(60, 110))
        times = [seconds * pace for seconds in _times(zone)]
        piece, eaten, labelled = 0, False, False
        while at < end:
            if not eaten and at >= lunch:
                # Planned breaks are reported by nobody: the station is simply quiet.
                at, eaten = at + timedelta(minutes=chance.uniform(20, 27)), True
            now = bool(trouble) and strikes <= at < strikes + lasts
            if now and trouble == "idle" and not labelled:
                at, labelled = self._idle(zone, worker, at, chance.uniform(8, 35)), True
            if now and trouble == "stops" and not labelled:
                at, labelled = self._stops(zone, worker, at, chance), True
            piece += 1
            began = at
            order = list(zip(_STEPS, times, strict=True))
            if now and trouble == "sequence" and not labelled:
                labelled = True
                fault = chance.choice(("missing", "swapped", "repeated"))
                place = chance.randrange(1, 5)
                if fault == "missing":
                    order.pop(place)
                elif fault == "swapped":
                    order[place], order[place - 1] = order[place - 1], order[place]
                else:
                    order.insert(place, order[place])
                self._label("sequence_deviation", zone, worker, at, at + timedelta(seconds=2.5 * zone[7]))
            slower = chance.uniform(1.3, 1.5) if now and trouble == "slow" else 1.0
            if slower > 1 and not labelled:
                labelled = True
                self._label("slow_cycle", zone, worker, at, strikes + lasts + timedelta(seconds=2 * zone[7]))
            for step, seconds in order:
                spent = seconds * slower * chance.lognormvariate(0, 0.05)
                if now and trouble == "step" and step == "check_result":
                    spent = seconds * chance.uniform(1.9, 2.6)
                    if not labelled:
                        labelled = True
                        self._label("slow_step", zone, worker, at, strikes + lasts + timedelta(seconds=2 * zone[7]))
                at += timedelta(seconds=spent)
                self._put(at, zone, "worker", worker, kind="step", step=step, seconds=round(spent, 1))
            at += timedelta(seconds=1)
            seconds = round((at - began).total_seconds(), 1)
            self._put(at, zone, "worker", worker, kind="index", index_number=piece, seconds=seconds)
            active = round(seconds * chance.uniform(0.9, 0.99))
            self._put(at + timedelta(seconds=1), zone, "worker", worker, kind="active", seconds=active)
            pause = chance.expovariate(1 / 12)
            if pause >= 5:
                at += timedelta(seconds=pause)
                self._put(at, zone, "worker", worker, kind="idle", seconds=round(pause))
        self._put(at + timedelta(seconds=5), zone, "worker", worker, kind="session_end")

    def _idle(self, zone: tuple[Any, ...], worker: str, at: datetime, minutes: float) -> datetime:
        """Waiting for material: told every minute."""
        self._label("excessive_idle", zone, worker, at, at + timedelta(minutes=minutes + 2))
        for _ in range(round(minutes)):
            at += timedelta(seconds=60)
            self._put(at, zone, "worker", worker, kind="idle", seconds=60)
        return at

    def _stops(self, zone: tuple[Any, ...], worker: str, at: datetime, chance: random.Random) -> datetime:
        """A worn part: stops of half a minute, again and again."""
        start = at
        for _ in range(chance.randrange(9, 14)):
            at += timedelta(seconds=chance.uniform(60, 200))
            stopped = chance.uniform(20, 80)
            at += timedelta(seconds=stopped)
            self._put(at, zone, "worker", worker, kind="idle", seconds=round(stopped))
            self._put(at + timedelta(seconds=40), zone, "worker", worker, kind="active", seconds=40)
            at += timedelta(seconds=40)
        self._label("micro_stops", zone, worker, start, at + timedelta(minutes=30))
        return at

    # --- cameras and controllers ------------------------------------------------------------------------------------

    def _camera(self, zone: tuple[Any, ...], number: int) -> None:
        camera = f"{zone[0].lower()}-cam-{number}"
        chance = self._dice("camera", camera)
        at = _at(self.first, time(0)) + timedelta(seconds=chance.uniform(0, 300))
        end = at + timedelta(days=self.days)
        last = at - timedelta(hours=6)
        while at < end:
            draw = chance.random()
            quiet_long_enough = at - last > timedelta(hours=3)
            if draw < 0.010 and quiet_long_enough:
                last = at
                at = self._fault(zone, camera, at, chance)
            elif draw < 0.20:
                self._put(at, zone, "camera", camera, kind="zone_count", persons=chance.randrange(0, 8))
            else:
                score = round(chance.betavariate(5, 2), 4)
                self._put(at, zone, "camera", camera, kind="motion", score=score)
            at += timedelta(seconds=chance.uniform(180, 420))

    def _fault(self, zone: tuple[Any, ...], camera: str, at: datetime, chance: random.Random) -> datetime:
        start = at
        kind = chance.choice(("crowd", "ppe", "silent", "frozen", "offline", "flapping"))
        if kind == "crowd":
            for _ in range(chance.randrange(3, 8)):
                self._put(at, zone, "camera", camera, kind="zone_count", persons=chance.randrange(10, 17))
                at += timedelta(seconds=60)
            self._put(at, zone, "camera", camera, kind="zone_count", persons=3)
            self._label("zone_crowded", zone, camera, start, at)
        elif kind == "ppe":
            missing = [chance.choice(("helmet", "glasses", "gloves", "vest"))]
            for _ in range(chance.randrange(2, 5)):
                self._put(at, zone, "camera", camera, kind="ppe", missing=missing)
                at += timedelta(seconds=40)
            self._label("ppe_missing", zone, camera, start, at)
        elif kind == "silent":
            at += timedelta(minutes=chance.uniform(60, 180))
            self._label("camera_fault", zone, camera, start, at)
        elif kind == "frozen":
            score = round(chance.betavariate(5, 2), 4)
            for _ in range(40):
                self._put(at, zone, "camera", camera, kind="motion", score=score)
                at += timedelta(seconds=60)
            self._label("camera_fault", zone, camera, start, at)
        else:
            changes = 1 if kind == "offline" else chance.randrange(4, 7)
            for _ in range(changes):
                self._put(at, zone, "camera", camera, kind="health", state="offline")
                at += timedelta(seconds=chance.uniform(20, 45) if changes > 1 else 500)
                self._put(at, zone, "camera", camera, kind="health", state="online")
                at += timedelta(seconds=chance.uniform(20, 45))
            self._label("camera_fault", zone, camera, start, at)
        return at

    def _controller(self, zone: tuple[Any, ...]) -> None:
        source = f"{zone[0].lower()}-plc"
        chance = self._dice("controller", source)
        at = _at(self.first, time(0))
        end = at + timedelta(days=self.days)
        while (at := at + timedelta(hours=chance.expovariate(1 / 6))) < end:
            level = chance.choices(("info", "warning", "error", "critical"), weights=(60, 30, 8, 2))[0]
            words = {
                "info": "recipe loaded",
                "warning": "air pressure low",
                "error": "axis fault",
                "critical": "E-stop",
            }
            self._put(
                at, zone, "system", source, kind="log", level=level, component=source.upper(), message=words[level]
            )
            if level in ("error", "critical"):
                self._label("system_fault", zone, source, at, at + timedelta(minutes=1))


def _times(zone: tuple[Any, ...]) -> list[float]:
    return [round(zone[7] * share, 1) for share in _SHARES]


def _name(zone: tuple[Any, ...], number: int) -> str:
    return f"{zone[0]}-W{number + 1}"


def _at(day: date, begins: time) -> datetime:
    return datetime.combine(day, begins, PLANT_TIME).astimezone(UTC)


def observed(event: MonthEvent, number: int) -> Observation:
    """The event as the detectors see it; `number` stands for its row in the inbox."""
    *place, event_class, source = event.topic.split("/")
    zone_id = next(zone[0] for zone in _ZONES if place == ["month", *zone[1:4]])
    body = {key: value for key, value in event.body.items() if key not in ("id", "time", "schema", "kind")}
    return Observation(
        event.at, f"{event_class}/{event.body['kind']}", source, event.body["id"], zone_id,
        source if event_class == "camera" else None, source if event_class == "worker" else None, body, number,
    )  # fmt: skip
