"""The dashboard on a real database, with a search that can be told what to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from dashboard_parts import ORIGIN, PASSWORD, ToldSearch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from edge.cases import Casebook
from edge.config import Settings
from edge.dashboard import create_app
from edge.dashboard.accounts import Role, create_account
from edge.db import Database
from edge.embedding import Encoder


@pytest.fixture
def casebook(db: Database) -> Casebook:
    return Casebook(db)


@pytest.fixture
def told(casebook: Casebook, encoder: Encoder) -> ToldSearch:
    return ToldSearch(casebook, encoder)


@pytest.fixture
def app(settings: Settings, db: Database, casebook: Casebook, told: ToldSearch) -> FastAPI:
    return create_app(settings, db, casebook, told)  # type: ignore[arg-type]


@pytest.fixture
def nobody(app: FastAPI) -> Iterator[TestClient]:
    """A browser in English that has not signed in."""
    with TestClient(
        app, headers={"Origin": ORIGIN}, cookies={"andon_language": "en"}, follow_redirects=False
    ) as client:
        yield client


@pytest.fixture
def sign_in(app: FastAPI, db: Database) -> Iterator[Callable[[Role], TestClient]]:
    """A signed-in browser of each role."""
    clients: list[TestClient] = []

    def signed(role: Role) -> TestClient:
        create_account(db, role, PASSWORD, role)
        client = TestClient(app, headers={"Origin": ORIGIN}, cookies={"andon_language": "en"}, follow_redirects=False)
        clients.append(client)
        answer = client.post("/sign-in", data={"username": role, "password": PASSWORD})
        assert answer.status_code == 303
        return client

    yield signed
    for client in clients:
        client.close()
