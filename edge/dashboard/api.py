"""The JSON API under `/api/v1`: for programs with a token, and for people who are signed in.

Every error is problem+json. `requires("read")` and its siblings also guard routers that are handed to `create_app`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from pydantic import Strict as StrictParse

from edge import __version__
from edge.cases import Case, Kind, Language, Outcome, Severity
from edge.cases.model import Status
from edge.contract import Limits
from edge.dashboard.accounts import ROLE_SCOPES, Scope, account_of, token_of
from edge.dashboard.services import NotAllowed, NotFound, NotSignedIn, Services, session_cookie
from edge.errors import Rejected, Unavailable
from edge.intake import accept_http
from edge.search import Answer, Asks, BadFilter, Band, Filters, Hit, Mode, Question, SearchEngine, Where
from edge.vectors import COLLECTIONS

#: Questions one call may bring.
BATCH_MAX = 1_000

#: Collections that tell of single workers.
PERSONAL = ("work_sequences", "worker_behaviors")


def requires(scope: Scope) -> Callable[[Request], str]:
    """A dependency: who calls, if they may do this. Raises `NotSignedIn` or `NotAllowed`."""

    def caller(request: Request) -> str:
        services: Services = request.app.state.services
        address = request.client.host if request.client else "unknown"
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            token = token_of(services.db, secret.strip())
            if token is None:
                services.rates.refused(address)
                raise NotSignedIn("This token is unknown or past its end. Make one with `edge account token`.")
            name, scopes = f"token {token.name}", token.scopes
        else:
            cookie = request.cookies.get(session_cookie(request, services.settings))
            account = account_of(services.db, services.settings.web, cookie, active=True) if cookie else None
            if account is None:
                services.rates.refused(address)
                raise NotSignedIn("Send a token as `Authorization: Bearer …`, or sign in.")
            name, scopes = account.username, ROLE_SCOPES[account.role]
            request.state.sees_people = account.at_least("supervisor")
        # A station that is told to wait would have to keep its events; how fast they come is the inbox's to bear.
        if (request.method, request.url.path) != ("POST", "/api/v1/events"):
            services.rates.called(name)
        if scope not in scopes:
            raise NotAllowed(f"This needs the scope {scope}.")
        return name

    return caller


def see_people(request: Request, collections: Sequence[str] | None = PERSONAL) -> None:
    """How people worked is for supervisors and above, and for programs that were given a token. Raises `NotAllowed`."""
    if not getattr(request.state, "sees_people", True) and set(collections or ()) & set(PERSONAL):
        raise NotAllowed("What workers did is shown to supervisors and above.")


def services_of(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


House = Annotated[Services, Depends(services_of)]
READS = Depends(requires("read"))
WRITES = Depends(requires("write"))


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


Names = Annotated[tuple[str, ...], Field(max_length=1_000)]


Bound = Annotated[float, StrictParse(strict=True)] | AwareDatetime


class WhereIn(Strict):
    """One condition on an indexed field: one of `any_of`, or bounds (numbers or times), or `last`, or `empty`."""

    field: Annotated[str, Field(min_length=1, max_length=200)]
    any_of: Annotated[tuple[StrictStr | StrictBool | StrictInt, ...], Field(max_length=1_000)] = ()
    gt: Bound | None = None
    gte: Bound | None = None
    lt: Bound | None = None
    lte: Bound | None = None
    last: Annotated[str | None, Field(description="Back from now: 30m, 24h, 7d, 2w.")] = None
    empty: bool | None = None


Conditions = Annotated[tuple[WhereIn, ...], Field(max_length=64)]


class FiltersIn(Strict):
    """Narrow the history; an empty list means any. `since` is inclusive, `until` exclusive, `last` such as "24h".

    All of `must`, none of `must_not` and, where `should` is not empty, at least one of it. `GET /api/v1/collections`
    names the fields of each collection.
    """

    kinds: tuple[Kind, ...] = ()
    statuses: tuple[Status, ...] = ()
    types: Names = ()
    severities: tuple[Severity, ...] = ()
    languages: tuple[Language, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    zone_ids: Names = ()
    camera_ids: Names = ()
    worker_ids: Names = ()
    tags: Names = ()
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    last: Annotated[str | None, Field(max_length=10)] = None
    must: Conditions = ()
    should: Conditions = ()
    must_not: Conditions = ()


class How(Strict):
    """How to rank. `collections` None: the cases. `threshold`: only results that score so much, 0..1. `diversity`: from 0,
    by likeness alone, to 1. `asks`: compare with one text of a case alone."""

    mode: Mode = Mode.HYBRID
    asks: Asks = "any"
    collections: Annotated[tuple[str, ...] | None, Field(max_length=5)] = None
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    limit: Annotated[int, Field(ge=1, le=1_000)] = 10


class SearchIn(How):
    text: Annotated[str, Field(min_length=1, max_length=4_000)]
    filters: FiltersIn = FiltersIn()
    offset: Annotated[int, Field(ge=0, le=1_000)] = 0


class NextIn(Strict):
    """`cursor`: as the answer before gave it."""

    cursor: Annotated[str, Field(min_length=1, max_length=100)]
    limit: Annotated[int, Field(ge=1, le=1_000)] = 10


class SimilarIn(How):
    """`filters` left out: closed cases."""

    filters: FiltersIn = FiltersIn(statuses=("closed",))


class QueryIn(Strict):
    qid: Annotated[str, Field(min_length=1, max_length=200)]
    text: Annotated[str, Field(min_length=1, max_length=4_000)]
    filters: FiltersIn = FiltersIn()


class BatchIn(How):
    queries: Annotated[tuple[QueryIn, ...], Field(min_length=1, max_length=BATCH_MAX)]


class CaseOut(BaseModel):
    """A case in all its facts. `id` is the record's own id. `outcome_by`: `appliance` or a person; in the case `recurred_as`
    the problem came back."""

    id: str
    kind: Kind
    status: Status
    type: str
    severity: Severity
    description: str
    language: Language
    root_cause: str | None
    resolution: str | None
    outcome: Outcome
    zone_id: str | None
    camera_id: str | None
    worker_id: str | None
    tags: tuple[str, ...]
    occurred_at: datetime
    last_seen_at: datetime
    occurrences: int
    closed_at: datetime | None
    minutes_to_restore: int | None
    outcome_by: str | None
    recurred_as: str | None
    overdue_at: datetime | None


class HeardOut(BaseModel):
    """How many people said what about this result, for this question or a close one."""

    same: int
    different: int
    helped: int


class RecordOut(BaseModel):
    """What is found outside the cases: a chunk of a document, a work sequence, a worker's pattern."""

    id: str
    title: str
    text: str
    language: str
    facts: dict[str, Any]


