"""Real parts for every test: PostgreSQL from the wheel, one server a test process, one fresh database a test."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import scratch
from playwright.sync_api import Browser, sync_playwright
from psycopg.conninfo import make_conninfo

from edge import config
from edge.config import Settings, resources
from edge.db import Database, migrate
from edge.doors.postgres import Postgres
from edge.embedding import Encoder, ensure_built
from edge.plant import load_plant

# In memory where there is room: a fresh database and a fresh index sync hundreds of files, and every test makes both.
# What must survive a power cut is tested on the data of a real appliance, not by the speed of this disk.
# The folder is this run's own, so that two runs at once do not tidy each other away.
_SHARED = "EDGE_TESTS_FOLDER"
if _SHARED not in os.environ:
    _memory = Path("/dev/shm")
    _roomy = _memory.is_dir() and shutil.disk_usage(_memory).free > 4 * 2**30
    os.environ[_SHARED] = tempfile.mkdtemp(prefix="et-", dir=_memory if _roomy else None)
tempfile.tempdir = os.environ[_SHARED]


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[_SHARED], ignore_errors=True)


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for Unix sockets (107 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="edge-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server(short_folder: Path) -> Iterator[str]:
    """The DSN of a running PostgreSQL."""
    settings = config.load(environ={"EDGE__DATA__DIR": str(short_folder / "pg")})
    postgres = Postgres(settings)
    dsn = postgres.start()
    yield dsn
    postgres.stop()


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """A migrated database with the sample plant, to be cloned in milliseconds."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE template_edge")
    dsn = make_conninfo(server, dbname="template_edge")
    with Database(dsn).wait() as database:
        migrate(database)
        load_plant(database, resources() / "etc/sample/plant.toml")
    return "template_edge"


@pytest.fixture
def dsn(server: str, template: str) -> Iterator[str]:
    """A fresh migrated database of its own."""
    with scratch.database(server, f"test_{next(_numbers)}", template) as made:
        yield made


@pytest.fixture
def db(dsn: str) -> Iterator[Database]:
    with Database(dsn).wait() as database:
        yield database


@pytest.fixture
def settings(tmp_path: Path, dsn: str) -> Settings:
    """Settings of an appliance of its own: fresh database, fresh data folder."""
    return config.load(environ={"EDGE__DATA__DIR": str(tmp_path / "data"), "EDGE__DATABASE__DSN": dsn})


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    """The model that ships, built once for all tests."""
    return Encoder.open(ensure_built(resources() / "models"))


CHROMIUM = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. One for every test of a process: Playwright refuses to be started a second time beside itself."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "These tests need Chromium: apt-get install chromium fonts-thai-tlwg"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(CHROMIUM))
        yield started
        started.close()
