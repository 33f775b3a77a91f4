"""The live board, and the form with which a person reports something."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import Response

from edge.cases import SEVERITIES, LiveCase, NewCase, Severity
from edge.dashboard import urls
from edge.dashboard.choices import places
from edge.dashboard.contexts import BoardFragment, BoardPage, Card, Choice, Counts, Found, ReportPage
from edge.dashboard.services import Here, Visit
from edge.embedding import detect_language
from edge.errors import Rejected
from edge.search import Calibration

router = APIRouter(include_in_schema=False)

#: Cards on the board. More open cases than this is an alarm flood; the oldest wait behind a line that says so.
SHOWN = 60

#: The type of a case a person opened in their own words.
REPORTED = "report"


@router.get(urls.BOARD)
def board_page(here: Here, area: str = "") -> Response:
    _may_look(here)
    return here.render(_board(BoardPage, here, area), "board")


@router.get(urls.BOARD_FRAGMENT)
def board_fragment(here: Here, area: str = "", revision: str = "") -> Response:
    """The board's moving part, or 204 where the browser shows it already."""
    _may_look(here)
    if revision and revision == _revision(here, area):
        return Response(status_code=204)
    return here.render(_board(BoardFragment, here, area), "board")


def _may_look(here: Visit) -> None:
    # A wall screen has nobody to sign in; the setting opens the board to it, and only the board.
    if not here.services.settings.web.open_board:
        here.need()


def _revision(here: Visit, area: str) -> str:
    services = here.services
    # The minute belongs to it because a card says "3 minutes ago".
    parts = (
        services.revision(),
        sorted(services.counts().items()),
        f"{datetime.now(UTC):%H%M}",
        here.language,
        area,
        here.account.role if here.account else "",
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _board(kind: type[BoardFragment], here: Visit, area: str) -> BoardFragment:
    services, texts = here.services, here.texts
    # Read before the cases: what changes in between is then shown twice rather than never.
    revision = _revision(here, area)
    zones = services.plant.zones()
    live = services.casebook.board(limit=SHOWN + 1)
    names = {zone.area_id: texts.area(zone) for zone in zones}
    area_of = {zone.id: zone.area_id for zone in zones}
    busy = Counter(area_of.get(entry.case.zone_id or "") for entry in live[:SHOWN])
    if area in names:
        wanted = [zone.id for zone in zones if zone.area_id == area]
        live = services.casebook.board(zone_ids=wanted, limit=SHOWN + 1)
    else:
        area = ""
    counts = services.counts()
    calibration = services.search.calibrations.current()
    return kind(
        cards=tuple(_card(entry, calibration) for entry in live[:SHOWN]),
        counts=Counts(
            open=counts["open"],
            acknowledged=counts["acknowledged"],
            closed=counts["closed"],
            quarantined=counts["quarantined"],
            waiting=counts["inbox_pending"] + counts["outbox_pending"],
        ),
        areas=(
            Choice("", texts.t("board.all_areas"), not area, counts["open"] + counts["acknowledged"]),
            *(Choice(code, name, code == area, busy[code]) for code, name in names.items()),
        ),
        area=area,
        revision=revision,
        full=len(live) > SHOWN,
    )


def _card(entry: LiveCase, calibration: Calibration) -> Card:
    found = [
        Found(match.case, match.score, calibration.band(match.score), calibration.probability(match.score))
        for match in entry.matches
    ]
    alike = [one for one in found if one.band != "weak"]
    best = alike[:1]
    if best and best[0].case.outcome != "held":
        # The nearest case tells what happens; what helps is a fix that lasted.
        best += [one for one in alike[1:] if one.case.outcome == "held"][:1]
    return Card(entry.case, tuple(best), tuple(one for one in found if one not in best), entry.indexed, entry.impact)


@router.get(urls.REPORT)
def report_page(here: Here, zone: str = "") -> Response:
    here.need("supervisor")
    return _report(here, zone=zone)


@router.post(urls.REPORT)
def report(
    here: Here,
    text: Annotated[str, Form()] = "",
    zone: Annotated[str, Form()] = "",
    severity: Annotated[str, Form()] = "medium",
) -> Response:
    account = here.need("supervisor")
    words = text.strip()
    known = {entry.id for entry in here.services.plant.zones()}
    if not words or len(words) > 4_000 or "\x00" in words:
        problem = here.texts.t("report.no_words" if not words else "report.too_long")
    elif zone not in known:
        problem = here.texts.t("report.no_zone")
    else:
        chosen: Severity = next((code for code in SEVERITIES if code == severity), "medium")
        try:
            case = here.services.casebook.open(
                NewCase(
                    kind="incident",
                    type=REPORTED,
                    severity=chosen,
                    origin="person",
                    description=words,
                    language=detect_language(words),
                    occurred_at=datetime.now(UTC),
                    zone_id=zone,
                ),
                actor=account.username,
            )
        except Rejected as error:
            problem = str(error)
        else:
            here.services.changed()
            return here.go(urls.case(case.record_id, done="reported"))
    return _report(here, text=text, zone=zone, severity=severity, problem=problem)


def _report(
    here: Visit, *, text: str = "", zone: str = "", severity: str = "medium", problem: str | None = None
) -> Response:
    found = places(here.texts, here.services.plant.zones(), chosen=zone)
    return here.render(ReportPage(found, text, severity, problem), "report", status=422 if problem else 200)