class MatchedOut(BaseModel):
    """A word of the question that the result holds. `inferred`: by meaning, across the languages. `worth`: its share of
    the question, 0..1."""

    asked: str
    found: str
    inferred: bool
    worth: float


class WhyOut(BaseModel):
    """`dense` + `words` + `vouched` = the score. `marks`: text → [start, end) in characters, to be highlighted.

    `cosines`: of each text, unweighted. `coverage`: the share of the question's words that the result holds. `vouched`:
    what likeness to the first results added. `place`,
    `camera`, `worker`: shared with the case that was asked about. `numbers`: machine and part numbers on both sides.
    """

    dense: float
    words: float
    vouched: float
    coverage: float
    cosines: dict[str, float]
    terms: list[MatchedOut]
    marks: dict[str, list[tuple[int, int]]]
    place: str | None
    numbers: tuple[str, ...]
    camera: bool
    worker: bool


class HitOut(BaseModel):
    """Either a `case` or a `record`. `by`: the text that answered best. `probability`: that it is the same problem, as
    calibrated; `band` says it in words. `heard`: what people said about it."""

    id: str
    collection: str
    score: float
    probability: float
    band: Band
    by: str
    case: CaseOut | None
    record: RecordOut | None
    why: WhyOut
    heard: HeardOut | None


