"""Work on the stores themselves, while no appliance runs on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edge.config import Settings
from edge.dashboard import api
from edge.dashboard.api import FiltersIn
from edge.db import Database
from edge.doors import child
from edge.doors.postgres import Postgres
from edge.errors import Rejected
from edge.importing import RowResult, SourceRow, import_rows
from edge.roles.desk import read_card
from edge.roles.parts import Parts, open_parts
from edge.roles.prepare import open_database, prepare


@contextlib.contextmanager
def alone(settings: Settings) -> Iterator[Parts]:
    """Open the stores themselves: Postgres is started if it is embedded. Nobody else may run on the same data."""
    with contextlib.ExitStack() as stack:
        parts = open_parts(stack.enter_context(_started(settings)), name="command")
        stack.callback(parts.close)
        parts.indexer.open()
        yield parts


@contextlib.contextmanager
def beside_or_alone(settings: Settings) -> Iterator[Parts]:
    """The stores of the appliance that runs on these data, shared with it, or else opened for us alone.

    Nothing is changed by opening them.
    """
    with contextlib.ExitStack() as stack:
        card = read_card(settings)
        if card is not None:
            vectors = settings.vectors.model_copy(update={"url": card["vectors"]})
            settings = settings.with_dsn(card["dsn"]).model_copy(update={"vectors": vectors})
        else:
            settings = stack.enter_context(_started(settings))
        parts = open_parts(settings, name="command")
        stack.callback(parts.close)
        yield parts


@contextlib.contextmanager
def database_of(settings: Settings) -> Iterator[Database]:
    """The database alone: the running appliance's own, or the one of the settings, or ours, started for this."""
    with contextlib.ExitStack() as stack:
        card = read_card(settings)
        if card is not None and not settings.database.dsn.get_secret_value():
            settings = settings.with_dsn(card["dsn"])
        else:
            settings = stack.enter_context(_started(settings))
        yield stack.enter_context(open_database(settings, name="command"))


@contextlib.contextmanager
def _started(settings: Settings) -> Iterator[Settings]:
    """The settings with a database that answers and is migrated."""
    if settings.database.dsn.get_secret_value():
        yield settings
        return
    settings.data.dir.mkdir(parents=True, exist_ok=True)
    with (
        child.exclusive(
            settings.data.dir / "lock",
            lambda pid: f"An appliance is starting or stopping on {settings.data.dir} (process {pid}). Try again.",
        ),
        Postgres(settings) as dsn,
    ):
        settings = settings.with_dsn(dsn)
        prepare(settings)
        yield settings


class Alone:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def search(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        wanted = _checked(api.SearchIn, asked)
        question = api.question_from(wanted, wanted.text, wanted.filters, offset=wanted.offset)
        return api.answer_out(self._parts.engine.search(question)).model_dump(mode="json")

    def batch(self, asked: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        found = api.batch_of(self._parts.engine, _checked(api.BatchIn, asked))
        return {qid: [pair.model_dump() for pair in pairs] for qid, pairs in found.items()}

    def similar(self, record_id: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        case = self._parts.casebook.get(record_id)
        if case is None:
            raise Rejected(f"There is no case {record_id}.")
        return api.similar_to(self._parts.engine, case, _checked(api.SimilarIn, asked)).model_dump(mode="json")

    def import_batch(self, rows: Sequence[SourceRow], *, dry_run: bool) -> list[RowResult]:
        return import_rows(self._parts.database, rows, dry_run=dry_run)

    def settle(self) -> Iterator[int]:
        while self._parts.indexer.step(64):
            yield self._parts.casebook.counts()["outbox_pending"]


M = TypeVar("M", bound=BaseModel)


def _checked(model: type[M], asked: Mapping[str, Any]) -> M:
    try:
        return model.model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = FiltersIn if "filters" in first["loc"] else model
            raise Rejected(f"{where} is not known. Known are {', '.join(known.model_fields)}.") from error
        raise Rejected(f"{where} is wrong: {first['msg'][0].lower()}{first['msg'][1:]}.") from error
