"""Signing in and out, one's own account, tokens, and the accounts of others."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from edge.dashboard import accounts, urls
from edge.dashboard.contexts import AccountPage, PeoplePage, SignInPage
from edge.dashboard.services import LANGUAGE_COOKIE, Here, Visit, secure, session_cookie
from edge.dashboard.texts import UI_LANGUAGES
from edge.errors import Rejected, Unavailable

router = APIRouter(include_in_schema=False)


@router.get(urls.SIGN_IN)
def sign_in_page(here: Here, next: str = urls.BOARD) -> Response:
    if here.account:
        return here.go(urls.local(next))
    return here.render(SignInPage("", urls.local(next), None), "sign-in")


@router.post(urls.SIGN_IN)
def sign_in(
    here: Here,
    username: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = urls.BOARD,
) -> Response:
    settings = here.services.settings
    address = here.request.client.host if here.request.client else "unknown"
    status = 422
    try:
        secret = accounts.sign_in(
            here.services.db, settings.web, username.replace("\x00", ""), password, address=address, old=here.secret
        )
    except accounts.WrongPassword:
        problem = here.texts.t("sign_in.wrong")
    except accounts.TooManyTries:
        problem, status = here.texts.t("sign_in.wait", n=accounts.WINDOW_MINUTES), 429
    except Unavailable as error:
        problem, status = str(error), 503
    else:
        response = here.go(urls.local(next))
        response.set_cookie(
            session_cookie(here.request, settings),
            secret,
            max_age=settings.web.session_hours * 3600,
            secure=secure(here.request, settings),
            httponly=True,
            samesite="strict",
            path="/",
        )
        return response
    return here.render(SignInPage(username[:63], urls.local(next), problem), "sign-in", status=status)


@router.post(urls.SIGN_OUT)
def sign_out(here: Here) -> Response:
    if here.secret:
        accounts.sign_out(here.services.db, here.secret)
    response = here.go(urls.SIGN_IN)
    settings = here.services.settings
    response.delete_cookie(
        session_cookie(here.request, settings), secure=secure(here.request, settings), httponly=True, samesite="strict"
    )
    return response


@router.post(urls.LANGUAGE)
def language(request: Request, to: Annotated[str, Form()] = "", next: Annotated[str, Form()] = urls.BOARD) -> Response:
    here = Visit(request)
    response = here.go(urls.local(next))
    if to in UI_LANGUAGES:
        response.set_cookie(
            LANGUAGE_COOKIE, to, max_age=365 * 86_400, samesite="lax", secure=secure(request, here.services.settings)
        )
    return response


@router.get(urls.ACCOUNT)
def account_page(here: Here) -> Response:
    return _account(here)


def _account(here: Visit, *, secret: str | None = None, problem: str | None = None) -> Response:
    account = here.need()
    rows = accounts.tokens(here.services.db) if account.at_least("engineer") else []
    return here.render(AccountPage(account, tuple(rows), secret, problem), "account", status=422 if problem else 200)


@router.post(urls.ACCOUNT + "/password")
def change_password(here: Here, old: Annotated[str, Form()] = "", new: Annotated[str, Form()] = "") -> Response:
    account = here.need()
    if not accounts.check_password(here.services.db, account.username, old):
        return _account(here, problem=here.texts.t("account.old_wrong"))
    try:
        accounts.set_password(here.services.db, account.username, new, keep_session=here.secret)
    except Rejected as error:
        return _account(here, problem=str(error))
    return here.go(urls.with_query(urls.ACCOUNT, done="password"))


@router.post(urls.ACCOUNT + "/tokens")
def new_token(
    here: Here,
    name: Annotated[str, Form()] = "",
    scope: Annotated[str, Form()] = "read",
    days: Annotated[int, Form()] = 365,
) -> Response:
    account = here.need("engineer")
    # Nobody hands out more than they may do themselves.
    if scope not in accounts.ROLE_SCOPES[account.role]:
        return _account(here, problem=here.texts.t("account.scope_too_wide"))
    scopes = {"read": ["read"], "write": ["read", "write"], "admin": ["read", "write", "admin"]}[scope]
    try:
        secret = accounts.create_token(here.services.db, name.strip(), scopes, days)
    except Rejected as error:
        return _account(here, problem=str(error))
    return _account(here, secret=secret)


@router.post(urls.ACCOUNT + "/tokens/drop")
def drop_token(here: Here, name: Annotated[str, Form()] = "") -> Response:
    here.need("engineer")
    accounts.drop_token(here.services.db, name.replace("\x00", ""))
    return here.go(urls.with_query(urls.ACCOUNT, done="token-gone"))


@router.get(urls.PEOPLE)
def people_page(here: Here) -> Response:
    return _people(here)


def _people(here: Visit, problem: str | None = None) -> Response:
    account = here.need("admin")
    rows = tuple(accounts.accounts(here.services.db))
    page = PeoplePage(rows, accounts.ROLES, account.username, problem)
    return here.render(page, "people", status=422 if problem else 200)


@router.post(urls.PEOPLE)
def new_person(
    here: Here,
    username: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    role: Annotated[str, Form()] = "viewer",
) -> Response:
    here.need("admin")
    chosen: accounts.Role = next((known for known in accounts.ROLES if known == role), "viewer")
    try:
        accounts.create_account(here.services.db, username.strip().lower(), password, chosen)
    except Rejected as error:
        return _people(here, str(error))
    return here.go(urls.with_query(urls.PEOPLE, done="person"))


@router.post(urls.PEOPLE + "/{username}/{action}")
def switch_person(here: Here, username: str, action: str) -> Response:
    me = here.need("admin")
    if username == me.username or action not in ("disable", "enable"):
        return _people(here, here.texts.t("people.not_yourself"))
    try:
        accounts.set_disabled(here.services.db, username, action == "disable")
    except Rejected as error:
        return _people(here, str(error))
    return here.go(urls.with_query(urls.PEOPLE, done="person-changed"))
