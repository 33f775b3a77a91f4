"""The scheduled jobs. Every run is a row of `job_run`; a run missed while the box was off is caught up once.

APScheduler is the clock; the table `job` keeps what must outlive the process. Its own SQLAlchemyJobStore was not taken:
it pickles references to functions and removes a job it cannot restore, so an update that moves one would silently lose
the job; and these jobs work on parts that are open (index, encoder), which no pickle can carry.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from edge.cases import Casebook
from edge.cases.outcome import Returns
from edge.config import Settings
from edge.db import Database
from edge.errors import EdgeError, Rejected
from edge.indexing import reconcile
from edge.indexing.versions import optimize
from edge.search import SearchEngine, came_back
from edge.upkeep import etl
from edge.upkeep.snapshots import scheduled
from edge.vectors import VectorStore

_log = logging.getLogger(__name__)

#: Days a finished outbox row, login failure or job run is kept to be looked at.
KEEP_DAYS = 7

#: Minutes between two sweeps, and seconds between two words of how far a run is.
SWEEP_MINUTES, TELL = 5, 0.5

#: Jobs that can be run over a span of days.
SPANNED = ("etl", "behaviors")


class Busy(Rejected):
    """The job runs already, in this process or another."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A run somebody asked for. Days are those of the plant; `until` is the last one of them. None: no bound."""

    by: str
    since: date | None = None
    until: date | None = None

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Asked:
        days = (date.fromisoformat(stored[name]) if stored.get(name) else None for name in ("since", "until"))
        return cls(str(stored.get("by", "")), *days)

    def stored(self) -> dict[str, Any]:
        days = {"since": self.since, "until": self.until}
        return {"by": self.by} | {name: day.isoformat() for name, day in days.items() if day}


Job = Callable[[Asked | None, etl.Progress], dict[str, Any]]


class Jobs:
    """All jobs of a worker, one at a time: none may crowd out the box's real work."""

    def __init__(self, made: BackgroundScheduler, database: Database, jobs: Mapping[str, Job]) -> None:
        self._made = made
        self._database = database
        self._jobs = jobs
        self._asked: set[str] = set()
        self.start = made.start

    def shutdown(self) -> None:
        self._made.shutdown(wait=False)

    def look(self) -> bool:
        """Has somebody asked for a run? Never finds work for the caller. Raises `Unavailable`."""
        with self._database.transaction() as tx:
            rows = tx.all("job_asked")
        for row in rows:
            if row["name"] in self._jobs and row["name"] not in self._asked:
                self._asked.add(row["name"])
                self._made.add_job(self._answer, args=(row["name"], dict(row["asked"])), misfire_grace_time=None)
        return False

    def _answer(self, name: str, stored: dict[str, Any]) -> None:
        try:
            run_job(self._database, name, self._jobs[name], Asked.read(stored))
            with self._database.transaction() as tx:
                tx.run("job_answered", name=name, asked=stored)
        except Busy:
            # Asked again at the next look, until the other run is over.
            pass
        except EdgeError as error:
            _log.warning("The job %s could not be run: %s", name, error)
        finally:
            self._asked.discard(name)


