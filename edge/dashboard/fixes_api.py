"""What fixed it, as JSON: for a text and for a case."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from edge.cases import Case, Language
from edge.dashboard import api
from edge.dashboard.api import READS, FiltersIn, House, ProblemOut, Strict
from edge.dashboard.services import NotFound
from edge.search import Band, Fix, FixReport, Question
from edge.search.fixes import Trend

router = APIRouter(
    prefix="/api/v1",
    tags=["api"],
    responses={
        code: {"model": ProblemOut, "content": {"application/problem+json": {}}} for code in (401, 403, 404, 422, 503)
    },
)


class FixesIn(Strict):
    """`language`: in which the fixes are told where they can be; that of the text unless given.

    Statuses among the filters are passed over: fixes are read from closed cases, recurrence from all.
    """

    text: Annotated[str, Field(min_length=1, max_length=4_000)]
    filters: FiltersIn = FiltersIn()
    collections: tuple[str, ...] | None = None
    language: Language | None = None


class ShareOut(BaseModel):
    """A share between 0 and 1, with 95 % confidence."""

    low: float
    high: float


class FixOut(BaseModel):
    """`worked` of `tried` cases held; `unknown` more are counted in neither. `share`: null while nobody knows of any.

    `returned`: cases that came back within `search.return_days`, of `watched` whose days are over. `probability`: that the most
    similar case is the same problem. `cases`: most similar first; `told_by`: whose words `text` are.
    """

    text: str
    language: Language
    told_by: str
    worked: int
    tried: int
    unknown: int
    share: ShareOut | None
    median_minutes_to_restore: float | None
    returned: int
    watched: int
    last_used: datetime
    similarity: float
    probability: float
    cases: tuple[str, ...]


class PlaceOut(BaseModel):
    zone_id: str | None
    count: int


class RecurrenceOut(BaseModel):
    """`last_90_days` against the 90 before: `trend` is null where the numbers do not allow to say."""

    times: int
    first: datetime | None
    latest: datetime | None
    places: list[PlaceOut]
    last_90_days: int
    before_90_days: int | None
    trend: Trend | None


class FixesOut(BaseModel):
    """`known`: the probability that the history holds this problem; `new`: that is less likely than not.

    `closed`: like cases, of which `untold` name no fix.
    """

    new: bool
    known: float
    band: Band | None
    nearest: float | None
    closed: int
    untold: int
    fixes: list[FixOut]
    recurrence: RecurrenceOut
    milliseconds: float


@router.post("/fixes", dependencies=[READS])
def fixes(house: House, asked: FixesIn) -> FixesOut:
    """What fixed problems like this text, best first: worked of tried, how fast, and whether it came back."""
    question = Question(
        asked.text, api.filters_from(asked.filters), collections=api.collections_from(asked.collections)
    )
    return fixes_out(house.search.fixes(question, language=asked.language))


@router.get("/cases/{record_id:path}/fixes", dependencies=[READS])
def fixes_of_case(
    house: House,
    record_id: str,
    language: Annotated[Language | None, Query(description="th, en or mixed; that of the case unless given")] = None,
) -> FixesOut:
    """What fixed cases like this one, without itself."""
    return fixes_out(house.search.fixes(_case(house, record_id), language=language))


def _case(house: House, record_id: str) -> Case:
    found = house.casebook.get(record_id) if "\x00" not in record_id else None
    if found is None:
        raise NotFound(f"There is no case {record_id}.")
    return found


def fixes_out(report: FixReport) -> FixesOut:
    seen = report.recurrence
    return FixesOut(
        new=report.new,
        known=report.known,
        band=report.band,
        nearest=report.nearest,
        closed=report.closed,
        untold=report.untold,
        fixes=[_fix(fix) for fix in report.fixes],
        recurrence=RecurrenceOut(
            times=seen.times,
            first=seen.first,
            latest=seen.latest,
            places=[PlaceOut(zone_id=place.zone_id, count=place.count) for place in seen.places],
            last_90_days=seen.last,
            before_90_days=seen.before,
            trend=seen.trend,
        ),
        milliseconds=round(report.milliseconds, 2),
    )


def _fix(fix: Fix) -> FixOut:
    of = fix.interval
    share = ShareOut(low=round(of.low, 4), high=round(of.high, 4)) if of else None
    same = {name: getattr(fix, name) for name in FixOut.model_fields if hasattr(fix, name)}
    return FixOut(**same, share=share, median_minutes_to_restore=fix.median_minutes)
