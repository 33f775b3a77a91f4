"""What went wrong, in words: a page for people, problem+json (RFC 9457) for programs. Never a traceback."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Scope

from edge.dashboard import urls
from edge.dashboard.contexts import ErrorPage
from edge.dashboard.guard import TooLarge
from edge.dashboard.rates import TooOften
from edge.dashboard.services import NotAllowed, NotFound, NotSignedIn, Visit
from edge.errors import Rejected, Unavailable
from edge.search import BadFilter, Gone

_log = logging.getLogger(__name__)

#: Status → the key of the words under `error.` in the locales.
CODES = {
    401: "session", 403: "forbidden", 404: "missing", 405: "missing", 410: "missing", 413: "large", 422: "rejected",
    429: "wait", 500: "fault", 503: "unavailable",
}  # fmt: skip


def problem(status: int, detail: str, *, retry_after: int | None = None, **more: Any) -> JSONResponse:
    """The one shape of every error of the API. `more`: members beyond those of RFC 9457."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **more}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


def refuse(scope: Scope, status: int, sentence: str) -> ASGIApp:
    """An answer to a request that got no further than the guard."""
    if scope["path"].startswith("/api/"):
        return problem(status, sentence)
    return Response(f"{sentence}\n", status, media_type="text/plain")


def answer(request: Request, status: int, sentence: str | None) -> Response:
    if request.url.path.startswith("/api/"):
        return problem(status, sentence or HTTPStatus(status).description, retry_after=3 if status == 503 else None)
    here: Visit = getattr(request.state, "visit", None) or Visit(request)
    if here.fragment and request.url.path in (urls.BOARD_FRAGMENT, urls.HEALTH_FRAGMENT):
        # The page that polls says so in its own banner and keeps what it shows.
        return Response(sentence, status, media_type="text/plain")
    response = here.render(ErrorPage(CODES.get(status, "fault"), sentence), status=status)
    if status == 503:
        response.headers["Retry-After"] = "3"
    return response


def unreadable(request: Request, first: dict[str, Any]) -> Response:
    """An answer to a body or a query that is not of the form asked for; `first`: the first error Pydantic found."""
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    while place and re.search(r"^(float|int|str|bool|datetime)$|[\[(]", place[-1]):
        # Which branch of a union it was; no field of that name was sent.
        place.pop()
    where = "" if first["type"] == "json_invalid" else ".".join(place)
    sentence = f"{where or 'The request'}: {first['msg']}."
    if not where or not request.url.path.startswith("/api/"):
        return answer(request, 422, sentence)
    more: dict[str, Any] = {"field": where}
    if first["type"] in ("literal_error", "enum"):
        # Pydantic names the choices in words alone: 'a', 'b' or 'c'.
        more["allowed"] = re.findall(r"'([^']*)'", first["ctx"]["expected"])
    return problem(422, sentence, **more)


def install(app: FastAPI) -> None:
    @app.exception_handler(Unavailable)
    def unavailable(request: Request, error: Unavailable) -> Response:
        return answer(request, 503, str(error))

    @app.exception_handler(Rejected)
    def rejected(request: Request, error: Rejected) -> Response:
        return answer(request, 422, str(error))

    @app.exception_handler(BadFilter)
    def bad_filter(request: Request, error: BadFilter) -> Response:
        if not request.url.path.startswith("/api/"):
            return answer(request, 422, str(error))
        return problem(422, str(error), field=error.field, allowed=list(error.allowed))

    @app.exception_handler(Gone)
    def gone(request: Request, error: Gone) -> Response:
        return answer(request, 410, str(error))

    @app.exception_handler(TooOften)
    def too_often(_: Request, error: TooOften) -> Response:
        return problem(429, str(error), retry_after=error.seconds)

    @app.exception_handler(NotFound)
    def not_found(request: Request, error: NotFound) -> Response:
        return answer(request, 404, str(error))

    @app.exception_handler(NotAllowed)
    def not_allowed(request: Request, error: NotAllowed) -> Response:
        return answer(request, 403, str(error))

    @app.exception_handler(NotSignedIn)
    def not_signed_in(request: Request, error: NotSignedIn) -> Response:
        path = request.url.path
        if path.startswith("/api/"):
            return problem(401, str(error))
        here: Visit = request.state.visit
        if path in (urls.BOARD_FRAGMENT, urls.HEALTH_FRAGMENT):
            return Response(str(error), 401, media_type="text/plain")
        back = path + (f"?{request.url.query}" if request.url.query else "")
        door = urls.with_query(urls.SIGN_IN, next=back if request.method == "GET" and back != urls.BOARD else "")
        if here.fragment:
            return Response(status_code=401, headers={"HX-Redirect": door})
        return RedirectResponse(door, 303)

    @app.exception_handler(TooLarge)
    def too_large(request: Request, _: TooLarge) -> Response:
        return answer(request, 413, "The request is too large.")

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return unreadable(request, error.errors()[0])

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> Response:
        return answer(request, error.status_code, None if error.status_code == 404 else str(error.detail))

    @app.exception_handler(Exception)
    def fault(request: Request, error: Exception) -> Response:
        _log.error("A page failed: %s %s (%s).", request.method, request.url.path, type(error).__name__)
        return answer(request, 500, None)
