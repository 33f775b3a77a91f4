"""`edge etl`: run a sweep now, beside a running appliance or alone, and account for every row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

from edge.analytics import Workbook
from edge.config import Settings
from edge.db import Row
from edge.roles.alone import beside_or_alone
from edge.upkeep import etl
from edge.upkeep.jobs import Asked, behaviors_job, etl_job, run_job


def run(
    settings: Settings,
    name: str,
    since: date | None,
    until: date | None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> dict[str, Any]:
    """Run the job `etl` or `behaviors` in this process. Returns what was recorded. Raises `Rejected`, `Unavailable`."""
    with beside_or_alone(settings) as parts:
        parts.indexer.open()
        workbook = Workbook(settings, parts.database)
        while workbook.step():
            pass
        make = {"etl": etl_job, "behaviors": behaviors_job}[name]
        job = make(parts.database, lambda: parts.indexer.fingerprint, lambda: parts.indexer.step(64))

        def told(asked: Asked | None, record: etl.Progress) -> dict[str, Any]:
            def both(done: int, of: int) -> None:
                record(done, of)
                progress(done, of)

            return job(asked, both)

        return run_job(parts.database, name, told, Asked("command", since, until))


def account(settings: Settings) -> list[Row]:
    """Source rows, points, pending and failed of each collection."""
    with beside_or_alone(settings) as parts:
        return etl.account(parts.database, parts.encoder.fingerprint)
