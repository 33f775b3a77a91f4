"""The plant's documents: a shelf to look through and to fill, passages to cite, and the same for programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, File, Form, UploadFile
from fastapi.responses import Response
from pydantic import BaseModel

from edge.cases import Case
from edge.dashboard import urls
from edge.dashboard.api import READS, House, ProblemOut, requires
from edge.dashboard.choices import places
from edge.dashboard.contexts import Cited, DocumentPage, KnowledgePage, UploadForm
from edge.dashboard.services import Here, NotFound, Services, Visit
from edge.errors import Rejected
from edge.indexing import Entity
from edge.knowledge.library import DOCUMENT_TYPES, MEDIA_TYPES, Added, Document, Library, NewDocument
from edge.search import Filters, Question, Where

router = APIRouter(include_in_schema=False)
api_router = APIRouter(
    prefix="/api/v1/documents",
    tags=["documents"],
    responses={
        code: {"model": ProblemOut, "content": {"application/problem+json": {}}}
        for code in (401, 403, 404, 413, 422, 429, 503)
    },
)

#: Passages shown beside cases, one of each document.
SHOWN = 3

#: The probability from which a passage is shown. Lower than for cases: a chapter says in general what a case says once.
LEAST = 0.1

#: Browsers show a PDF with a viewer of their own, which a policy of nothing at all keeps empty.
_VIEWER = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"


def passages_for(services: Services, text: str, *, zone_ids: Sequence[str] = ()) -> tuple[Cited, ...]:
    """The passages that tell about `text`, the best of each document. `zone_ids`: those of these zones or of the whole plant.

    Raises as a search does.
    """
    anywhere = Where("zone_applicable", empty=True)
    narrowed = Filters(should=(Where("zone_applicable", tuple(zone_ids)), anywhere)) if zone_ids else Filters()
    answer = services.search.search(Question(text, narrowed, 10, collections=("knowledge_base",), taught=False))
    found: dict[str, Cited] = {}
    for hit in answer.hits:
        if not isinstance(hit.record, Entity) or hit.probability < LEAST:
            continue
        facts = hit.record.facts
        document = facts["document_id"]
        found.setdefault(
            document,
            Cited(
                title=hit.record.title,
                version=facts["document_version"],
                document_type=facts["document_type"],
                section=facts["section"],
                page=facts["page"],
                effective_date=date.fromisoformat(facts["effective_date"]) if facts["effective_date"] else None,
                language=hit.record.language,
                text=hit.record.text,
                url=urls.document(document, passage=facts["position"]),
                original_url=_original_url(document, facts["format"], facts["page"]),
                why=hit.why,
            ),
        )
    return tuple(found.values())[:SHOWN]


def passages_of(here: Visit, case: Case) -> tuple[Cited, ...]:
    """The passages that apply to a case: by its symptom, in its zone. Raises as a search does."""
    return passages_for(here.services, case.description, zone_ids=(case.zone_id,) if case.zone_id else ())


# --- pages ----------------------------------------------------------------------------------------------------------


@router.get(urls.KNOWLEDGE)
def shelf(here: Here, retired: str = "") -> Response:
    here.need()
    return _shelf(here, retired=bool(retired))


@router.post(urls.KNOWLEDGE)
def upload(
    here: Here,
    file: Annotated[UploadFile, File()],
    title: Annotated[str, Form()] = "",
    document_type: Annotated[str, Form()] = "sop",
    zones: Annotated[list[str] | None, Form()] = None,
    version: Annotated[str, Form()] = "",
    effective_date: Annotated[str, Form()] = "",
    tags: Annotated[str, Form()] = "",
) -> Response:
    account = here.need("engineer")
    form = UploadForm(title, document_type, tuple(zones or ()), version, effective_date, tags)
    try:
        added = _add(
            here.services, file, actor=account.username, title=title, document_type=document_type, zones=zones or (),
            version=version, effective_date=effective_date, tags=tags.split(","),
        )  # fmt: skip
    except Rejected as error:
        return _shelf(here, form=form, problem=str(error))
    return here.go(urls.document(str(added.document.id), done=f"document-{added.result}"))


@router.get("/knowledge/{id}")
def document_page(here: Here, id: UUID) -> Response:
    here.need()
    document = _document(here.services, id)
    library = _library(here.services)
    named = {zone.id: here.texts.short_place_of(zone) for zone in here.services.plant.zones()}
    context = DocumentPage(
        document=document,
        parts=tuple(library.passages(id)),
        versions=tuple(library.versions(document)),
        zones=tuple(named.get(zone, zone) for zone in document.zones),
        original_url=urls.document(str(id), "original"),
    )
    return here.render(context, "knowledge")


@router.get("/knowledge/{id}/original")
def original_page(here: Here, id: UUID) -> Response:
    here.need()
    return _original(here.services, id)


@router.post("/knowledge/{id}/retire")
def retire_page(here: Here, id: UUID) -> Response:
    account = here.need("engineer")
    _document(here.services, id)
    _library(here.services).retire(id, actor=account.username)
    return here.go(urls.document(str(id), done="document-retired"))


def _shelf(
    here: Visit, *, retired: bool = False, form: UploadForm | None = None, problem: str | None = None
) -> Response:
    knowledge = here.services.settings.knowledge
    zones = here.services.plant.zones()
    context = KnowledgePage(
        documents=tuple(_library(here.services).documents(retired=retired)),
        retired=retired,
        places=places(here.texts, zones),
        types=DOCUMENT_TYPES,
        form=form or UploadForm(),
        max_mb=knowledge.max_mb,
        max_pages=knowledge.max_pages,
        problem=problem,
    )
    return here.render(context, "knowledge", status=422 if problem else 200)


# --- for programs ---------------------------------------------------------------------------------------------------


class PassageOut(BaseModel):
    """`section`: the headings above, outermost first. `page`: where it begins."""

    position: int
    section: str
    page: int | None
    language: str
    text: str


class DocumentOut(BaseModel):
    """`zones` empty: for the whole plant. `retired_at` null: this version is in force. `empty_pages`: pictures."""

    id: UUID
    title: str
    version: str
    document_type: str
    language: str
    zones: tuple[str, ...]
    tags: tuple[str, ...]
    effective_date: date | None
    file_name: str
    format: str
    pages: int | None
    empty_pages: tuple[int, ...]
    bytes: int
    passages: int
    added_by: str
    added_at: datetime
    retired_by: str | None
    retired_at: datetime | None


class WholeDocumentOut(DocumentOut):
    text: list[PassageOut]


class AddedOut(BaseModel):
    """`result`: added, replaced (an earlier version, named by `replaced`), reinstated or duplicate."""

    result: str
    replaced: str | None
    document: DocumentOut


@api_router.post("", status_code=201)
def add(
    house: House,
    actor: Annotated[str, Depends(requires("write"))],
    file: Annotated[UploadFile, File(description="PDF, DOCX, TXT or Markdown")],
    title: Annotated[str, Form()] = "",
    document_type: Annotated[str, Form()] = "sop",
    zones: Annotated[list[str] | None, Form()] = None,
    version: Annotated[str, Form()] = "",
    effective_date: Annotated[str, Form()] = "",
    tags: Annotated[list[str] | None, Form()] = None,
) -> AddedOut:
    """Add a document, or a new version of one with the same title; the version before retires. A file that is there
    already changes nothing."""
    added = _add(
        house, file, actor=actor, title=title, document_type=document_type, zones=zones or (), version=version,
        effective_date=effective_date, tags=tags or (),
    )  # fmt: skip
    return AddedOut(result=added.result, replaced=added.replaced, document=_out(added.document))


@api_router.get("", dependencies=[READS])
def listed(house: House, retired: bool = False) -> list[DocumentOut]:
    """The documents in force, by title; with `retired` every version there was."""
    return [_out(document) for document in _library(house).documents(retired=retired)]


@api_router.get("/{id}", dependencies=[READS])
def one(house: House, id: UUID) -> WholeDocumentOut:
    """A document and its passages."""
    document = _document(house, id)
    text = [PassageOut(**_values(part, PassageOut)) for part in _library(house).passages(id)]
    return WholeDocumentOut(**_values(document, DocumentOut), text=text)


@api_router.get("/{id}/original", dependencies=[READS], response_class=Response)
def original(house: House, id: UUID) -> Response:
    """The file as it came."""
    return _original(house, id)


@api_router.delete("/{id}")
def retire(house: House, id: UUID, actor: Annotated[str, Depends(requires("write"))]) -> DocumentOut:
    """Take a document out of force. It leaves the index and stays readable."""
    _document(house, id)
    _library(house).retire(id, actor=actor)
    return _out(_document(house, id))


def _library(services: Services) -> Library:
    return Library(services.db, services.settings.knowledge)


def _document(services: Services, id: UUID) -> Document:
    found = _library(services).get(id)
    if found is None:
        raise NotFound(f"There is no document {id}.")
    return found


def _add(
    services: Services, file: UploadFile, *, actor: str, title: str, document_type: str, zones: Sequence[str],
    version: str, effective_date: str, tags: Sequence[str],
) -> Added:  # fmt: skip
    try:
        effective = date.fromisoformat(effective_date) if effective_date else None
    except ValueError as error:
        raise Rejected(f"{effective_date!r} is no date: write 2026-03-05.") from error
    if not file.filename:
        raise Rejected("Choose a file first.")
    # One byte more than is taken: enough to be told that it is too large.
    data = file.file.read(services.settings.knowledge.max_mb * 2**20 + 1)
    new = NewDocument(
        file.filename, data, title.strip() or None, document_type, tuple(zones), tuple(tags), version.strip() or None,
        effective,
    )  # fmt: skip
    return _library(services).add(new, services.search.encoder, actor=actor)


def _original(services: Services, id: UUID) -> Response:
    found = _library(services).original(id)
    if found is None:
        raise NotFound(f"There is no document {id}.")
    # A browser shows what it can show; Word's files it could only guess at.
    shown = "attachment" if found.format == "docx" else "inline"
    headers = {
        "Content-Disposition": f"{shown}; filename*=UTF-8''{quote(found.file_name, safe='')}",
        "Content-Security-Policy": _VIEWER,
    }
    return Response(found.data, media_type=MEDIA_TYPES[found.format], headers=headers)


def _original_url(document: str, format: str, page: int | None) -> str | None:
    """The very page of a PDF; None for a format that opens nowhere in particular."""
    return f"{urls.document(document, 'original')}#page={page}" if format == "pdf" and page else None


def _out(document: Document) -> DocumentOut:
    return DocumentOut(**_values(document, DocumentOut))


def _values(found: object, model: type[BaseModel]) -> dict[str, Any]:
    return {name: getattr(found, name) for name in model.model_fields}
