"""One case, and what can be done with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import Response

from edge.cases import OUTCOMES, Case, Outcome
from edge.dashboard import urls
from edge.dashboard.contexts import CasePage, Cited, CloseForm, Found
from edge.dashboard.knowledge import passages_of
from edge.dashboard.services import Here, NotFound, Visit
from edge.dashboard.teaching import judged
from edge.errors import Rejected, Unavailable

router = APIRouter(include_in_schema=False)

SIMILAR = 8

#: Fixes that are shown: the most reliable ones.
FIXES = 5


@router.post("/cases/{record_id:path}/acknowledge")
def acknowledge(here: Here, record_id: str) -> Response:
    account = here.need("supervisor")
    case = _case(here, record_id)
    try:
        here.services.casebook.acknowledge(case, actor=account.username)
    except Rejected as error:
        return _page(here, _case(here, record_id), problem=str(error))
    here.services.changed()
    return here.go(urls.case(record_id, done="acknowledged"))


@router.post("/cases/{record_id:path}/close")
def close(
    here: Here,
    record_id: str,
    root_cause: Annotated[str, Form()] = "",
    resolution: Annotated[str, Form()] = "",
    outcome: Annotated[str, Form()] = "unknown",
) -> Response:
    account = here.need("supervisor")
    case = _case(here, record_id)
    form = CloseForm(root_cause, resolution, outcome if outcome in OUTCOMES else "unknown")
    problem = None
    if not root_cause.strip() or not resolution.strip():
        problem = here.texts.t("close.missing")
    else:
        try:
            here.services.casebook.close(
                case,
                actor=account.username,
                root_cause=form.root_cause,
                resolution=form.resolution,
                outcome=form.outcome,
            )
        except Rejected as error:
            problem = str(error)
    if problem:
        return _page(here, _case(here, record_id), form=form, problem=problem)
    here.services.changed()
    return here.go(urls.case(record_id, done="closed"))


@router.post("/cases/{record_id:path}/reopen")
def reopen(here: Here, record_id: str) -> Response:
    account = here.need("engineer")
    case = _case(here, record_id)
    try:
        here.services.casebook.reopen(case, actor=account.username)
    except Rejected as error:
        return _page(here, _case(here, record_id), problem=str(error))
    here.services.changed()
    return here.go(urls.case(record_id, done="reopened"))


@router.post("/cases/{record_id:path}/incident")
def incident(here: Here, record_id: str) -> Response:
    account = here.need("supervisor")
    case = _case(here, record_id)
    try:
        here.services.casebook.promote(case, actor=account.username)
    except Rejected as error:
        return _page(here, _case(here, record_id), problem=str(error))
    here.services.changed()
    return here.go(urls.case(record_id, done="incident"))


@router.post("/cases/{record_id:path}/outcome")
def outcome(here: Here, record_id: str, outcome: Annotated[str, Form()] = "") -> Response:
    """A person's word about the fix: the appliance never changes it again."""
    account = here.need("supervisor")
    case = _case(here, record_id)
    said: Outcome | None = next((code for code in OUTCOMES if code == outcome), None)
    try:
        if said is None:
            raise Rejected(here.texts.t("outcome_of.choose"))
        here.services.casebook.judge(case, actor=account.username, outcome=said)
    except Rejected as error:
        return _page(here, _case(here, record_id), problem=str(error))
    here.services.changed()
    return here.go(urls.case(record_id, done="judged"))


@router.get("/cases/{record_id:path}")
def case_page(here: Here, record_id: str, use: str = "") -> Response:
    """`use`: the past case whose cause and fix are put into the form."""
    here.need()
    case = _case(here, record_id)
    form = CloseForm(case.root_cause or "", case.resolution or "", case.outcome)
    if use and (past := here.services.casebook.get(use)):
        form = CloseForm(past.root_cause or "", past.resolution or "", "unknown", taken_from=past.record_id)
    return _page(here, case, form=form)


def _case(here: Visit, record_id: str) -> Case:
    case = here.services.casebook.get(record_id) if "\x00" not in record_id else None
    if case is None:
        raise NotFound(f"There is no case {record_id}.")
    return case


def _page(here: Visit, case: Case, *, form: CloseForm | None = None, problem: str | None = None) -> Response:
    casebook = here.services.casebook
    similar_problem, report = None, None
    passages: tuple[Cited, ...] = ()
    try:
        answer = here.services.search.similar(case, limit=SIMILAR)
        here.services.pace.add(answer.milliseconds)
        found = judged(here, answer.hits, case)
        report = here.services.search.fixes(case, language=here.language)
        passages = passages_of(here, case)
    except (Unavailable, Rejected) as error:
        similar_problem = str(error)
        calibration = here.services.search.calibrations.current()
        found = tuple(
            Found(match.case, match.score, calibration.band(match.score), calibration.probability(match.score))
            for match in casebook.matches(case)
        )
    context = CasePage(
        case=case,
        found=found,
        fixes=report.likely[:FIXES] if report and report.closed > 1 else (),
        seen=report.recurrence if report and report.closed > 1 else None,
        passages=passages,
        new=report.new if report else not found or found[0].band == "weak",
        known=report.known if report else None,
        similar_problem=similar_problem,
        log=tuple(casebook.log(case)),
        evidence=tuple(casebook.evidence(case)),
        findings=tuple(casebook.findings(case)),
        impact=casebook.impact(case),
        days=here.services.settings.search.return_days,
        review=casebook.review_state(case, here.services.settings.intake.frigate_timeout_minutes),
        form=form or CloseForm(case.root_cause or "", case.resolution or "", case.outcome),
        problem=problem,
    )
    return here.render(context, "board" if case.status != "closed" else "history", status=422 if problem else 200)
