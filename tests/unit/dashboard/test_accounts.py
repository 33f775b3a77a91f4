"""Who may sign in, and what stops those who may not."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from dashboard_parts import PASSWORD
from fastapi import FastAPI
from fastapi.testclient import TestClient

from edge.config import Settings
from edge.dashboard import accounts
from edge.dashboard.accounts import Role
from edge.db import Database
from edge.errors import Rejected


def test_the_first_start_makes_one_account_and_writes_it_down_for_its_owner_only(db: Database, tmp_path: Path) -> None:
    file = accounts.ensure_first_account(db, tmp_path / "run")
    assert file is not None
    username, password = file.read_text("utf-8").splitlines()
    assert username == "admin"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert accounts.check_password(db, "admin", password)
    assert accounts.ensure_first_account(db, tmp_path / "run") is None
    assert list((tmp_path / "run").iterdir()) == [file]


@pytest.mark.parametrize("username", ["", "a", "-abc", "Upper", "space here", "x" * 64, "ก้อง"])
def test_a_bad_user_name_is_refused_in_words(db: Database, username: str) -> None:
    with pytest.raises(Rejected, match="user name"):
        accounts.create_account(db, username, PASSWORD, "viewer")


def test_a_short_password_and_a_taken_name_are_refused(db: Database) -> None:
    with pytest.raises(Rejected, match="10 to 200"):
        accounts.create_account(db, "nok", "short", "viewer")
    accounts.create_account(db, "nok", PASSWORD, "viewer")
    with pytest.raises(Rejected, match="taken"):
        accounts.create_account(db, "nok", PASSWORD, "viewer")


def test_secrets_are_stored_as_hashes_only(db: Database, settings: Settings) -> None:
    accounts.create_account(db, "nok", PASSWORD, "viewer")
    secret = accounts.sign_in(db, settings.web, "nok", PASSWORD, address="10.0.0.1", old=None)
    token = accounts.create_token(db, "scanner", ["read"], 30)
    with db.transaction() as tx:
        row = tx.one("account_get", username="nok")
    assert row is not None
    assert row["password_hash"].startswith("$argon2id$v=19$m=65536,")
    assert accounts.account_of(db, settings.web, secret, active=True) is not None
    assert accounts.account_of(db, settings.web, secret + "x", active=True) is None
    found = accounts.token_of(db, token)
    assert found is not None
    assert found.scopes == {"read"}
    assert accounts.token_of(db, token[:-1]) is None


def test_a_session_ends_when_another_begins_in_the_same_browser(db: Database, settings: Settings) -> None:
    accounts.create_account(db, "nok", PASSWORD, "viewer")
    first = accounts.sign_in(db, settings.web, "nok", PASSWORD, address="10.0.0.1", old=None)
    second = accounts.sign_in(db, settings.web, "nok", PASSWORD, address="10.0.0.1", old=first)
    assert second != first
    assert accounts.account_of(db, settings.web, first, active=True) is None
    assert accounts.account_of(db, settings.web, second, active=True) is not None


def test_a_new_password_ends_the_other_sessions(db: Database, settings: Settings) -> None:
    accounts.create_account(db, "nok", PASSWORD, "viewer")
    here = accounts.sign_in(db, settings.web, "nok", PASSWORD, address="10.0.0.1", old=None)
    there = accounts.sign_in(db, settings.web, "nok", PASSWORD, address="10.0.0.2", old=None)
    accounts.set_password(db, "nok", "another long one", keep_session=here)
    assert accounts.account_of(db, settings.web, here, active=True) is not None
    assert accounts.account_of(db, settings.web, there, active=True) is None
    assert not accounts.check_password(db, "nok", PASSWORD)


def test_a_disabled_account_is_out_at_once_and_stays_out(db: Database, settings: Settings) -> None:
    accounts.create_account(db, "nok", PASSWORD, "viewer")
    secret = accounts.sign_in(db, settings.web, "nok", PASSWORD, address="10.0.0.1", old=None)
    accounts.set_disabled(db, "nok", True)
    assert accounts.account_of(db, settings.web, secret, active=True) is None
    with pytest.raises(accounts.WrongPassword):
        accounts.sign_in(db, settings.web, "nok", PASSWORD, address="10.0.0.1", old=None)


def test_guessing_is_stopped_and_the_owner_elsewhere_is_not(db: Database, settings: Settings) -> None:
    accounts.create_account(db, "nok", PASSWORD, "viewer")
    for _ in range(accounts.TRIES_BOTH):
        with pytest.raises(accounts.WrongPassword):
            accounts.sign_in(db, settings.web, "nok", "wrong", address="10.0.0.9", old=None)
    with pytest.raises(accounts.TooManyTries):
        accounts.sign_in(db, settings.web, "nok", PASSWORD, address="10.0.0.9", old=None)
    assert accounts.sign_in(db, settings.web, "nok", PASSWORD, address="10.0.0.1", old=None)


def test_a_right_password_wipes_the_slate(db: Database, settings: Settings) -> None:
    accounts.create_account(db, "nok", PASSWORD, "viewer")
    for _ in range(3):
        for _ in range(accounts.TRIES_BOTH - 1):
            with pytest.raises(accounts.WrongPassword):
                accounts.sign_in(db, settings.web, "nok", "wrong", address="10.0.0.9", old=None)
        assert accounts.sign_in(db, settings.web, "nok", PASSWORD, address="10.0.0.9", old=None)


@pytest.mark.parametrize(
    ("scopes", "days", "words"),
    [([], 30, "scopes"), (["root"], 30, "scopes"), (["read"], 0, "days"), (["read"], 4000, "days")],
)
def test_a_bad_token_is_refused_in_words(db: Database, scopes: list[str], days: int, words: str) -> None:
    with pytest.raises(Rejected, match=words):
        accounts.create_token(db, "scanner", scopes, days)


def test_the_session_cookie_cannot_be_read_or_sent_by_others(nobody: TestClient, db: Database) -> None:
    accounts.create_account(db, "nok", PASSWORD, "viewer")
    answer = nobody.post("/sign-in", data={"username": "nok", "password": PASSWORD})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("andon_80=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_over_https_the_cookie_belongs_to_this_host_alone(app: FastAPI, db: Database) -> None:
    accounts.create_account(db, "nok", PASSWORD, "viewer")
    with TestClient(app, base_url="https://edge.plant", headers={"Origin": "https://edge.plant"}) as client:
        answer = client.post("/sign-in", data={"username": "nok", "password": PASSWORD}, follow_redirects=False)
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-andon=")
    assert "Secure" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie
    assert answer.headers["strict-transport-security"]


def test_a_wrong_password_is_said_without_telling_which_part_was_wrong(nobody: TestClient, db: Database) -> None:
    accounts.create_account(db, "nok", PASSWORD, "viewer")
    known = nobody.post("/sign-in", data={"username": "nok", "password": "wrong"})
    unknown = nobody.post("/sign-in", data={"username": "nobody", "password": "wrong"})
    assert known.status_code == unknown.status_code == 422
    assert known.text.replace("nok", "") == unknown.text.replace("nobody", "")


def test_signing_out_ends_the_session_on_the_server(sign_in: Callable[[Role], TestClient]) -> None:
    client = sign_in("viewer")
    cookie = client.cookies["andon_80"]
    assert client.get("/").status_code == 200
    client.post("/sign-out")
    client.cookies.set("andon_80", cookie)
    assert client.get("/").status_code == 303


def test_a_board_that_refreshes_itself_does_not_keep_a_session_alive(
    sign_in: Callable[[Role], TestClient], db: Database
) -> None:
    client = sign_in("viewer")
    with db.transaction() as tx:
        tx.script("UPDATE login_session SET last_seen_at = now() - interval '7 hours 59 minutes'")
    assert client.get("/board").status_code == 200
    with db.transaction() as tx:
        tx.script("UPDATE login_session SET last_seen_at = last_seen_at - interval '2 minutes'")
    assert client.get("/board").status_code == 401


def test_reading_a_page_does(sign_in: Callable[[Role], TestClient], db: Database) -> None:
    client = sign_in("viewer")
    with db.transaction() as tx:
        tx.script("UPDATE login_session SET last_seen_at = now() - interval '7 hours 59 minutes'")
    assert client.get("/search").status_code == 200
    with db.transaction() as tx:
        tx.script("UPDATE login_session SET last_seen_at = last_seen_at - interval '2 minutes'")
    assert client.get("/search").status_code == 200


def test_no_session_outlives_its_end(sign_in: Callable[[Role], TestClient], db: Database) -> None:
    client = sign_in("viewer")
    with db.transaction() as tx:
        tx.script("UPDATE login_session SET expires_at = now() - interval '1 second'")
    assert client.get("/").status_code == 303
