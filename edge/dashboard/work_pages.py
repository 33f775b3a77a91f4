"""What people did and how it should be done: sessions, workers' weeks and standard work. Supervisors and above see
workers; engineers write standards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import BaseModel

from edge.analytics.behavior import period
from edge.analytics.standard import StandardStep, compare, propose
from edge.analytics.watch import standard_from
from edge.dashboard import urls
from edge.dashboard.api import READS, House, ProblemOut, see_people
from edge.dashboard.choices import places
from edge.dashboard.contexts import (
    Alike,
    CycleRow,
    HourRow,
    SessionPage,
    SessionRow,
    SessionsPage,
    StandardPage,
    StandardRow,
    StandardsPage,
    WeekRow,
    WorkerPage,
)
from edge.dashboard.services import Here, NotFound, Services, Visit
from edge.db import Row
from edge.errors import EdgeError, Rejected
from edge.indexing import Entity, load_entities
from edge.search import Question

router = APIRouter(include_in_schema=False)
api_router = APIRouter(
    prefix="/api/v1",
    tags=["work"],
    responses={
        code: {"model": ProblemOut, "content": {"application/problem+json": {}}} for code in (401, 403, 404, 422, 503)
    },
)

#: Sessions on a page, and sequences that are shown as alike.
SHOWN, ALIKE = 200, 5

#: Empty lines a form offers beyond the steps there are.
SPARE = 4


class AlikeOut(BaseModel):
    """A session whose work resembles another's: the same steps in the same order, whatever the product or zone."""

    id: UUID
    zone_id: str
    product_type: str | None
    day: date
    cycle_seconds: float | None
    steps: list[str]
    score: float


@api_router.get("/sequences/{session_id}/similar", dependencies=[READS])
def similar_sequences(request: Request, house: House, session_id: UUID, limit: int = 10) -> list[AlikeOut]:
    """Sessions whose work is most like that of this one, across products and zones. Not for viewers."""
    see_people(request)
    return [
        AlikeOut(
            id=record.id, zone_id=record.facts["zone_id"], product_type=record.facts["product_type"],
            day=record.facts["day"], cycle_seconds=record.facts["cycle_seconds"],
            steps=[step["name"] for step in record.facts["steps"]], score=score,
        )
        for record, score in alike(house, session_id, min(max(limit, 1), 50))
    ]  # fmt: skip


def alike(services: Services, session_id: UUID, limit: int) -> list[tuple[Entity, float]]:
    """Sequences like that of a session, best first. Raises `NotFound` for a session that has none, `Unavailable`."""
    with services.db.transaction() as tx:
        entity = load_entities(tx, "work_sequences", [session_id]).get(session_id)
    if entity is None:
        raise NotFound(f"There is no finished session {session_id} with a piece in it.")
    # The steps alone: with its place, work of the same zone would be like it, whatever is done there.
    steps = " → ".join(step["name"].replace("_", " ") for step in entity.facts["steps"])
    question = Question(
        (steps or entity.text)[:4_000], limit=limit + 1, collections=("work_sequences",), explain=False, taught=False
    )
    found = [
        (hit.record, hit.score)
        for hit in services.search.search(question).hits
        if isinstance(hit.record, Entity) and hit.record.id != session_id
    ]
    return found[:limit]


@router.get(urls.SESSIONS)
def sessions(here: Here, day: str = "", zone: str = "", worker: str = "") -> Response:
    here.need("supervisor")
    zones = here.services.plant.zones()
    chosen = zone if zone in {one.id for one in zones} else ""
    with here.services.db.transaction() as tx:
        rows = tx.all("work_sessions", day=_day(day), zone=chosen or None, worker=worker.strip() or None, limit=SHOWN)
    names = {one.id: here.texts.zone(one) for one in zones}
    shown = tuple(_session(row, names) for row in rows)
    return here.render(
        SessionsPage(shown, places(here.texts, zones, chosen=chosen), day if _day(day) else "", worker.strip()),
        "sessions",
    )


