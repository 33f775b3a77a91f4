"""Databases of their own for tests, made and dropped."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import make_conninfo


@contextmanager
def database(server: str, name: str, template: str = "template1") -> Iterator[str]:
    """The DSN of a database that is dropped afterwards, whoever still holds it."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield make_conninfo(server, dbname=name)
    deadline = time.monotonic() + 30
    with psycopg.connect(server, autocommit=True) as connection:
        while True:
            try:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                return
            except psycopg.errors.InsufficientPrivilege:
                # An autovacuum worker is there. It belongs to the superuser, and goes by itself.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
