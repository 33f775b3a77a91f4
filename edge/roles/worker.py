"""The role that works: inbox → cases → index → matches, and the scheduled jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing

from edge.analytics import Interpreter, Workbook
from edge.cases.outcome import Duty, Returns
from edge.config import Settings
from edge.db import Database
from edge.doors.notify import notify
from edge.errors import Unavailable
from edge.roles.loop import Beat, Paced, Stopping, repeat
from edge.roles.parts import FOLLOW, Parts, open_parts
from edge.roles.reindex import Successor
from edge.upkeep import scheduler


def worker(settings: Settings) -> None:
    """Run until told to stop."""
    stopping = Stopping()
    with closing(open_parts(settings, name="worker")) as parts:
        parts.indexer.open()
        successor = Successor(parts)
        jobs = scheduler(settings, parts.database, parts.store, lambda: parts.encoder.fingerprint, lambda: parts.engine)
        jobs.start()
        try:
            bell = Bell(parts.database, stopping.event)
            interpreter = Interpreter(settings, parts.database)
            duty = Duty(
                parts.database,
                acknowledge_minutes=settings.analytics.acknowledge_minutes,
                escalate_minutes=settings.analytics.escalate_minutes,
            )
            returns = Returns(parts.database, days=settings.search.return_days)

            def indexed() -> bool:
                # Looked up each time: another index may serve by now.
                return parts.indexer.step()

            steps: list[Callable[[], bool]] = [
                Follow(parts, seconds=FOLLOW),
                interpreter.step,
                Paced(interpreter.tick, every=5),
                Paced(duty.step, every=5),
                Paced(returns.step, every=10),
                Workbook(settings, parts.database).step,
                indexed,
                parts.matcher.step,
                Paced(jobs.look, every=2),
                successor.step,
            ]
            notify("READY=1")
            repeat(steps, stopping.event, rest=bell.wait, beat=Beat())
        finally:
            notify("STOPPING=1")
            jobs.shutdown()


class Follow:
    """Looks now and then whether another index serves, and makes ours complete when it does."""

    def __init__(self, parts: Parts, *, seconds: float) -> None:
        self._parts = parts
        self._seconds = seconds
        self._next = 0.0

    def __call__(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._seconds
        if self._parts.follow():
            # What changed between the switch and now was still told to the former index.
            self._parts.indexer.open()
            return True
        return False


class Bell:
    """Rests until Postgres announces work, or a little while: a lost announcement costs that while, nothing more."""

    def __init__(self, database: Database, stopping: threading.Event, *, patience: float = 0.5) -> None:
        self._rung = threading.Event()
        self._patience = patience
        threading.Thread(target=self._listen, args=(database, stopping), name="bell", daemon=True).start()

    def wait(self) -> None:
        self._rung.wait(self._patience)
        self._rung.clear()

    def _listen(self, database: Database, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                with database.listen("edge_work") as listener:
                    while not stopping.is_set():
                        if listener.wait(1.0):
                            self._rung.set()
            except Unavailable:
                stopping.wait(1.0)
