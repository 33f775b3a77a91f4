"""What the pages stand on, and who is looking at them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Annotated, Generic, TypeVar
from zoneinfo import ZoneInfo

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from edge.cases import Casebook, Zone
from edge.config import Settings
from edge.dashboard import urls
from edge.dashboard.accounts import Account, Role, account_of
from edge.dashboard.contexts import Context, Frame
from edge.dashboard.rates import Rates
from edge.dashboard.render import Renderer
from edge.dashboard.texts import UI_LANGUAGES, Texts, UiLanguage
from edge.db import Database
from edge.errors import EdgeError
from edge.search import SearchEngine

T = TypeVar("T")

LANGUAGE_COOKIE = "andon_language"

#: Notices an address may ask for: anything else in `?done=` is ignored.
NOTICES = frozenset(
    {
        "job",
        "standard",
        "acknowledged",
        "closed",
        "reopened",
        "reported",
        "released",
        "password",
        "token-gone",
        "person",
        "person-changed",
        "incident",
        "judged",
        "hooks-again",
        "document-added",
        "document-replaced",
        "document-reinstated",
        "document-duplicate",
        "document-retired",
    }
)


class NotSignedIn(EdgeError):
    """The page is for people who are signed in."""


class NotAllowed(EdgeError):
    """The role of this account is not enough for it."""


class NotFound(EdgeError):
    """There is no such thing."""


class Kept(Generic[T]):
    """A value that all browsers may share for a moment, so that many boards cost the database no more than one."""

    def __init__(self, seconds: float, load: Callable[[], T]) -> None:
        self._seconds = seconds
        self._load = load
        self._lock = threading.Lock()
        self._until = 0.0
        self._value: T

    def __call__(self) -> T:
        with self._lock:
            if time.monotonic() >= self._until:
                self._value = self._load()
                self._until = time.monotonic() + self._seconds
            return self._value

    def forget(self) -> None:
        """Somebody changed something here: look again at once."""
        with self._lock:
            self._until = 0.0


class Plant:
    """Where the plant is and what its places are called."""

    def __init__(self, db: Database, casebook: Casebook) -> None:
        self._db = db
        self._site = Kept(30.0, self._read)
        self.zones = Kept[list[Zone]](10.0, casebook.zones)
        self._last: dict[str, str] = {"name_th": "", "name_en": "", "timezone": "UTC"}

    def _read(self) -> dict[str, str]:
        with self._db.transaction() as tx:
            return dict(tx.one("site_get") or self._last)

    def _get(self) -> dict[str, str]:
        # An error page must not fail for want of the site's name.
        with suppress(EdgeError):
            self._last = self._site()
        return self._last

    def timezone(self) -> tzinfo:
        name = self._get()["timezone"]
        return UTC if name == "UTC" else ZoneInfo(name)

    def name(self, language: UiLanguage) -> str:
        return self._get()[f"name_{language}"]


class Pace:
    """How long the latest searches took."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=50)
        self.count = 0

    def add(self, milliseconds: float) -> None:
        self._recent.append(milliseconds)
        self.count += 1

    def median(self) -> float | None:
        recent = sorted(self._recent)
        return recent[len(recent) // 2] if recent else None


@dataclass(frozen=True)
class Services:
    settings: Settings
    db: Database
    casebook: Casebook
    search: SearchEngine
    renderer: Renderer
    plant: Plant
    pace: Pace
    revision: Kept[str]
    counts: Kept[dict[str, int]]
    rates: Rates

    def changed(self) -> None:
        """A case was changed through this process: the next look at the board must show it."""
        self.revision.forget()
        self.counts.forget()


def secure(request: Request, settings: Settings) -> bool:
    """Whether the browser came over https, to us or to a proxy before us."""
    return request.url.scheme == "https" or settings.web.public_url.startswith("https://")


def session_cookie(request: Request, settings: Settings) -> str:
    """Its name. Cookies do not know ports: two appliances on one machine must not sign each other out."""
    return "__Host-andon" if secure(request, settings) else f"andon_{request.url.port or 80}"


class Visit:
    """One request by one person."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.services: Services = request.app.state.services
        self.language: UiLanguage = _language(request, self.services.settings)
        self.account: Account | None = None

    @property
    def texts(self) -> Texts:
        return self.services.renderer.texts[self.language]

    @property
    def fragment(self) -> bool:
        """htmx wants only the part that changes."""
        headers = self.request.headers
        return "hx-request" in headers and "hx-history-restore-request" not in headers

    @property
    def secret(self) -> str | None:
        return self.request.cookies.get(session_cookie(self.request, self.services.settings))

    def need(self, role: Role = "viewer") -> Account:
        """The account, if it may do this. Raises `NotSignedIn` or `NotAllowed`."""
        if self.account is None:
            raise NotSignedIn("Sign in first.")
        if not self.account.at_least(role):
            raise NotAllowed(f"This needs the role {role}.")
        return self.account

    def render(self, context: Context, section: str = "", *, status: int = 200) -> HTMLResponse:
        done = self.request.query_params.get("done")
        path, query = self.request.url.path, self.request.url.query
        frame = Frame(
            language=self.language,
            account=self.account,
            section=section,
            here=(f"{path}?{query}" if query else path) if self.request.method == "GET" else path,
            site=self.services.plant.name(self.language),
            notice=done if done in NOTICES else None,
        )
        return HTMLResponse(self.services.renderer.page(context, frame), status, headers={"Vary": "HX-Request, Cookie"})

    def go(self, address: str) -> Response:
        """After a form: a page that can be reloaded without doing it again."""
        return RedirectResponse(address, 303)


def visit(request: Request) -> Visit:
    """The dependency of every page: who is it, and in which language."""
    found = Visit(request)
    request.state.visit = found
    if found.secret:
        services = found.services
        # A board that refreshes itself is not a person at work: an idle session must be able to end.
        active = request.url.path not in (urls.BOARD_FRAGMENT, urls.HEALTH_FRAGMENT, urls.JOBS_FRAGMENT)
        found.account = account_of(services.db, services.settings.web, found.secret, active=active)
    return found


Here = Annotated[Visit, Depends(visit)]


def _language(request: Request, settings: Settings) -> UiLanguage:
    wanted = request.cookies.get(LANGUAGE_COOKIE, settings.web.language)
    return next((language for language in UI_LANGUAGES if language == wanted), settings.web.language)
