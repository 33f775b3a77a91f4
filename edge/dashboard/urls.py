"""The one place that knows the addresses of pages."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode, urlsplit

BOARD = "/"
SEARCH = "/search"
REPORT = "/report"
HISTORY = "/history"
QUARANTINE = "/quarantine"
QUARANTINE_EXPORT = "/quarantine/export"
HEALTH = "/health"
ACCOUNT = "/account"
PEOPLE = "/people"
SIGN_IN = "/sign-in"
SIGN_OUT = "/sign-out"
LANGUAGE = "/language"
BOARD_FRAGMENT = "/board"
HEALTH_FRAGMENT = "/health/path"
HOOKS_AGAIN = "/health/webhooks"
FEEDBACK = "/feedback"
CALIBRATION = "/calibration"
KNOWLEDGE = "/knowledge"
SESSIONS = "/sessions"
WORKERS = "/workers"
STANDARDS = "/standards"
JOBS = "/jobs"
JOBS_FRAGMENT = "/jobs/runs"
API = "/api/v1"


def case(record_id: str, action: str = "", **query: Any) -> str:
    path = f"/cases/{quote(record_id, safe='')}"
    return with_query(f"{path}/{action}" if action else path, **query)


def document(id: str, action: str = "", passage: int | None = None, **query: Any) -> str:
    """`passage`: the one at which the page opens."""
    path = f"{KNOWLEDGE}/{id}"
    address = with_query(f"{path}/{action}" if action else path, **query)
    return f"{address}#p{passage}" if passage else address


def session(session_id: Any) -> str:
    return f"{SESSIONS}/{session_id}"


def worker(worker_id: str) -> str:
    return f"{WORKERS}/{quote(worker_id, safe='')}"


def with_query(path: str, **query: Any) -> str:
    """Parameters that are empty are left out, so that an address says only what was asked."""
    kept = {key: value for key, value in query.items() if value not in (None, "", [], ())}
    return f"{path}?{urlencode(kept, doseq=True)}" if kept else path


def local(path: str) -> str:
    """A path of this site to go back to; anything that could lead elsewhere becomes the board."""
    parts = urlsplit(path)
    safe = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return path if safe and not any(ord(letter) < 33 or letter == "\\" for letter in path) else BOARD
