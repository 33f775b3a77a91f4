"""Buttons with which people teach the search, and how far its probabilities can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import Response

from edge.cases import Case
from edge.dashboard import urls
from edge.dashboard.contexts import CalibrationPage, Found, TeachFragment
from edge.dashboard.services import Here, NotFound, Visit
from edge.errors import Rejected
from edge.search import Hit, Said

router = APIRouter(include_in_schema=False)

#: Words of people on the page of the calibration, the latest.
LATEST = 20

SAYABLE: tuple[Said, ...] = ("same", "different", "helped")


def judged(here: Visit, hits: Sequence[Hit], about: Case | str) -> tuple[Found, ...]:
    """Hits as pages show them, with what this person said about each for `about`."""
    account = here.account
    mine = here.services.search.feedback.mine(account.username, [hit.case.id for hit in hits], about) if account else {}
    return tuple(
        Found(hit.case, hit.score, hit.band, hit.probability, hit.by, hit.why, hit.heard, mine.get(hit.case.id))
        for hit in hits
    )


@router.post(urls.FEEDBACK)
def feedback(
    here: Here,
    id: Annotated[str, Form()] = "",
    said: Annotated[str, Form()] = "",
    for_id: Annotated[str, Form()] = "",
    question: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = urls.BOARD,
) -> Response:
    """Say something about a result, or take it back ("withdrawn"). htmx gets the buttons as they now stand."""
    account = here.need("supervisor")
    book = here.services.search.feedback
    result = _case(here, id)
    about: Case | str = _case(here, for_id) if for_id else question
    wanted = next_said(said)
    if wanted is None:
        book.withdraw(account.username, result, about)
    else:
        book.say(account.username, wanted, result, about)
    here.services.changed()
    if not here.fragment:
        return here.go(urls.local(next))
    mine = book.mine(account.username, [result.id], about).get(result.id)
    text, itself = (about.description, about.id) if isinstance(about, Case) else (about, None)
    heard = book.heard(text, [result.id], here.services.search.calibrations.current(), itself=itself)
    return here.render(
        TeachFragment(
            id=result.record_id, for_id=for_id or None, question=question or None, mine=mine,
            heard=heard.get(result.id),
        )
    )  # fmt: skip


def next_said(said: str) -> Said | None:
    """What was said, None for a word taken back. Raises `Rejected` for anything else."""
    if said == "withdrawn":
        return None
    for known in SAYABLE:
        if said == known:
            return known
    raise Rejected(f"A result is the same, different, helped or withdrawn, not {said[:40]!r}.")


@router.get(urls.CALIBRATION)
def calibration_page(here: Here) -> Response:
    here.need()
    search = here.services.search
    found = search.calibrations.current()
    page = CalibrationPage(
        calibration=found,
        figures=found.figures,
        bins=found.figures.bins if found.figures else (),
        words=tuple(search.feedback.words(limit=LATEST)),
    )
    return here.render(page, "health")


def _case(here: Visit, record_id: str) -> Case:
    found = here.services.casebook.get(record_id) if "\x00" not in record_id else None
    if found is None:
        raise NotFound(f"There is no case {record_id[:200]!r}.")
    return found
