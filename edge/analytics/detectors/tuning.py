"""Which detectors watch which zone, and how they are set: `etc/detectors.toml` explains every value."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge.analytics.detectors.base import Detector, Standards, Tuning
from edge.analytics.detectors.cycle import CycleTime
from edge.analytics.detectors.devices import Camera, Log
from edge.analytics.detectors.idle import Idle, MicroStops
from edge.analytics.detectors.steps import Sequence, StepTime
from edge.analytics.detectors.zone import Occupancy, Ppe
from edge.errors import Stop

#: Every detector by its name, in the order they look at an observation.
DETECTORS: Mapping[str, type[Detector[Any, Any]]] = {
    detector.name: detector
    for detector in (Idle, MicroStops, CycleTime, Sequence, StepTime, Occupancy, Ppe, Camera, Log)
}


@dataclass(frozen=True, slots=True)
class Tunings:
    """Settings by detector, and those of single zones, which say only what differs there."""

    everywhere: Mapping[str, Tuning]
    zones: Mapping[str, Mapping[str, Tuning]]

    def detectors(self, zone_id: str | None, standards: Standards) -> list[Detector[Any, Any]]:
        """The detectors that are switched on for a zone."""
        own = self.zones.get(zone_id or "", {})
        made: list[Detector[Any, Any]] = []
        for name, kind in DETECTORS.items():
            settings = own.get(name, self.everywhere[name])
            if settings.enabled:
                made.append(kind(settings, standards))
        return made


def read_tunings(file: Path | None) -> Tunings:
    """Read a file such as `etc/detectors.toml`; None: the defaults.

    A table `[idle]` holds for every zone, `[zone."ASM-1".idle]` for one. Raises `Stop` naming the file, the key and
    what is wrong with it.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            raise Stop(
                f"The detector settings {file} cannot be read: {error.strerror}. Check EDGE__ANALYTICS__DETECTORS."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Stop(f"The detector settings {file} are not valid TOML: {error}.") from error
    zones = values.pop("zone", {})
    everywhere = {name: _tuning(file, name, values.pop(name, {}), {}) for name in DETECTORS}
    if values:
        raise _unknown(file, next(iter(values)))
    own: dict[str, dict[str, Tuning]] = {}
    for zone_id, tables in zones.items() if isinstance(zones, dict) else ():
        for name, table in tables.items() if isinstance(tables, dict) else ():
            if name not in DETECTORS:
                raise _unknown(file, f'zone."{zone_id}".{name}')
            base = everywhere[name].model_dump(exclude_unset=True)
            own.setdefault(zone_id, {})[name] = _tuning(file, f'zone."{zone_id}".{name}', table, base)
    return Tunings(everywhere, own)


def _tuning(file: Path | None, where: str, table: Any, base: Mapping[str, Any]) -> Tuning:
    kind = DETECTORS[where.rpartition(".")[2]].tuning
    if not isinstance(table, dict):
        raise Stop(f"In the detector settings {file}, [{where}] must be a table.")
    try:
        return kind.model_validate({**base, **table})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, list(kind.model_fields), 1)
            hint = f"Did you mean {near[0]}?" if near else f"Known there: {', '.join(kind.model_fields)}."
            raise Stop(f"In the detector settings {file}, [{where}] {key} is unknown. {hint}") from error
        raise Stop(f"In the detector settings {file}, [{where}] {key} is wrong: {first['msg']}.") from error


def _unknown(file: Path | None, name: str) -> Stop:
    return Stop(f"The detector settings {file} name [{name}], which is unknown. Known: {', '.join(DETECTORS)}, zone.")
