"""The plant's own geography, from its TOML file into Postgres. The format is explained in `etc/sample/plant.toml`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from edge.config import Settings, resources
from edge.db import Database
from edge.errors import Rejected, Stop


def plant_file(settings: Settings) -> Path | None:
    """The file the settings name; the sample plant's where that is wanted; None for neither."""
    if settings.plant.file:
        return settings.plant.file
    return resources() / "etc/sample/plant.toml" if settings.plant.sample else None


def load_plant(database: Database, file: Path) -> int:
    """Write the plant into Postgres, adding and renaming but never removing. Returns the number of zones.

    Raises `Stop` naming the file and what is wrong in it.
    """
    try:
        plant = tomllib.loads(file.read_text("utf-8"))
        site = plant["site"]
        ZoneInfo(site["timezone"])
        zones = 0
        with database.transaction() as tx:
            tx.run("site_put", id=site["id"], timezone=site["timezone"], **_names(site))
            for position, area in enumerate(plant["area"]):
                tx.run("area_put", site_id=site["id"], id=area["id"], position=position, **_names(area))
                for zone in area["zones"]:
                    zones += 1
                    tx.run(
                        "zone_put", site_id=site["id"], area_id=area["id"], id=zone["id"], line=zone["line"],
                        cell=zone["cell"], position=zones, **_names(zone),
                    )  # fmt: skip
            for camera in plant.get("camera", []):
                tx.run("camera_put", id=camera["id"], zone_id=camera["zone"])
            for worker in plant.get("worker", []):
                tx.run("worker_put", id=worker["id"], zone_id=worker["zone"], skill=worker["skill"])
            for standard in plant.get("standard", []):
                tx.run(
                    "standard_seed", zone_id=standard["zone"], product_type=standard.get("product"),
                    steps=json.dumps(_steps(standard["steps"])),
                )  # fmt: skip
    except OSError as error:
        raise Stop(f"The plant file {file} cannot be read: {error.strerror}. Check EDGE__PLANT__FILE.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Stop(f"The plant file {file} is not valid TOML: {error}.") from error
    except ZoneInfoNotFoundError as error:
        raise Stop(f"The plant file {file} names an unknown timezone: {error}.") from error
    except (KeyError, TypeError) as error:
        raise Stop(f"The plant file {file} lacks the key {error}.") from error
    except Rejected as error:
        raise Stop(f"The plant file {file} contradicts itself: {error}") from error
    return zones


def _steps(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": str(step["name"]), "seconds": float(step["seconds"]), "critical": bool(step.get("critical", False))}
        for step in steps
    ]


def _names(row: dict[str, Any]) -> dict[str, str]:
    return {"name_th": row["name"]["th"], "name_en": row["name"]["en"]}
