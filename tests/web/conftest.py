"""A whole appliance with its dashboard in this process, and Debian's Chromium looking at it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page
from psycopg import connect
from psycopg.conninfo import make_conninfo

from edge import config
from edge.analytics import Interpreter
from edge.cases import Casebook
from edge.contract import Limits
from edge.dashboard import create_app
from edge.dashboard.accounts import create_account
from edge.db import Database
from edge.embedding import Encoder
from edge.indexing import Indexer
from edge.intake import Arrival, store
from edge.search import Matcher, SearchEngine
from edge.simulation import load_sample
from edge.vectors import EmbeddedStore

PASSWORD = "long enough to pass"


@dataclass(frozen=True)
class Appliance:
    """`report` publishes what a person typed, through the same inbox as any event."""

    url: str
    db: Database
    casebook: Casebook

    def report(self, event_id: str, text: str, place: str = "assembly/line-2/cell-1", severity: str = "medium") -> None:
        body = json.dumps({"id": event_id, "text": text, "severity": severity}, ensure_ascii=False).encode()
        store(self.db, [Arrival("mqtt", f"andon/demo/{place}/report/hand", body)], Limits())


@pytest.fixture(scope="session")
def appliance(
    server: str, template: str, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Appliance]:
    with connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE browsers TEMPLATE {template}")
    folder = tmp_path_factory.mktemp("appliance")
    settings = config.load(
        environ={"EDGE__DATA__DIR": str(folder), "EDGE__DATABASE__DSN": make_conninfo(server, dbname="browsers")}
    )
    stopping = threading.Event()
    with Database(settings.database.dsn.get_secret_value()).wait() as db, EmbeddedStore(folder / "vectors") as index:
        load_sample(db)
        casebook = Casebook(db)
        engine = SearchEngine(casebook, index, encoder, settings.search)
        indexer = Indexer(db, index, encoder)
        indexer.open()
        steps = (Interpreter(settings, db).step, indexer.step, Matcher(db, casebook, engine, limit=5).step)
        while indexer.step():
            pass
        for role in ("viewer", "supervisor", "engineer", "admin"):
            create_account(db, role, PASSWORD, role)  # type: ignore[arg-type]

        def work() -> None:
            while not stopping.is_set():
                # Each takes its turn: none may wait for another to run dry.
                found = [step() for step in steps]
                if not any(found):
                    stopping.wait(0.1)

        worker = threading.Thread(target=work)
        worker.start()
        server_ = uvicorn.Server(
            uvicorn.Config(create_app(settings, db, casebook, engine), port=0, log_level="warning", lifespan="off")
        )
        web = threading.Thread(target=server_.run)
        web.start()
        while not server_.started:
            time.sleep(0.02)
        port = server_.servers[0].sockets[0].getsockname()[1]
        yield Appliance(f"http://127.0.0.1:{port}", db, casebook)
        server_.should_exit = True
        web.join()
        stopping.set()
        worker.join()


Open = Callable[..., Page]


@pytest.fixture
def visit(appliance: Appliance, browser: Browser) -> Iterator[Open]:
    """`visit("engineer", "/search")`: a page in a browser of its own. Whatever it complains about fails the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def opened(
        role: str | None, path: str = "/", *, width: int = 1280, language: str = "en", script: bool = True
    ) -> Page:
        context = browser.new_context(
            base_url=appliance.url, viewport={"width": width, "height": 800}, java_script_enabled=script
        )
        contexts.append(context)
        context.add_cookies([{"name": "andon_language", "value": language, "url": appliance.url}])
        context.route(
            lambda url: not url.startswith(appliance.url),
            lambda route: (complaints.append(route.request.url), route.abort()),
        )
        page = context.new_page()
        page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if role:
            page.goto("/sign-in")
            page.fill("[name=username]", role)
            page.fill("[name=password]", PASSWORD)
            page.click("form.stack button")
            page.wait_for_url(f"{appliance.url}/")
        if not role or path != "/":
            page.goto(path)
        page.complaints = complaints  # type: ignore[attr-defined]
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints, complaints
