"""Filters of the search and history pages: from an address to `Filters` and to the options a form shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from edge.cases import KINDS, LANGUAGES, OUTCOMES, SEVERITIES, Zone
from edge.dashboard.contexts import Choice, Filter, Group
from edge.dashboard.texts import Texts
from edge.search import Filters

#: Days each period reaches back.
PERIODS: Mapping[str, int] = {"week": 7, "month": 30, "quarter": 92, "year": 366}

_CODES: Mapping[str, Sequence[str]] = {
    "kind": KINDS,
    "severity": SEVERITIES[::-1],
    "outcome": OUTCOMES,
    "language": LANGUAGES,
    "period": tuple(PERIODS),
}

#: Zone filters that mean every zone of an area begin with this.
AREA = "area:"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Filters as they stand in an address; "" means any. What is unknown there is taken as any."""

    kind: str = ""
    zone: str = ""
    severity: str = ""
    outcome: str = ""
    language: str = ""
    period: str = ""

    @classmethod
    def read(cls, query: Mapping[str, str], zones: Sequence[Zone]) -> Wanted:
        values = {name: query.get(name, "") for name in ("zone", *_CODES)}
        places = {zone.id for zone in zones} | {AREA + zone.area_id for zone in zones}
        known: dict[str, Any] = {**_CODES, "zone": places}
        return cls(**{name: value if value in known[name] else "" for name, value in values.items()})

    def query(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("kind", "zone", "severity", "outcome", "language", "period")}

    @property
    def any(self) -> bool:
        return any(self.query().values())

    def zone_ids(self, zones: Sequence[Zone]) -> tuple[str, ...]:
        if self.zone.startswith(AREA):
            return tuple(zone.id for zone in zones if AREA + zone.area_id == self.zone)
        return (self.zone,) if self.zone else ()

    @property
    def since(self) -> datetime | None:
        return datetime.now(UTC) - timedelta(days=PERIODS[self.period]) if self.period else None

    def filters(self, zones: Sequence[Zone]) -> Filters:
        """For the search: only closed cases, because only they say what fixed it."""
        return Filters(
            statuses=("closed",),
            kinds=_one(self.kind),
            severities=_one(self.severity),
            outcomes=_one(self.outcome),
            languages=_one(self.language),
            zone_ids=self.zone_ids(zones),
            since=self.since,
        )

    def form(self, texts: Texts, zones: Sequence[Zone]) -> tuple[Filter, ...]:
        chosen = self.query()
        made = []
        for name in ("zone", "severity", "outcome", "kind", "language", "period"):
            everything = Choice("", texts.label("filter.any", name), not chosen[name])
            groups: tuple[Group, ...] = ()
            options = [everything]
            if name == "zone":
                groups = places(texts, zones, chosen=self.zone, areas=True)
            else:
                options += [Choice(code, texts.label(name, code), code == chosen[name]) for code in _CODES[name]]
            made.append(Filter(name, bool(chosen[name]), tuple(options), groups))
        return tuple(made)


def places(texts: Texts, zones: Sequence[Zone], *, chosen: str = "", areas: bool = False) -> tuple[Group, ...]:
    """Zones under their areas, in the plant's own order. `areas`: with an option for each whole area."""
    grouped: dict[str, list[Zone]] = {}
    for zone in zones:
        grouped.setdefault(zone.area_id, []).append(zone)
    made = []
    for area_id, members in grouped.items():
        whole = [
            Choice(AREA + area_id, texts.t("filter.whole_area", area=texts.area(members[0])), AREA + area_id == chosen)
        ]
        each = [Choice(zone.id, f"{texts.line(zone)} › {texts.zone(zone)}", zone.id == chosen) for zone in members]
        made.append(Group(texts.area(members[0]), tuple((whole if areas else []) + each)))
    return tuple(made)


def _one(value: str) -> tuple[str, ...]:
    return (value,) if value else ()
