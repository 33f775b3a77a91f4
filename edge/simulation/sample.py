"""The sample history that ships with the appliance, through the same import as anybody's own."""

from __future__ import annotations

import tomllib
from collections.abc import Callable

from edge.config import Knowledge, resources
from edge.db import Database
from edge.embedding import Encoder
from edge.errors import Rejected, Stop
from edge.importing import BATCH, SourceRow, import_rows, read_rows
from edge.knowledge.library import Library, NewDocument


def load_sample(database: Database) -> int:
    """Store the sample history, idempotently. Returns how many cases were new. Raises `Stop` for a broken file."""
    rows: list[SourceRow] = []
    for file in sorted((resources() / "etc/sample/history").glob("*.jsonl")):
        rows += [SourceRow(len(rows) + row.number, row.values, row.error) for row in read_rows(file)]
    added = 0
    for start in range(0, len(rows), BATCH):
        for result in import_rows(database, rows[start : start + BATCH]):
            if result.result == "error":
                raise Stop(f"The sample history is broken at {result.id}: {result.message}")
            added += result.result == "added"
    return added


def load_sample_documents(database: Database, encoder: Callable[[], Encoder]) -> int:
    """Store the sample plant's SOPs, idempotently: a file that was ever loaded is left as people have left it since.

    `encoder` is called only when there is something to store. Returns how many documents were new. Raises `Stop` for a
    broken file.
    """
    folder = resources() / "etc/sample/knowledge"
    library = Library(database, Knowledge())
    try:
        rows = tomllib.loads((folder / "index.toml").read_text("utf-8"))["document"]
        files = {(folder / row["file"]).read_bytes(): row for row in rows}
        wanted = library.unknown(list(files))
        model = encoder() if wanted else None
        for data in wanted:
            row = files[data]
            new = NewDocument(
                row["file"], data, document_type=row["type"], zones=tuple(row["zones"]), tags=tuple(row["tags"]),
                version=row["version"], effective_date=row["effective"],
            )  # fmt: skip
            assert model is not None
            library.add(new, model, actor="appliance", ours=True)
    except (OSError, tomllib.TOMLDecodeError, KeyError, Rejected) as error:
        raise Stop(f"The documents of the sample plant are broken: {error}") from error
    return len(wanted)