class AnswerOut(BaseModel):
    """`cursor`: for `POST /api/v1/search/next`, which goes on in this very ranking; null on the last page."""

    results: list[HitOut]
    more: bool
    cursor: str | None
    milliseconds: float
    unread_tokens: int


class PairOut(BaseModel):
    id: str
    score: float


class EventOut(BaseModel):
    """`stored` is true once the event is committed; `duplicate`: it had been before."""

    source: str | None
    id: str | None
    stored: bool
    duplicate: bool
    reason: str | None


class ProblemOut(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


router = APIRouter(
    prefix="/api/v1",
    tags=["api"],
    responses={
        code: {"model": ProblemOut, "content": {"application/problem+json": {}}}
        for code in (401, 403, 404, 410, 422, 429, 503)
    },
)


@router.post("/search", dependencies=[READS])
def search(request: Request, house: House, asked: SearchIn) -> AnswerOut:
    """Past cases like a text, Thai or English. `offset` pages a ranking that is made anew; a cursor pages this one."""
    see_people(request, asked.collections)
    answer = house.search.search(question_from(asked, asked.text, asked.filters, offset=asked.offset))
    house.pace.add(answer.milliseconds)
    return answer_out(answer)


@router.post("/search/next", dependencies=[READS])
def search_next(house: House, asked: NextIn) -> AnswerOut:
    """The next page of an answer: nothing repeats and nothing is skipped, whatever has been added since. A ranking is
    kept for ten minutes; 410 afterwards."""
    return answer_out(house.search.next_page(asked.cursor, limit=asked.limit))


@router.post("/search/batch", dependencies=[READS])
def search_batch(request: Request, house: House, asked: BatchIn) -> dict[str, list[PairOut]]:
    """Many questions at once: qid → the ids and scores of its results."""
    see_people(request, asked.collections)
    return batch_of(house.search, asked)


@router.get("/cases/{record_id:path}/similar", dependencies=[READS])
def similar(house: House, record_id: str, limit: Annotated[int, Query(ge=1, le=100)] = 10) -> AnswerOut:
    """Past cases like this one, without itself."""
    return answer_out(house.search.similar(_case(house, record_id), limit=limit))


@router.post("/cases/{record_id:path}/similar", dependencies=[READS])
def similar_how(request: Request, house: House, record_id: str, asked: SimilarIn) -> AnswerOut:
    """Cases like this one, without itself, narrowed and ranked as a search is."""
    see_people(request, asked.collections)
    return similar_to(house.search, _case(house, record_id), asked)


@router.get("/cases/{record_id:path}", dependencies=[READS])
def case(house: House, record_id: str) -> CaseOut:
    return _out(_case(house, record_id))


async def _body(request: Request) -> bytes:
    return await request.body()


@router.post(
    "/events",
    status_code=201,
    dependencies=[WRITES],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        }
    },
)
def events(
    house: House,
    request: Request,
    topic: Annotated[str, Query(description="As over MQTT: root/site/area/line/cell/class/source")],
    body: Annotated[bytes, Depends(_body)],
) -> list[EventOut]:
    """One event as JSON, or many as NDJSON; or a CloudEvent, structured or binary (`ce-` headers).

    Answered after COMMIT: 201 means that they are safe.
    """
    said = request.headers.get("content-type", "")
    many = said.partition(";")[0].strip().lower().endswith("ndjson")
    items = [line for line in body.split(b"\n") if line.strip()] if many else [body]
    if not any(item.strip() for item in items):
        raise Rejected("There is no event in this request.")
    results = accept_http(
        house.db,
        topic,
        items,
        Limits.of(house.settings.intake),
        content_type="application/json" if many else said or "application/json",
        properties={
            name[3:]: unquote(value) for name, value in request.headers.items() if name.startswith("ce-") and not many
        },
    )
    return [EventOut(**asdict(result)) for result in results]


