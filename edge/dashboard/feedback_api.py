"""What people said about results, as JSON: for terminals on the floor and for reports."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from edge.cases import Case
from edge.dashboard.api import READS, House, ProblemOut, Strict, requires
from edge.dashboard.services import NotFound, Services
from edge.errors import Rejected
from edge.search import Said, Topic, Word

router = APIRouter(
    prefix="/api/v1",
    tags=["api"],
    responses={
        code: {"model": ProblemOut, "content": {"application/problem+json": {}}} for code in (401, 403, 404, 422, 503)
    },
)

Caller = Annotated[str, Depends(requires("write"))]


class WordIn(Strict):
    """What somebody says about the result `id`, which was shown for the case `for_id` or for the question `question`.

    `topic` "fix": whether the fixes of two cases are one; there only same and different make sense.
    """

    id: Annotated[str, Field(min_length=1, max_length=200)]
    said: Said
    for_id: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    question: Annotated[str | None, Field(min_length=1, max_length=4_000)] = None
    topic: Topic = "problem"


class WordOut(BaseModel):
    """One thing said; `said` is "withdrawn" where a word was taken back. Words are only added, never changed."""

    number: int
    at: datetime
    actor: str
    topic: Topic
    said: str
    id: str
    for_id: str | None
    question: str | None


class BinOut(BaseModel):
    low: float
    high: float
    n: float
    said: float
    true: float


class CalibrationOut(BaseModel):
    """Which probability a score stands for. `origin`: generic, shipped, prior (measured here) or own (with people's
    words). `probabilities`: score → probability of the same problem. `bins`: the reliability table."""

    version: int | None
    at: datetime | None
    fingerprint: str
    origin: str
    probabilities: dict[str, float]
    n: float
    brier: float | None
    brier_of_chance: float | None
    judged_here: int
    bins: list[BinOut]


@router.post("/feedback", status_code=201)
def say(house: House, caller: Caller, asked: WordIn) -> WordOut:
    """Say that a result is the same problem, another one, or that its fix helped. It moves later searches."""
    result, about = _case(house, asked.id), _about(house, asked.for_id, asked.question)
    house.search.feedback.say(caller, asked.said, result, about, topic=asked.topic)
    return _latest(house, caller, result)


@router.delete("/feedback")
def withdraw(
    house: House,
    caller: Caller,
    id: Annotated[str, Query(max_length=200)],
    for_id: Annotated[str | None, Query(max_length=200)] = None,
    question: Annotated[str | None, Query(max_length=4_000)] = None,
    topic: Topic = "problem",
) -> WordOut:
    """Take one's own word back: a row of its own, which is answered. What was said stays to be read."""
    result = _case(house, id)
    house.search.feedback.withdraw(caller, result, _about(house, for_id, question), topic=topic)
    return _latest(house, caller, result)


@router.get("/feedback", dependencies=[READS])
def words(
    house: House,
    id: Annotated[str | None, Query(max_length=200, description="only what was said about this case")] = None,
    question: Annotated[str | None, Query(max_length=4_000)] = None,
    actor: Annotated[str | None, Query(max_length=200)] = None,
    before: Annotated[int | None, Query(description="the number of the last word of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> list[WordOut]:
    """What was said, latest first, words taken back too."""
    case = _case(house, id) if id is not None else None
    found = house.search.feedback.words(case=case, question=question, actor=actor, before=before, limit=limit)
    return [_out(word) for word in found]


@router.get("/calibration", dependencies=[READS])
def calibration(house: House) -> CalibrationOut:
    """How far the probabilities of the present model can be trusted, and what they were measured on."""
    found = house.search.calibrations.current()
    figures = found.figures
    return CalibrationOut(
        version=found.version,
        at=found.at,
        fingerprint=found.fingerprint,
        origin=found.origin,
        probabilities={f"{score / 20:.2f}": round(found.probability(score / 20), 4) for score in range(21)},
        n=figures.n if figures else 0,
        brier=figures.brier if figures else None,
        brier_of_chance=figures.chance if figures else None,
        judged_here=figures.own if figures else 0,
        bins=[
            BinOut(low=one.low, high=one.high, n=one.n, said=one.said, true=one.true)
            for one in (figures.bins if figures else ())
        ],
    )


def _latest(house: Services, caller: str, result: Case) -> WordOut:
    return _out(house.search.feedback.words(case=result, actor=caller, limit=1)[0])


def _out(word: Word) -> WordOut:
    return WordOut(
        number=word.id, at=word.at, actor=word.actor, topic=word.topic, said=word.said, id=word.id_of,
        for_id=word.for_id, question=word.question,
    )  # fmt: skip


def _about(house: Services, for_id: str | None, question: str | None) -> Case | str:
    if (for_id is None) == (question is None):
        raise Rejected("Say what the result was shown for: for_id or question, one of the two.")
    return _case(house, for_id) if for_id is not None else question or ""


def _case(house: Services, record_id: str) -> Case:
    found = house.casebook.get(record_id) if "\x00" not in record_id else None
    if found is None:
        raise NotFound(f"There is no case {record_id}.")
    return found
