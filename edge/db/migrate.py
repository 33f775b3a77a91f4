"""Plain, ordered, transactional migrations: `migrations/NNNN_name.sql`, each applied once, all or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files

from edge.db.database import Database
from edge.errors import Stop


def _known() -> list[tuple[int, str, str, str]]:
    """(number, name, checksum, sql), in order."""
    found = []
    for file in files("edge.db").joinpath("migrations").iterdir():
        if file.name.endswith(".sql"):
            text = file.read_text("utf-8")
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append((int(number), name, hashlib.sha256(text.encode()).hexdigest(), text))
    return sorted(found)


def migrate(database: Database) -> list[str]:
    """Apply what is missing, in one transaction, and return the names of what was applied.

    Two at once wait for each other. Raises `Stop` when an applied file was changed since, or when the database
    belongs to a newer version.
    """
    applied_now = []
    with database.transaction() as tx:
        tx.run("migration_lock")
        tx.run("migration_table")
        applied = {row["number"]: row for row in tx.all("migration_applied")}
        known = _known()
        _refuse_newer(applied, known)
        for number, name, checksum, sql in known:
            if number in applied:
                if applied[number]["checksum"] != checksum:
                    raise Stop(f"Migration {number:04d}_{name} was changed after it was applied. Restore its file.")
                continue
            tx.script(sql)
            tx.run("migration_record", number=number, name=name, checksum=checksum)
            applied_now.append(f"{number:04d}_{name}")
    return applied_now


def behind(database: Database) -> list[str]:
    """The names of migrations this version knows and the database does not have yet.

    Raises `Stop` for a database that a newer version wrote.
    """
    with database.transaction() as tx:
        if tx.value("migration_exists") is None:
            applied = set()
        else:
            applied = {row["number"] for row in tx.all("migration_applied")}
    known = _known()
    _refuse_newer(applied, known)
    return [f"{number:04d}_{name}" for number, name, *_ in known if number not in applied]


def _refuse_newer(applied: Iterable[int], known: Sequence[tuple[int, str, str, str]]) -> None:
    if unknown := sorted(set(applied) - {number for number, *_ in known}):
        raise Stop(f"A newer version wrote this database (migration {unknown[-1]:04d}). Install that version.")