@router.get(urls.SESSIONS + "/{session_id}")
def session(here: Here, session_id: UUID) -> Response:
    here.need("supervisor")
    services = here.services
    with services.db.transaction() as tx:
        row = tx.one("work_session_get", id=session_id)
        if row is None:
            raise NotFound(f"There is no session {session_id}.")
        cycles, hours = tx.all("work_cycles", id=session_id), tx.all("work_hours", id=session_id)
        standard = tx.one("standard_at", zone_id=row["zone_id"], product_type=row["product_type"], at=row["started_at"])
    names = {one.id: here.texts.zone(one) for one in services.plant.zones()}
    order = standard_from(standard).names if standard else None
    longest = max((cycle["seconds"] for cycle in cycles), default=0) or 1
    problem, like = None, list[tuple[Entity, float]]()
    try:
        like = alike(services, session_id, ALIKE)
    except NotFound:
        pass
    except EdgeError as error:
        problem = str(error)
    context = SessionPage(
        session=_session(row, names),
        cycles=tuple(_cycle(here, cycle, order, longest) for cycle in cycles),
        hours=tuple(
            HourRow(hour["hour"], hour["active_seconds"], hour["idle_seconds"], hour["cycles"]) for hour in hours
        ),
        measured=standard is not None,
        alike=tuple(Alike(_session(dict(record.facts), names), here.texts.percent(score)) for record, score in like),
        problem=problem,
    )
    return here.render(context, "sessions")


@router.get(urls.WORKERS + "/{worker_id}")
def worker(here: Here, worker_id: str) -> Response:
    here.need("supervisor")
    with here.services.db.transaction() as tx:
        rows = tx.all("behavior_of", worker_id=worker_id, limit=26)
    if not rows:
        raise NotFound(f"Nothing is told of {worker_id} yet. Weeks are told every night, from sessions that are over.")
    names = {one.id: here.texts.zone(one) for one in here.services.plant.zones()}
    weeks = tuple(
        WeekRow(
            period(row["week"]), names.get(row["zone_id"]) or str(row["zone_id"]), row["metrics"],
            tuple(row["strengths"][here.language]), tuple(row["points"][here.language]),
        )
        for row in rows
    )  # fmt: skip
    return here.render(WorkerPage(worker_id, weeks), "sessions")


@router.get(urls.STANDARDS)
def standards(here: Here) -> Response:
    here.need()
    zones = here.services.plant.zones()
    with here.services.db.transaction() as tx:
        rows = tx.all("standards")
    names = {one.id: here.texts.zone(one) for one in zones}
    return here.render(
        StandardsPage(tuple(_standard(row, names) for row in rows), places(here.texts, zones)), "standards"
    )


@router.get(urls.STANDARDS + "/edit")
def standard(here: Here, zone: str, product: str = "", since: str = "", until: str = "") -> Response:
    """One standard with its history; with days, what the cycles of those days propose."""
    here.need()
    return _edit(here, zone, product.strip(), since, until)


@router.post(urls.STANDARDS + "/edit")
def standard_save(
    here: Here,
    zone: Annotated[str, Form()],
    product: Annotated[str, Form()] = "",
    origin: Annotated[str, Form()] = "written",
    name: Annotated[list[str] | None, Form()] = None,
    seconds: Annotated[list[str] | None, Form()] = None,
    critical: Annotated[list[int] | None, Form()] = None,
) -> Response:
    """Save a new version; the one before is retired and stays to be read."""
    account = here.need("engineer")
    product = product.strip()
    typed = list(zip(name or [], seconds or [], strict=False))
    try:
        steps = [
            {"name": _name(what), "seconds": _seconds(took), "critical": number in (critical or [])}
            for number, (what, took) in enumerate(typed)
            if what.strip()
        ]
        if not 1 <= len(steps) <= 200:
            raise Rejected("A standard has 1 to 200 steps.")
        if zone not in {one.id for one in here.services.plant.zones()}:
            raise Rejected(f"The plant has no zone {zone}.")
        with here.services.db.transaction() as tx:
            tx.one(
                "standard_put", zone_id=zone, product_type=product or None, steps=json.dumps(steps),
                origin="recorded" if origin == "recorded" else "written", actor=account.username,
            )  # fmt: skip
    except Rejected as error:
        rows = tuple((what, took, number in (critical or [])) for number, (what, took) in enumerate(typed))
        return _edit(here, zone, product, "", "", typed=rows, problem=str(error))
    return here.go(urls.with_query(urls.STANDARDS + "/edit", zone=zone, product=product, done="standard"))


