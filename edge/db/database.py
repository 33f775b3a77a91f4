"""A pool of connections, transactions, and named statements from `sql/*.sql`."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool, PoolTimeout

from edge.errors import Rejected, Stop, Unavailable

Row = dict[str, Any]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@functools.cache
def statements() -> Mapping[str, str]:
    """Every named statement. A name is unique over all files; comments under `-- name:` say what it is for."""
    found: dict[str, str] = {}
    for file in sorted(files("edge.db").joinpath("sql").iterdir(), key=lambda entry: entry.name):
        _, *parts = _NAME.split(file.read_text("utf-8"))
        for name, body in zip(parts[::2], parts[1::2], strict=True):
            if name in found:
                raise Stop(f"The statement {name} is defined twice in edge/db/sql.")
            found[name] = body.strip()
    return found


class Transaction:
    """One open transaction. Every method runs a named statement with its parameters by name.

    Dictionaries are stored as jsonb. Raises `Rejected` for values the schema refuses, `Unavailable` when the
    connection is lost.
    """

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self._connection = connection

    def all(self, name: str, /, **params: Any) -> list[Row]:
        return self._execute(name, params).fetchall()

    def one(self, name: str, /, **params: Any) -> Row | None:
        return self._execute(name, params).fetchone()

    def value(self, name: str, /, **params: Any) -> Any:
        """The first column of the first row, or None."""
        row = self.one(name, **params)
        return None if row is None else next(iter(row.values()))

    def run(self, name: str, /, **params: Any) -> int:
        """The number of rows touched."""
        return self._execute(name, params).rowcount

    def many(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """The same statement for many rows, pipelined."""
        with self._connection.cursor() as cursor:
            cursor.executemany(statements()[name], [_adapt(row) for row in rows])

    def many_returning(self, name: str, rows: Iterable[Mapping[str, Any]]) -> list[Row | None]:
        """As `many`; the first returned row of each, None where a statement returned nothing."""
        results: list[Row | None] = []
        with self._connection.cursor() as cursor:
            cursor.executemany(statements()[name], [_adapt(row) for row in rows], returning=True)
            results.extend(cursor.fetchone() for _ in cursor.results())
        return results

    def script(self, sql: str) -> None:
        """A whole file of statements without parameters: migrations only."""
        self._connection.execute(sql.encode())

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What fails inside is undone, and the transaction goes on."""
        with wrapped(), self._connection.transaction():
            yield

    def _execute(self, name: str, params: Mapping[str, Any]) -> psycopg.Cursor[Row]:
        return self._connection.execute(statements()[name], _adapt(params))


class Database:
    """A bounded pool to one PostgreSQL.

    `timeout` (seconds) bounds the wait for a connection, a lock and a statement.
    """

    def __init__(self, dsn: str, *, size: int = 8, timeout: float = 10, name: str = "edge") -> None:
        if not dsn:
            raise Stop("No database is set: set EDGE__DATABASE__DSN, or start everything embedded with `edge run`.")
        self._dsn = dsn
        self._name = name
        self._timeout = timeout
        self._pool: ConnectionPool[psycopg.Connection[Row]] = ConnectionPool(
            dsn,
            min_size=1,
            max_size=size,
            timeout=timeout,
            open=False,
            name=name,
            # A restarted server leaves dead connections in the pool; the check replaces them before they are lent.
            check=ConnectionPool.check_connection,
            kwargs={
                "row_factory": dict_row,
                "application_name": name,
                "connect_timeout": max(2, int(timeout)),
                "options": f"-c statement_timeout={int(timeout * 3000)} -c lock_timeout={int(timeout * 1000)}"
                " -c timezone=UTC",
            },
        )

    def wait(self, patience: float = 15) -> Self:
        """Open the pool, waiting up to `patience` seconds for the server. Raises `Stop` in words."""
        deadline = time.monotonic() + patience
        while True:
            try:
                with psycopg.connect(self._dsn, connect_timeout=2) as connection:
                    version = connection.info.server_version
                break
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    reason = str(error).strip().splitlines()[-1]
                    raise Stop(f"PostgreSQL does not answer ({reason}). Check EDGE__DATABASE__DSN.") from error
                time.sleep(0.1)
            except psycopg.ProgrammingError as error:
                raise Stop(f"EDGE__DATABASE__DSN is not a valid connection string: {error}.") from error
        if version < 150000:
            raise Stop(f"PostgreSQL 15 or newer is needed, this one is {version // 10000}. Check EDGE__DATABASE__DSN.")
        self._pool.open()
        return self

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Commits when the block ends, rolls back when it raises."""
        with wrapped(), self._pool.connection() as connection:
            yield Transaction(connection)

    @contextmanager
    def listen(self, channel: str) -> Iterator[Listener]:
        """A connection of its own that hears NOTIFY on `channel`."""
        with wrapped(), psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as connection:
            connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
            yield Listener(connection)

    def stats(self) -> dict[str, int]:
        return dict(self._pool.get_stats())

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Listener:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def wait(self, seconds: float) -> bool:
        """True as soon as something was announced, False after `seconds`. Raises `Unavailable` when cut off."""
        with wrapped():
            return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))


@contextmanager
def wrapped() -> Iterator[None]:
    """Turn psycopg's exceptions into ours, once and here."""
    try:
        yield
    except (psycopg.errors.DiskFull, psycopg.errors.InsufficientResources) as error:
        raise Unavailable(f"PostgreSQL has no room left: {_first_line(error)}.") from error
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise Rejected(f"The database refuses this value: {_first_line(error)}.") from error
    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
        raise Unavailable(f"PostgreSQL does not answer: {_first_line(error)}.") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _adapt(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: Jsonb(value) if isinstance(value, dict) else value for key, value in params.items()}