@router.get("/status", dependencies=[READS])
def status(house: House) -> dict[str, Any]:
    """What is waiting, what is indexed, and with which model."""
    found: dict[str, Any] = {"version": __version__, "counts": house.casebook.counts(), "search": None, "problem": None}
    try:
        found["search"] = house.search.status()
    except Unavailable as error:
        found["problem"] = str(error)
    return found


def filters_from(asked: FiltersIn) -> Filters:
    values = {name: getattr(asked, name) for name in FiltersIn.model_fields}
    for clause in ("must", "should", "must_not"):
        values[clause] = tuple(Where(**dict(where)) for where in values[clause])
    return Filters(**values)


def collections_from(names: Sequence[str] | None) -> tuple[str, ...]:
    """Raises `BadFilter` for a collection that is none."""
    for name in names or ():
        if name not in COLLECTIONS:
            raise BadFilter(
                f"There is no collection {name!r}. Known are {', '.join(COLLECTIONS)}.", "collections", COLLECTIONS
            )
    return tuple(names or ())


def question_from(asked: How, text: str, filters: FiltersIn, **more: Any) -> Question:
    return Question(
        text, filters_from(filters), asked.limit, mode=asked.mode, asks=asked.asks,
        collections=collections_from(asked.collections), threshold=asked.threshold, diversity=asked.diversity, **more,
    )  # fmt: skip


def similar_to(engine: SearchEngine, case: Case, asked: SimilarIn) -> AnswerOut:
    answer = engine.similar(
        case, limit=asked.limit, filters=filters_from(asked.filters), mode=asked.mode, asks=asked.asks,
        collections=collections_from(asked.collections), threshold=asked.threshold, diversity=asked.diversity,
    )  # fmt: skip
    return answer_out(answer)


def batch_of(engine: SearchEngine, asked: BatchIn) -> dict[str, list[PairOut]]:
    seen: set[str] = set()
    for query in asked.queries:
        if query.qid in seen:
            raise Rejected(f"The qid {query.qid} stands there twice.")
        seen.add(query.qid)
    questions = [question_from(asked, query.text, query.filters, explain=False) for query in asked.queries]
    answers = engine.search_many(questions)
    return {
        query.qid: [PairOut(id=hit.record.record_id, score=hit.score) for hit in answer.hits]
        for query, answer in zip(asked.queries, answers, strict=True)
    }


def _case(house: Services, record_id: str) -> Case:
    found = house.casebook.get(record_id) if "\x00" not in record_id else None
    if found is None:
        raise NotFound(f"There is no case {record_id}.")
    return found


def _out(case: Case) -> CaseOut:
    return CaseOut(id=case.record_id, **{name: getattr(case, name) for name in CaseOut.model_fields if name != "id"})


def answer_out(answer: Answer) -> AnswerOut:
    return AnswerOut(
        results=[_hit(hit) for hit in answer.hits],
        more=answer.more,
        cursor=answer.cursor,
        milliseconds=round(answer.milliseconds, 2),
        unread_tokens=answer.unread_tokens,
    )


def _hit(hit: Hit) -> HitOut:
    found, why = hit.record, hit.why
    case = found if isinstance(found, Case) else None
    record = None if isinstance(found, Case) else found
    return HitOut(
        id=found.record_id,
        collection=hit.collection,
        score=hit.score,
        probability=hit.probability,
        band=hit.band,
        by=hit.by,
        case=_out(case) if case else None,
        record=RecordOut(
            id=record.record_id, title=record.title, text=record.text, language=record.language, facts=dict(record.facts)
        ) if record else None,
        why=WhyOut(
            dense=why.dense, words=why.words, vouched=why.vouched, coverage=why.coverage, cosines=dict(why.cosines),
            terms=[MatchedOut(**asdict(term)) for term in why.terms],
            marks={name: [(span.start, span.end) for span in spans] for name, spans in why.marks.items()},
            place=why.place, numbers=why.numbers, camera=why.camera, worker=why.worker,
        ),
        heard=HeardOut(same=hit.heard.same, different=hit.heard.different, helped=hit.heard.helped)
        if hit.heard
        else None,
    )  # fmt: skip