def _edit(
    here: Visit,
    zone: str,
    product: str,
    since: str,
    until: str,
    *,
    typed: Sequence[tuple[str, str, bool]] = (),
    problem: str | None = None,
) -> Response:
    names = {one.id: here.texts.zone(one) for one in here.services.plant.zones()}
    if zone not in names:
        raise NotFound(f"The plant has no zone {zone}.")
    first = _day(since)
    last = _day(until) or datetime.now(UTC).date() + timedelta(days=1)
    with here.services.db.transaction() as tx:
        versions = tx.all("standard_versions", zone_id=zone, product_type=product or None)
        cycles = (
            tx.all("cycles_to_record", zone_id=zone, product_type=product or None, since=first, until=last)
            if first
            else []
        )
    proposal = propose([(row["seconds"], [(step["name"], step["seconds"]) for step in row["steps"]]) for row in cycles])
    valid = next((row for row in versions if row["retired_at"] is None), None)
    now: Sequence[StandardStep] = ()
    if proposal:
        # Which steps are critical an engineer knows and cycles do not.
        critical = {step["name"] for step in valid["steps"] if step.get("critical")} if valid else set()
        now = [StandardStep(step.name, step.seconds, step.name in critical) for step in proposal.steps]
    elif valid:
        now = standard_from(valid).steps
    rows = tuple(typed) or tuple((step.name, f"{step.seconds:g}", step.critical) for step in now)
    context = StandardPage(
        zone=zone, zone_name=names[zone], product=product, rows=rows + (("", "", False),) * SPARE,
        since=since if first else "", until=until if _day(until) else "",
        proposal=proposal, asked=first is not None,
        versions=tuple(_standard(row, names) for row in versions), problem=problem,
        may=here.account is not None and here.account.at_least("engineer"),
    )  # fmt: skip
    return here.render(context, "standards", status=422 if problem else 200)


def _session(row: Row, names: dict[str, str]) -> SessionRow:
    return SessionRow(
        id=row["id"], worker_id=row["worker_id"], zone=names.get(row["zone_id"]) or str(row["zone_id"]), day=row["day"],
        shift=row["shift_number"], started_at=row["started_at"], ended_at=row["ended_at"],
        product=row["product_type"], active_seconds=row["active_seconds"], idle_seconds=row["idle_seconds"],
        cycles=row["cycles"], cycle_seconds=row["cycle_seconds"],
    )  # fmt: skip


def _cycle(here: Visit, row: Row, order: Sequence[str] | None, longest: float) -> CycleRow:
    done = [step["name"] for step in row["steps"]]
    # Only a finished piece lacks what it lacks.
    differs = compare(order, done) if order is not None and row["index_number"] is not None else []
    return CycleRow(
        number=row["index_number"], ended_at=row["ended_at"], seconds=row["seconds"],
        height=round(100 * row["seconds"] / longest, 1), steps=len(done),
        deviations=tuple(one.words.in_(here.language) for one in differs),
    )  # fmt: skip


def _standard(row: Row, names: dict[str, str]) -> StandardRow:
    steps = standard_from(row).steps
    return StandardRow(
        zone=row["zone_id"], zone_name=names.get(row["zone_id"]) or str(row["zone_id"]), product=row["product_type"] or "",
        steps=tuple((step.name.replace("_", " "), step.seconds, step.critical) for step in steps), origin=row["origin"],
        by=row["created_by"], at=row["created_at"], retired_at=row.get("retired_at"),
    )  # fmt: skip


def _day(text: str) -> date | None:
    """A day of an address; what is none is taken as any."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _name(text: str) -> str:
    if len(text.strip()) > 100:
        raise Rejected("The name of a step has at most 100 letters.")
    return text.strip()


def _seconds(text: str) -> float:
    try:
        found = float(text.replace(",", "."))
    except ValueError:
        found = -1.0
    if not 0 < found <= 86_400:
        raise Rejected(
            f"The time of a step is more than 0 and at most 86,400 seconds, not {text.strip()[:20] or 'nothing'}."
        )
    return round(found, 2)
