"""Migrations build what `schema.sql` says, all or nothing, and refuse what they do not know."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.resources import files

import psycopg
import pytest
import scratch

from edge.db import Database, behind, migrate
from edge.doors.postgres import binaries
from edge.errors import Rejected, Stop

SQL = files("edge.db")


@pytest.fixture
def empty(server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The DSN of a database in which there is nothing."""
    name = "empty_" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    with scratch.database(server, name) as made:
        yield made


def schema(dsn: str) -> str:
    """The schema as pg_dump writes it, without what differs from run to run."""
    done = subprocess.run(
        [binaries() / "pg_dump", "--schema-only", "--no-owner", "--no-privileges", f"--dbname={dsn}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = (line.rstrip() for line in done.stdout.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(("--", "\\", "SET ", "SELECT pg_catalog.")))


def tables(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {name for (name,) in rows}


def with_extra(monkeypatch: pytest.MonkeyPatch, sql: str, number: int = 9000) -> None:
    """As if the package held one more migration."""
    # The package's function hides the module of the same name.
    module = sys.modules[migrate.__module__]
    extra = (number, "extra", hashlib.sha256(sql.encode()).hexdigest(), sql)
    known = module._known()
    monkeypatch.setattr(module, "_known", lambda: sorted([*known, extra]))


def test_the_migrations_build_exactly_the_schema(server: str, empty: str, dsn: str) -> None:
    with psycopg.connect(empty) as connection:
        connection.execute(SQL.joinpath("schema.sql").read_text("utf-8").encode())
    assert schema(empty) == schema(dsn)


def test_a_database_is_built_once_and_then_left_alone(empty: str) -> None:
    with Database(empty).wait() as database:
        names = behind(database)
        assert names[0] == "0001_start"
        assert migrate(database) == names
        assert behind(database) == []
        assert migrate(database) == []


def test_migrations_are_numbered_without_gaps_and_leave_the_transaction_alone() -> None:
    found = sorted(file.name for file in SQL.joinpath("migrations").iterdir() if file.name.endswith(".sql"))
    assert [int(name[:4]) for name in found] == list(range(1, len(found) + 1))
    for name in found:
        text = re.sub(r"--.*", "", SQL.joinpath("migrations", name).read_text("utf-8"))
        # The body of a function begins and ends by itself.
        text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
        # Either would make a failure half-way stay; CONCURRENTLY and VACUUM refuse to run inside a transaction.
        assert not re.search(r"\b(BEGIN|COMMIT|ROLLBACK|CONCURRENTLY|VACUUM)\b", text, re.IGNORECASE), name


def test_one_that_fails_half_way_leaves_nothing(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_extra(monkeypatch, "CREATE TABLE half_way (id integer); SELECT 1 / 0;")
    with Database(empty).wait() as database:
        with pytest.raises(Rejected, match="division by zero"):
            migrate(database)
        assert tables(empty) == set(), "not even those before it: the old version still fits the old database"
        assert len(behind(database)) >= 2


def test_one_that_fails_later_leaves_the_database_as_it_was(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = schema(dsn)
    with_extra(monkeypatch, "ALTER TABLE cases ADD COLUMN half_way integer; SELECT 1 / 0;")
    with Database(dsn).wait() as database:
        with pytest.raises(Rejected, match="division by zero"):
            migrate(database)
        assert behind(database) == ["9000_extra"]
    assert schema(dsn) == before


def test_a_new_one_is_applied_to_a_database_in_use(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_extra(monkeypatch, "CREATE TABLE extra (id integer);")
    with Database(dsn).wait() as database:
        assert behind(database) == ["9000_extra"]
        assert migrate(database) == ["9000_extra"]
    assert "extra" in tables(dsn)


def test_an_applied_one_that_was_changed_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE migration SET checksum = 'other' WHERE number = 1")
    with Database(dsn).wait() as database, pytest.raises(Stop, match="0001_start was changed after it was applied"):
        migrate(database)


def test_a_database_of_a_newer_version_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO migration (number, name, checksum) VALUES (9999, 'future', 'x')")
    with Database(dsn).wait() as database, pytest.raises(Stop, match=r"newer version wrote this database.*9999"):
        migrate(database)


def test_two_at_once_build_it_once(empty: str) -> None:
    results: list[object] = []

    def run() -> None:
        with Database(empty).wait() as database:
            try:
                results.append(migrate(database))
            except Exception as error:
                results.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(isinstance(result, list) for result in results), results
    assert [bool(result) for result in results].count(True) == 1, results


def test_a_role_refuses_a_database_that_lacks_migrations(empty: str) -> None:
    from edge import config
    from edge.roles.parts import open_database

    settings = config.load(environ={"EDGE__DATABASE__DSN": empty})
    with pytest.raises(Stop, match=r"lacks \d+ migration.*edge migrate"):
        open_database(settings, name="test")
