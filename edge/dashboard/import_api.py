"""Past cases over HTTP, a batch at a time: what `edge import` talks to beside a running appliance."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from edge.dashboard.api import House, requires
from edge.importing import BATCH, SourceRow, import_rows

router = APIRouter(prefix="/api/v1", tags=["cases"])


class RowIn(BaseModel):
    """`number` is the row in the caller's file; `error` says that it could not even be read there."""

    model_config = ConfigDict(extra="forbid")

    number: int
    values: dict[str, Any]
    error: str | None = None


class ImportIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rows: Annotated[list[RowIn], Field(max_length=BATCH)]
    dry_run: bool = False


class RowOut(BaseModel):
    number: int
    id: str
    result: str
    message: str


@router.post("/import", dependencies=[Depends(requires("admin"))])
def import_batch(house: House, asked: ImportIn) -> list[RowOut]:
    """Check and store past cases by their own `id`. A repeat changes nothing."""
    rows = [SourceRow(row.number, row.values, row.error) for row in asked.rows]
    results = import_rows(house.db, rows, dry_run=asked.dry_run)
    return [RowOut(number=row.number, id=row.id, result=row.result, message=row.message) for row in results]
