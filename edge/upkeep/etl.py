"""The sweeps: what the outbox missed reaches the index, and every row is accounted for.

The outbox brings each change to the index at once. A sweep compares every source row with its point by version (the
watermark of a row is the version its point carries), so it also finds what was written by hand in SQL, restored, deleted,
or committed while nobody listened; "the last five minutes" would miss all of these. What it finds goes through the
outbox, so a sweep that is killed loses nothing, and done twice it embeds nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from uuid import UUID

from edge.analytics.behavior import BEHAVIORS, due, tell
from edge.db import Database, Row

#: `progress(done, of)`.
Progress = Callable[[int, int], None]

#: Rows queued in one transaction.
BATCH = 1_000

#: Seconds without any progress of the index after which a sweep leaves the rest to the outbox.
PATIENCE = 120.0


@dataclass(slots=True)
class Sweep:
    """What became of each row that was read: every one is in exactly one of the others.

    `embedded`: encoded anew. `updated`: only what is filtered on has changed. `deleted`: its point went. `skipped`: row
    and point agreed already. `failed`: the index refused it, the outbox tries again. `waiting`: not yet, the outbox has it.
    """

    read: int = 0
    embedded: int = 0
    updated: int = 0
    deleted: int = 0
    skipped: int = 0
    failed: int = 0
    waiting: int = 0

    def as_details(self) -> dict[str, int]:
        return asdict(self)


def sweep(
    database: Database,
    fingerprint: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    step: Callable[[], bool] | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Sweep:
    """Bring what the index lacks to it: of rows whose time lies in [since, until), or of all, and then what is left over.

    `step` does the indexing where no worker runs beside. Raises `Unavailable`; a repeat goes on.
    """
    span = {"since": since, "until": until}
    with database.transaction() as tx:
        # Both counts of one moment, or they would not add up.
        tx.run("one_moment")
        rows = sum(row["rows"] for row in tx.all("etl_count", **span))
        lacking = tx.all("etl_differing", fingerprint=fingerprint, **span)
    found = _settle(database, fingerprint, lacking, step, progress)
    found.read = rows + sum(row["gone"] for row in lacking)
    found.skipped = found.read - len(lacking)
    return found


def behaviors(
    database: Database,
    fingerprint: str,
    *,
    since: date | None = None,
    until: date | None = None,
    step: Callable[[], bool] | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Sweep:
    """Tell every worker's week anew whose sessions have changed, or that lies in [since, until). Raises `Unavailable`."""
    todo = due(database, since, until)
    with database.transaction() as tx:
        digests = {row["entity_id"]: row["digest"] for row in tx.all("behavior_points", fingerprint=fingerprint)}
    read, changed = 0, list[UUID]()
    for number, week in enumerate(todo):
        progress(number, len(todo))
        workers, keys = tell(database, week)
        read += workers
        changed += keys
    mine = [{"collection": BEHAVIORS, "entity_id": key, "digest": digests.get(key)} for key in changed]
    found = _settle(database, fingerprint, mine, step, progress)
    found.read, found.skipped = read, read - len(mine)
    return found


def account(database: Database, fingerprint: str) -> list[Row]:
    """Every source row by collection: `rows` = `points` + `pending` + `failed`; `left_over`: points without a row."""
    with database.transaction() as tx:
        return tx.all("etl_account", fingerprint=fingerprint)


def _settle(
    database: Database, fingerprint: str, lacking: Sequence[Row], step: Callable[[], bool] | None, progress: Progress
) -> Sweep:
    """Queue rows, wait until the index has dealt with them, and say what became of each."""
    names, ids = [row["collection"] for row in lacking], [row["entity_id"] for row in lacking]
    for start in range(0, len(ids), BATCH):
        with database.transaction() as tx:
            tx.one("etl_queue", collections=names[start : start + BATCH], ids=ids[start : start + BATCH])
    least, moved = len(ids), time.monotonic()
    while ids:
        worked = step() if step else False
        with database.transaction() as tx:
            left = tx.value("etl_left", collections=names, ids=ids)
        progress(len(ids) - left, len(ids))
        if not left:
            break
        if left < least:
            least, moved = left, time.monotonic()
        if time.monotonic() - moved > PATIENCE:
            break
        if not worked:
            time.sleep(0.2)
    found = Sweep()
    with database.transaction() as tx:
        outcome = tx.all("etl_outcome", fingerprint=fingerprint, collections=names, ids=ids)
    before = {(row["collection"], row["entity_id"]): row["digest"] for row in lacking}
    for row in outcome:
        if not row["agrees"]:
            found.failed += row["error"] is not None
            found.waiting += row["error"] is None
        elif row["gone"]:
            found.deleted += 1
        elif row["digest"] == before[row["collection"], row["entity_id"]]:
            found.updated += 1
        else:
            found.embedded += 1
    return found
