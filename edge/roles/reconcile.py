"""`edge reconcile`: compare the index with Postgres and mend it, beside a running appliance or alone."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.config import Settings
from edge.indexing import Reconciliation
from edge.indexing import reconcile as compare
from edge.roles.alone import beside_or_alone

#: Seconds without any progress after which mending is left to the worker.
_PATIENCE = 60.0


def reconcile(
    settings: Settings, *, mend: bool = True, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> tuple[Reconciliation, Reconciliation]:
    """What differed, and what differs afterwards. Raises `Stop`, `Unavailable`.

    `progress` is told how many rows of how many are mended.
    """
    with beside_or_alone(settings) as parts:
        fingerprint = parts.encoder.fingerprint
        found = compare(parts.database, parts.store, fingerprint=fingerprint, mend=False)
        if found.agree or not mend:
            return found, found
        parts.indexer.open()
        compare(parts.database, parts.store, fingerprint=fingerprint)
        most, least, moved = 0, None, time.monotonic()
        # A running worker takes its share of the rows; ours are done when none is waiting for anybody.
        while time.monotonic() - moved < _PATIENCE:
            worked = parts.indexer.step(64)
            waiting = parts.casebook.counts()["outbox_pending"]
            most = max(most, waiting)
            progress(most - waiting, most)
            if not waiting:
                break
            if least is None or waiting < least:
                least, moved = waiting, time.monotonic()
            if not worked:
                time.sleep(0.2)
        return found, compare(parts.database, parts.store, fingerprint=fingerprint, mend=False)
