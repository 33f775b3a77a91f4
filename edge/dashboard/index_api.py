"""The index as JSON: collections, single points, and texts as vectors."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from edge.dashboard.api import READS, House, ProblemOut, Strict, requires, see_people
from edge.dashboard.services import NotFound
from edge.search.points import CollectionFacts
from edge.vectors import COLLECTIONS, Point

#: Texts one call may bring.
TEXTS_MAX = 256

ADMIN = Depends(requires("admin"))

Text = Annotated[str, Field(min_length=1, max_length=4_000)]

router = APIRouter(
    prefix="/api/v1",
    tags=["index"],
    responses={
        code: {"model": ProblemOut, "content": {"application/problem+json": {}}}
        for code in (401, 403, 404, 422, 429, 503)
    },
)


class EmbedIn(Strict):
    text: Text


class EmbedBatchIn(Strict):
    texts: Annotated[tuple[Text, ...], Field(min_length=1, max_length=TEXTS_MAX)]


class EmbeddingOut(BaseModel):
    """A unit vector. Only vectors of one fingerprint may be compared. `unread_tokens`: of a text that is too long."""

    model: str
    fingerprint: str
    dimension: int
    embedding: list[float]
    unread_tokens: int


class EmbeddingsOut(BaseModel):
    """In the order of the texts."""

    model: str
    fingerprint: str
    dimension: int
    embeddings: list[list[float]]
    unread_tokens: list[int]


class CollectionOut(BaseModel):
    """`indexed`: vectors in a graph, the others are scanned. `by_language`: points of each. `fields`: what filters take."""

    name: str
    fingerprint: str
    vectors: tuple[str, ...]
    dimension: int
    points: int
    indexed: int
    segments: int
    quantized: bool
    by_language: dict[str, int]
    fields: dict[str, str]


class PointOut(BaseModel):
    """`vectors` is null unless asked for."""

    id: str
    collection: str
    payload: dict[str, Any]
    vectors: dict[str, list[float]] | None


class DeletedOut(BaseModel):
    """`id`: of the point that was there."""

    id: str
    collection: str


@router.post("/embed", dependencies=[READS])
def embed(house: House, asked: EmbedIn) -> EmbeddingOut:
    """One text as the vector that searches compare."""
    index = house.search.index
    vectors, unread = index.embed([asked.text])
    return EmbeddingOut(
        model=index.model, fingerprint=index.fingerprint, dimension=vectors.shape[1], embedding=vectors[0].tolist(),
        unread_tokens=unread[0],
    )  # fmt: skip


@router.post("/embed/batch", dependencies=[READS])
def embed_batch(house: House, asked: EmbedBatchIn) -> EmbeddingsOut:
    """Many texts at once: each gets the vector that it gets alone."""
    index = house.search.index
    vectors, unread = index.embed(asked.texts)
    return EmbeddingsOut(
        model=index.model, fingerprint=index.fingerprint, dimension=vectors.shape[1], embeddings=vectors.tolist(),
        unread_tokens=unread,
    )  # fmt: skip


@router.get("/collections", dependencies=[READS])
def collections(house: House) -> list[CollectionOut]:
    """What the index holds for the encoder in use, and by which fields it can be narrowed."""
    return [_out(facts) for facts in house.search.index.collections()]


@router.get("/collections/{name}", dependencies=[READS])
def collection(house: House, name: str) -> CollectionOut:
    return _out(house.search.index.collection(_known(name)))


@router.get("/collections/{name}/points/{identity:path}", dependencies=[READS])
def point(
    request: Request,
    house: House,
    name: str,
    identity: str,
    vectors: Annotated[bool, Query(description="With its vectors.")] = False,
) -> PointOut:
    """One point, by its own id or by the id of its case."""
    see_people(request, [name])
    found = house.search.index.point(_known(name), identity, with_vectors=vectors)
    if found is None:
        raise _missing(name, identity)
    return PointOut(
        id=str(found.id), collection=name, payload=dict(found.payload), vectors=_plain(found) if vectors else None
    )


@router.delete("/collections/{name}/points/{identity:path}", dependencies=[ADMIN])
def delete_point(house: House, name: str, identity: str) -> DeletedOut:
    """Take a point out of the index. Its row stays in the database: the next reconciliation, or the next change of the
    row, brings the point back."""
    gone = house.search.index.delete(_known(name), identity)
    if gone is None:
        raise _missing(name, identity)
    return DeletedOut(id=str(gone), collection=name)


def _out(facts: CollectionFacts) -> CollectionOut:
    return CollectionOut(**asdict(facts))


def _plain(found: Point) -> dict[str, list[float]]:
    return {name: vector.tolist() for name, vector in found.vectors.items()}


def _known(name: str) -> str:
    if name not in COLLECTIONS:
        raise NotFound(f"There is no collection {name}. Known are {', '.join(COLLECTIONS)}.")
    return name


def _missing(name: str, identity: str) -> NotFound:
    return NotFound(f"There is no point {identity} in {name}.")