def scheduler(
    settings: Settings,
    database: Database,
    store: VectorStore,
    fingerprint: Callable[[], str],
    engine: Callable[[], SearchEngine],
) -> Jobs:
    """All jobs, not yet started.

    `fingerprint` and `engine` are asked each time: a switch to another model changes them.
    """
    with database.transaction() as tx:
        site = tx.one("site_get")
        last = {row["job"]: row["started_at"] for row in tx.all("job_last")}
        known = {row["name"]: row["next_run_at"] for row in tx.all("job_known")}
    zone = site["timezone"] if site else "UTC"
    made = BackgroundScheduler(
        timezone=zone,
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": 3_600},
    )

    jobs: dict[str, Job] = {}

    def add(name: str, job: Job, trigger: Any, period: timedelta) -> None:
        # A box that was never off has no run to catch up with; a new one has nothing to save or to mend yet.
        now = datetime.now(UTC)
        due = known.get(name) or (last[name] + period if name in last else None)
        soon = now + timedelta(minutes=min(5.0, period / timedelta(minutes=10)))
        at = soon if due is not None and due < now else trigger.get_next_fire_time(None, now.astimezone(made.timezone))
        jobs[name] = job
        made.add_job(lambda: clocked(name, job), trigger, id=name, name=name, next_run_time=at)
        with database.transaction() as tx:
            tx.run("job_next", name=name, at=at)

    def clocked(name: str, job: Job) -> None:
        try:
            with database.transaction() as tx:
                enabled = tx.value("job_enabled", name=name)
            if enabled is not False:
                run_job(database, name, job)
            # Only now: a box that goes off in the middle of a run has missed it.
            coming = made.get_job(name)
            with database.transaction() as tx:
                tx.run("job_next", name=name, at=coming.next_run_time if coming else None)
        except Busy as error:
            _log.info("%s", error)
        except EdgeError as error:
            _log.warning("The job %s could not be run: %s", name, error)

    def reconciled(_asked: Asked | None, _progress: etl.Progress) -> dict[str, Any]:
        found = reconcile(database, store, fingerprint=fingerprint())
        return {"missing": found.missing, "orphaned": found.orphaned, "stale": found.stale}

    def optimized(_asked: Asked | None, _progress: etl.Progress) -> dict[str, Any]:
        return {"optimized": optimize(store)}

    def tidied(_asked: Asked | None, _progress: etl.Progress) -> dict[str, Any]:
        with database.transaction() as tx:
            return {
                "outbox": tx.run("outbox_purge", days=KEEP_DAYS),
                "outbound": tx.run("outbound_purge", days=KEEP_DAYS, dead_days=KEEP_DAYS * 4),
                "job_runs": tx.run("job_purge", days=KEEP_DAYS * 8),
                "sessions": tx.run("session_purge"),
                "login_failures": tx.run("login_failure_purge", days=KEEP_DAYS),
            }

    def saved(_asked: Asked | None, _progress: etl.Progress) -> dict[str, Any]:
        return scheduled(settings, database, store)

    def calibrated(_asked: Asked | None, _progress: etl.Progress) -> dict[str, Any]:
        found = engine().calibrate()
        figures = found.figures
        return {"origin": found.origin, "pairs": figures.own if figures else 0, "version": found.version}

    def outcomes(_asked: Asked | None, _progress: etl.Progress) -> dict[str, Any]:
        # What came back first: it has not held.
        days = settings.search.return_days
        returns = Returns(database, days=days)
        back = returns.look() + came_back(database, Casebook(database), engine(), days=days)
        return {"recurred": back, "held": returns.held()}

    add("outcomes", outcomes, IntervalTrigger(hours=6), timedelta(hours=6))
    add("etl", etl_job(database, fingerprint), IntervalTrigger(minutes=SWEEP_MINUTES), timedelta(minutes=SWEEP_MINUTES))
    add(
        "behaviors",
        behaviors_job(database, fingerprint),
        CronTrigger(hour=0, minute=5, timezone=zone),
        timedelta(days=1),
    )
    add("calibrate", calibrated, CronTrigger(hour=3, minute=45, timezone=zone), timedelta(days=1))
    add("snapshot", saved, CronTrigger(hour=settings.snapshot.hour, timezone=zone), timedelta(days=1))
    add("reconcile", reconciled, IntervalTrigger(hours=6), timedelta(hours=6))
    add("optimize", optimized, CronTrigger(hour=settings.vectors.optimize_hour, timezone=zone), timedelta(days=1))
    add("tidy", tidied, CronTrigger(hour=3, minute=30, timezone=zone), timedelta(days=1))
    with database.transaction() as tx:
        tx.run("job_forget", names=list(jobs))
    return Jobs(made, database, jobs)


