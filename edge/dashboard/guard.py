"""What stands before every page: forged and too large requests are turned away, every answer gets its headers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.config import Settings
from edge.dashboard import urls

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

#: Nothing is loaded from elsewhere, nothing runs that is not a file of ours, and no other site may frame us.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

FORM_BYTES = 256 * 1024
API_BYTES = 64 * 1024 * 1024


class TooLarge(Exception):
    """The body grew past its limit while it was read."""


class Guard:
    """`refuse(scope, status, sentence)` makes the answer to a request that goes no further."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        registry: CollectorRegistry,
        refuse: Callable[[Scope, int, str], ASGIApp],
    ) -> None:
        self._app = app
        self._refuse = refuse
        self._document_bytes = settings.knowledge.max_mb * 2**20 + FORM_BYTES
        self._public = urlsplit(settings.web.public_url)
        self._seconds = Histogram(
            "edge_http_request_seconds",
            "Time to answer, by page.",
            ("method", "route"),
            registry=registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self._requests = Counter(
            "edge_http_requests",
            "Requests answered, by page and status.",
            ("method", "route", "status"),
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = Headers(scope=scope)
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(scope, MutableHeaders(scope=message))
            await send(message)

        try:
            app, body = self._app, receive
            limit = self._limit(scope["path"])
            if scope["method"] not in SAFE_METHODS and not self._ours(headers):
                app = self._refuse(scope, 403, "This request did not come from a page of this appliance.")
            elif _length(headers) > limit:
                app = self._refuse(scope, 413, f"The request is larger than {limit // 1024} KiB.")
            else:
                body = _counted(receive, limit)
            await app(scope, body, answer)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._seconds.labels(scope["method"], route).observe(time.perf_counter() - started)
            self._requests.labels(scope["method"], route, str(status)).inc()

    def _limit(self, path: str) -> int:
        if path == urls.KNOWLEDGE:
            return self._document_bytes
        return API_BYTES if path.startswith("/api/") else FORM_BYTES

    def _ours(self, headers: Headers) -> bool:
        """A browser says where a request began; a program with a token carries no cookie that could be abused."""
        if headers.get("authorization", "").lower().startswith("bearer ") and "cookie" not in headers:
            return True
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site in ("same-origin", "none")
        origin = urlsplit(headers.get("origin", ""))
        return bool(origin.netloc) and origin.netloc in (headers.get("host"), self._public.netloc)

    def _dress(self, scope: Scope, headers: MutableHeaders) -> None:
        for name, value in HEADERS.items():
            # Only a file that is shown by the browser's own viewer brings a policy of its own.
            headers.setdefault(name, value)
        if scope["scheme"] == "https" or self._public.scheme == "https":
            headers["Strict-Transport-Security"] = "max-age=31536000"
        if scope["path"].startswith("/static/"):
            stamped = b"v=" in scope["query_string"]
            headers["Cache-Control"] = "public, max-age=31536000, immutable" if stamped else "public, max-age=3600"
        else:
            headers.setdefault("Cache-Control", "no-store")


def _length(headers: Headers) -> int:
    declared = headers.get("content-length", "0")
    return int(declared) if declared.isdecimal() else 0


def _counted(receive: Receive, limit: int) -> Callable[[], Awaitable[Any]]:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise TooLarge
        return message

    return counted
