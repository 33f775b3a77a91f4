"""The role that serves people and programs: dashboard and JSON API."""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import closing
from pathlib import Path

import uvicorn

from edge.config import Settings
from edge.dashboard import create_app
from edge.dashboard.accounts import create_token, ensure_first_account, token_of
from edge.dashboard.import_api import router as import_router
from edge.db import Database
from edge.doors.notify import notify
from edge.errors import EdgeError, Stop
from edge.roles.loop import BEAT, Stopping
from edge.roles.parts import FOLLOW, Parts, open_parts

_log = logging.getLogger(__name__)

#: The token of the command line on this box, in `run/local-token`: whoever may read the data folder may use it.
LOCAL_TOKEN = "local command line"  # noqa: S105


def web(settings: Settings) -> None:
    """Serve until told to stop. Raises `Stop` when the port is taken."""
    stopping = Stopping()
    listener = _listen(settings)
    with closing(open_parts(settings, name="web")) as parts:
        ensure_first_account(parts.database, settings.run_dir)
        _write_token(parts.database, settings.run_dir)
        app = create_app(settings, parts.database, parts.casebook, parts.engine, routers=[import_router])
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                # Behind a reverse proxy only the one on this box is believed.
                forwarded_allow_ips="127.0.0.1",
                timeout_graceful_shutdown=3,
                timeout_keep_alive=15,
                limit_concurrency=200,
            )
        )
        serving = threading.Thread(target=server.run, args=([listener],), name="web", daemon=True)
        serving.start()
        try:
            told = False
            following = threading.Thread(target=_follow, args=(parts, stopping.event), name="follow", daemon=True)
            following.start()
            while not stopping.event.wait(0.1 if not told else BEAT) and serving.is_alive():
                if server.started:
                    notify("WATCHDOG=1" if told else "READY=1")
                    told = True
        finally:
            notify("STOPPING=1")
            server.should_exit = True
            serving.join(timeout=5)
    if not stopping():
        raise Stop("The web server ended by itself; its reason stands above.")


def _follow(parts: Parts, stopping: threading.Event) -> None:
    """Beside the server: a new model takes seconds to load, and meanwhile the one there was goes on answering."""
    while not stopping.wait(FOLLOW):
        try:
            parts.follow()
        except EdgeError as error:
            _log.warning("Which index serves cannot be seen: %s", error)


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.web.host, settings.web.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        raise Stop(f"The dashboard cannot listen on {host}:{port} ({error.strerror}). Set EDGE__WEB__PORT.") from error
    return listener


def _write_token(database: Database, run_dir: Path) -> None:
    # The one there is stays while it is good: a command that runs beside us must survive our restart.
    try:
        known = (run_dir / "local-token").read_text("utf-8").strip()
    except OSError:
        known = ""
    if known and token_of(database, known) is not None:
        return
    secret = create_token(database, LOCAL_TOKEN, ["read", "write", "admin"], 3650)
    run_dir.mkdir(parents=True, exist_ok=True)
    part = run_dir / "local-token.partial"
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(secret)
    part.replace(run_dir / "local-token")