def etl_job(database: Database, fingerprint: Callable[[], str], step: Callable[[], bool] | None = None) -> Job:
    """Finished sessions, cases and workers' weeks → index, as far as the outbox missed them."""

    def run(asked: Asked | None, progress: etl.Progress) -> dict[str, Any]:
        since, until = _moments(database, asked)
        found = etl.sweep(database, fingerprint(), since=since, until=until, step=step, progress=progress)
        return found.as_details()

    return run


def behaviors_job(database: Database, fingerprint: Callable[[], str], step: Callable[[], bool] | None = None) -> Job:
    """Sessions → what each worker's week was like → index."""

    def run(asked: Asked | None, progress: etl.Progress) -> dict[str, Any]:
        since = asked.since if asked else None
        until = asked.until + timedelta(days=1) if asked and asked.until else None
        found = etl.behaviors(database, fingerprint(), since=since, until=until, step=step, progress=progress)
        return found.as_details()

    return run


def ask(database: Database, name: str, asked: Asked) -> None:
    """Have the worker run a job now. Raises `Rejected` for a job or a span that cannot be run."""
    _check(name, asked)
    with database.transaction() as tx:
        if not tx.run("job_ask", name=name, asked=asked.stored()):
            raise Rejected(f"There is no job {name}.")


def run_job(database: Database, name: str, job: Job, asked: Asked | None = None) -> dict[str, Any]:
    """Run one job and record how it went, also when it fails; then it is logged, and tried again at its next time.

    Returns the details that were recorded, with `error` where there was one. Raises `Busy` when it runs already,
    `Unavailable` when the run could not be recorded.
    """
    if asked:
        _check(name, asked)
    with database.transaction() as lock:
        # Held as long as the run: PostgreSQL lets go of it when this process dies.
        if not lock.value("job_lock", job=name):
            raise Busy(f"The job {name} runs already. Wait until it has ended.")
        with database.transaction() as tx:
            tx.run("job_cut_off", job=name)
            run_id = tx.value("job_started", job=name, details=asked.stored() if asked else {})
        told, began = 0.0, time.monotonic()

        def progress(done: int, of: int) -> None:
            nonlocal told
            if time.monotonic() - told >= TELL:
                told = time.monotonic()
                with database.transaction() as tx:
                    tx.run("job_progress", id=run_id, details={"done": done, "of": of})

        details: dict[str, Any] = {}
        failure = None
        try:
            details = job(asked, progress)
        except EdgeError as error:
            failure = str(error)
            _log.warning("The job %s failed: %s", name, error)
        except Exception as error:  # noqa: BLE001 - a fault of ours must be seen on the page, and cost this run alone
            failure = f"A fault in the appliance ({type(error).__name__}: {error})."
            _log.exception("The job %s failed because of a fault in the appliance.", name)
        details["seconds"] = round(time.monotonic() - began, 2)
        with database.transaction() as tx:
            tx.run("job_finished", id=run_id, details=details, error=failure)
    return details | ({"error": failure} if failure else {})


def _check(name: str, asked: Asked) -> None:
    if asked.since and asked.until and asked.until < asked.since:
        raise Rejected(f"The span ends ({asked.until}) before it begins ({asked.since}).")
    if name not in SPANNED and (asked.since or asked.until):
        raise Rejected(f"The job {name} takes no span of days.")


def _moments(database: Database, asked: Asked | None) -> tuple[datetime | None, datetime | None]:
    """The days that are asked for, as moments of plant time; `until` exclusive."""
    if asked is None:
        return None, None
    with database.transaction() as tx:
        site = tx.one("site_get")
    zone = ZoneInfo(site["timezone"] if site else "UTC")
    since = datetime.combine(asked.since, datetime.min.time(), zone) if asked.since else None
    until = datetime.combine(asked.until + timedelta(days=1), datetime.min.time(), zone) if asked.until else None
    return since, until
