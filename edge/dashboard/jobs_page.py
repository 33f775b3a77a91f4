"""The scheduled jobs: when they run, how the last runs went, and a button to run one now."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Form
from fastapi.responses import Response
from pydantic import BaseModel

from edge.dashboard import urls
from edge.dashboard.api import READS, WRITES, House, ProblemOut
from edge.dashboard.contexts import JobRow, JobsFragment, JobsPage, RunRow
from edge.dashboard.services import Here, Visit
from edge.db import Row
from edge.errors import EdgeError, Rejected
from edge.upkeep import etl
from edge.upkeep.jobs import SPANNED, Asked, ask

router = APIRouter(include_in_schema=False)
api_router = APIRouter(
    prefix="/api/v1/jobs",
    tags=["jobs"],
    responses={
        code: {"model": ProblemOut, "content": {"application/problem+json": {}}} for code in (401, 403, 422, 503)
    },
)

#: Runs that are shown.
RUNS = 30

#: What a run counted, in the order it is told.
COUNTS = ("read", "embedded", "updated", "deleted", "skipped", "failed", "waiting")


class JobOut(BaseModel):
    """`running`: the latest run has not ended; then `details` says how far it is (`done` of `of`)."""

    name: str
    enabled: bool
    next_run_at: datetime | None
    asked: dict[str, Any] | None
    running: bool
    started_at: datetime | None
    finished_at: datetime | None
    details: dict[str, Any] | None
    error: str | None


class SpanIn(BaseModel):
    since: str = ""
    until: str = ""


@api_router.get("", dependencies=[READS])
def listed(house: House) -> list[JobOut]:
    """Every job with its next time and its latest run."""
    with house.db.transaction() as tx:
        return [JobOut(running=_running(row), **row) for row in tx.all("jobs")]


@api_router.post("/{name}/run", status_code=202)
def started(house: House, name: str, asked: SpanIn, by: Annotated[str, WRITES]) -> JobOut:
    """Have the worker run a job now. `etl` and `behaviors` take a span of days of plant time, both included."""
    ask(house.db, name, _span(by, asked.since, asked.until))
    with house.db.transaction() as tx:
        return next(JobOut(running=_running(row), **row) for row in tx.all("jobs") if row["name"] == name)


@router.get(urls.JOBS)
def page(here: Here) -> Response:
    here.need("engineer")
    return _page(here)


@router.get(urls.JOBS_FRAGMENT)
def fragment(here: Here) -> Response:
    here.need("engineer")
    return here.render(JobsFragment(*_rows(here)), "jobs")


@router.post(urls.JOBS)
def run(
    here: Here, name: Annotated[str, Form()], since: Annotated[str, Form()] = "", until: Annotated[str, Form()] = ""
) -> Response:
    account = here.need("engineer")
    try:
        ask(here.services.db, name, _span(account.username, since, until))
    except Rejected as error:
        return _page(here, str(error))
    return here.go(urls.with_query(urls.JOBS, done="job"))


@router.post(urls.JOBS + "/{name}/{switch}")
def enable(here: Here, name: str, switch: str) -> Response:
    here.need("admin")
    with here.services.db.transaction() as tx:
        tx.run("job_enable", name=name, enabled=switch == "on")
    return here.go(urls.JOBS)


def _page(here: Visit, problem: str | None = None) -> Response:
    try:
        fingerprint = here.services.search.encoder.fingerprint
        account = tuple(etl.account(here.services.db, fingerprint))
    except EdgeError:
        account = ()
    context = JobsPage(*_rows(here), account=account, problem=problem)
    return here.render(context, "jobs", status=422 if problem else 200)


def _rows(here: Visit) -> tuple[tuple[JobRow, ...], tuple[RunRow, ...]]:
    with here.services.db.transaction() as tx:
        jobs, runs = tx.all("jobs"), tx.all("job_runs", limit=RUNS)
    return (
        tuple(
            JobRow(
                row["name"], row["enabled"], row["next_run_at"], _running(row), row["asked"] is not None,
                row["name"] in SPANNED, row["started_at"], row["error"], *_share(row),
            )
            for row in jobs
        ),
        tuple(
            RunRow(
                row["job"], row["started_at"], row["finished_at"], row["details"].get("seconds"), row["error"],
                tuple((count, row["details"][count]) for count in COUNTS if row["details"].get(count)),
                row["details"].get("by"), row["details"].get("since"), row["details"].get("until"),
            )
            for row in runs
        ),
    )  # fmt: skip


def _running(row: Row) -> bool:
    return row["started_at"] is not None and row["finished_at"] is None


def _share(row: Row) -> tuple[int, int]:
    details = row["details"] or {}
    return int(details.get("done", 0)), int(details.get("of", 0))


def _span(by: str, since: str, until: str) -> Asked:
    try:
        return Asked.read({"by": by, "since": since, "until": until})
    except ValueError as error:
        raise Rejected("A day is written as 2026-11-21.") from error
