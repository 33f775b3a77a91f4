"""Looking back: ask in words, or browse what was closed."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import Response

from edge.dashboard import urls
from edge.dashboard.choices import Wanted
from edge.dashboard.contexts import Cited, Found, HistoryPage, ResultsFragment, SearchPage
from edge.dashboard.knowledge import passages_for
from edge.dashboard.services import Here
from edge.dashboard.teaching import judged
from edge.errors import Rejected, Unavailable
from edge.search import Question

router = APIRouter(include_in_schema=False)

#: Fixes above the results: the most reliable ones.
FIXES = 3

#: Results on a page, and how many a question may be paged through.
PER_PAGE, DEEPEST = 10, 100


@router.get(urls.SEARCH)
def search(here: Here, q: str = "", start: int = 0) -> Response:
    """Works as a plain form; htmx asks for the results alone."""
    here.need()
    services = here.services
    zones = services.plant.zones()
    wanted = Wanted.read(here.request.query_params, zones)
    text, start = q.strip(), min(max(start, 0), DEEPEST)
    found: tuple[Found, ...] = ()
    passages: tuple[Cited, ...] = ()
    milliseconds, cut, next_url, problem, report = None, False, None, None, None
    if text:
        try:
            question = Question(text, wanted.filters(zones), PER_PAGE, start)
            # Every page is cut from the same ranking, over every status. Later pages are read for cases; the fixes stood on
            # the first. Those of a single case stand with the case.
            answer, told = services.search.search_and_fixes(question, language=here.language)
            if start == 0:
                report = told
                passages = passages_for(services, text, zone_ids=wanted.zone_ids(zones))
        except (Rejected, Unavailable) as error:
            problem = str(error)
        else:
            services.pace.add(answer.milliseconds)
            found = judged(here, answer.hits, text)
            milliseconds, cut = answer.milliseconds, answer.unread_tokens > 0
            if answer.more and start + PER_PAGE < DEEPEST:
                next_url = urls.with_query(urls.SEARCH, q=text, start=start + PER_PAGE, **wanted.query())
    results: dict[str, Any] = {
        "asked": text,
        "found": found,
        # Later pages begin where the ranking has become thin; only the first can say that there is nothing.
        "nothing": start == 0 and (not found or (report.new if report else found[0].band == "weak")),
        "known": report.known if report else None,
        "fixes": report.likely[:FIXES] if report and report.closed > 1 else (),
        "seen": report.recurrence if report and report.closed > 1 else None,
        "passages": passages,
        "milliseconds": milliseconds,
        "cut": cut,
        "next_url": next_url,
        "problem": problem,
        "history_size": services.counts()["closed"],
        "filtered": wanted.any,
    }
    if here.fragment:
        return here.render(ResultsFragment(**results), "search")
    return here.render(SearchPage(**results, filters=wanted.form(here.texts, zones)), "search")


@router.get(urls.HISTORY)
def history(here: Here, before: str = "") -> Response:
    here.need()
    zones = here.services.plant.zones()
    wanted = Wanted.read(here.request.query_params, zones)
    filters = wanted.filters(zones)
    place = _place(before)
    page = here.services.casebook.history(
        kinds=filters.kinds,
        severities=filters.severities,
        languages=filters.languages,
        outcomes=filters.outcomes,
        zone_ids=filters.zone_ids,
        since=filters.since,
        before=place,
        limit=30,
    )
    following = None
    if page.before:
        mark = f"{page.before[0].isoformat()}~{page.before[1]}"
        following = urls.with_query(urls.HISTORY, before=mark, **wanted.query())
    context = HistoryPage(
        page.cases, wanted.form(here.texts, zones), wanted.any, paged=place is not None, next_url=following
    )
    return here.render(context, "history")


def _place(mark: str) -> tuple[datetime, UUID] | None:
    """Where a page of the history begins. A mark that was tampered with means the beginning."""
    moment, _, key = mark.partition("~")
    try:
        at = datetime.fromisoformat(moment)
        return (at, UUID(key)) if at.tzinfo else None
    except ValueError:
        return None
