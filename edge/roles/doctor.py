"""What a machine needs, checked one by one, each with what to do about it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from edge.config import Settings, resources
from edge.db import Database
from edge.doors.mosquitto import busy, find
from edge.doors.postgres import binaries
from edge.errors import EdgeError
from edge.roles.parts import open_encoder
from edge.roles.run import FREE_BYTES
from edge.search.calibration import Calibrations, shipped


@dataclass(frozen=True)
class Check:
    """One finding. `ok` is None for what these settings do not use; `advice` says what to do when it is False."""

    name: str
    ok: bool | None
    detail: str
    advice: str = ""


def doctor(settings: Settings) -> list[Check]:
    """Check everything, in the order a person would mend it. Never raises; a check that hangs is cut off."""
    card = _card(settings)
    checks: list[tuple[str, float, Callable[[], Check]]] = [
        ("Python", 5, _python),
        ("Packages", 10, _packages),
        ("Clock", 5, _clock),
        ("Data directory", 5, lambda: _data(settings)),
        ("Dashboard port", 5, lambda: _web_port(settings, card)),
        ("PostgreSQL", 10, lambda: _postgres(settings)),
        ("Database", 15, lambda: _database(settings)),
        ("mosquitto", 10, lambda: _mosquitto(settings)),
        ("Broker", 10, lambda: _broker(settings)),
        ("Vector server", 10, lambda: _vectors(settings)),
        ("Model", 120, lambda: _model(settings)),
        ("Calibration", 30, lambda: _calibration(settings, card)),
        ("Running appliance", 15, lambda: _running(settings, card)),
    ]
    return [_bounded(name, seconds, check) for name, seconds, check in checks]


def _bounded(name: str, seconds: float, check: Callable[[], Check]) -> Check:
    answer: queue.SimpleQueue[Check] = queue.SimpleQueue()

    def examine() -> None:
        try:
            answer.put(check())
        except EdgeError as error:
            sentence, _, advice = str(error).partition(". ")
            answer.put(Check(name, False, sentence.rstrip(".") + ".", advice or "Run `edge doctor` again afterwards."))
        except Exception as error:  # noqa: BLE001 - a doctor who faints helps nobody: whatever a check meets is its finding
            answer.put(
                Check(name, False, f"{type(error).__name__}: {error}", "This was not foreseen; please report it.")
            )

    # A thread that hangs is left behind: it dies with the process, which is about to end.
    threading.Thread(target=examine, name=f"doctor-{name}", daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except queue.Empty:
        return Check(name, False, f"no answer within {seconds:.0f} s", "Look for a full disk or a machine under load.")


def _python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Check("Python", sys.version_info >= (3, 11), version, "Install Python 3.11 or newer, then `make install`.")


def _packages() -> Check:
    lock = resources() / "lock" / "runtime.txt"
    advice = "Run `make install` in the checkout."
    if not lock.is_file():
        return Check("Packages", None, f"no lock file here; {sys.prefix}")
    locked: dict[str, set[str]] = {}
    for name, version, marker in re.findall(
        r"^([\w.-]+)==([^\s;\\]+)[ \\]*(;?)", lock.read_text("utf-8"), re.MULTILINE
    ):
        # With a marker there may be several, or rightly none on this machine.
        locked.setdefault(name, set()).update([version, ""] if marker else [version])
    wrong = []
    for name, versions in locked.items():
        found = ""
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.version(name)
        if found not in versions:
            wrong.append(f"{name} is {found or 'missing'}, {' or '.join(sorted(versions - {''}))} is locked")
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        return Check("Packages", False, wrong[0] + more, advice)
    return Check("Packages", True, f"as locked, in {sys.prefix}")


def _clock() -> Check:
    # A box whose clock battery is empty wakes up before its own program was written.
    ok = time.time() > Path(__file__).stat().st_mtime - 86_400 and time.gmtime().tm_year < 2100
    detail = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return Check("Clock", ok, detail, "Set the clock: `timedatectl set-ntp true`, or `timedatectl set-time …`.")


def _data(settings: Settings) -> Check:
    name, folder = "Data directory", settings.data.dir
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return Check(name, False, f"{folder} cannot be written", "Set EDGE__DATA__DIR to a folder of your own.")
    free = shutil.disk_usage(nearest).free
    detail = f"{folder}, {free / 1e9:.1f} GB free"
    return Check(name, free >= FREE_BYTES, detail, "Free some space, or set EDGE__DATA__DIR to another disk.")


def _web_port(settings: Settings, card: dict[str, Any] | None) -> Check:
    name, host, port = "Dashboard port", settings.web.host, settings.web.port
    if card and (urlsplit(str(card.get("web"))).port or 80) == port:
        return Check(name, True, f"{port}, held by the running appliance")
    reason = busy(host, port)
    return Check(name, not reason, f"{host}:{port} {reason or 'is free'}", "Set EDGE__WEB__PORT to another port.")


def _postgres(settings: Settings) -> Check:
    if settings.database.dsn.get_secret_value():
        return Check("PostgreSQL", None, "a server of your own is set")
    folder = binaries()
    return Check("PostgreSQL", True, _first_line([str(folder / "postgres"), "--version"]))


def _database(settings: Settings) -> Check:
    dsn = settings.database.dsn.get_secret_value()
    if not dsn:
        return Check("Database", None, "embedded")
    with Database(dsn, size=2, timeout=3, name="edge-doctor").wait(patience=3):
        return Check("Database", True, "answers")


def _mosquitto(settings: Settings) -> Check:
    if settings.broker.url:
        return Check("mosquitto", None, "a broker of your own is set")
    program = find()
    if program is None:
        advice = "Run `make install`, install the package mosquitto, or set EDGE__BROKER__URL."
        return Check("mosquitto", False, "not found", advice)
    return Check("mosquitto", True, f"{_first_line([str(program), '-h'])} ({program})")


def _broker(settings: Settings) -> Check:
    if not settings.broker.url:
        return Check("Broker", None, "embedded")
    split = urlsplit(settings.broker.url)
    return _connects(
        "Broker", split.hostname or "", split.port or (8883 if split.scheme == "mqtts" else 1883), "BROKER"
    )


def _vectors(settings: Settings) -> Check:
    name, url = "Vector server", settings.vectors.url
    if not url:
        return Check(name, None, "embedded")
    if url.startswith("unix:"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(3)
            try:
                probe.connect(url.removeprefix("unix:"))
            except OSError as error:
                return Check(name, False, f"{url}: {error.strerror}", "Check EDGE__VECTORS__URL and who listens there.")
        return Check(name, True, f"{url} answers")
    split = urlsplit(url)
    return _connects(name, split.hostname or "", split.port or (443 if split.scheme == "https" else 6333), "VECTORS")


def _connects(name: str, host: str, port: int, section: str) -> Check:
    try:
        socket.create_connection((host, port), timeout=4).close()
    except OSError as error:
        detail = f"{host}:{port}: {error.strerror or error}"
        return Check(name, False, detail, f"Check EDGE__{section}__URL, the network, and that the server runs.")
    return Check(name, True, f"{host}:{port} answers")


def _model(settings: Settings) -> Check:
    encoder = open_encoder(settings)
    words = f"{encoder.name}, {encoder.dimension} dimensions, verified, {encoder.fingerprint[:12]}, runs on {encoder.provider}"
    return Check("Model", True, words)


def _calibration(settings: Settings, card: dict[str, Any] | None) -> Check:
    name, fingerprint = "Calibration", open_encoder(settings).fingerprint
    if shipped(fingerprint):
        return Check(name, True, "measured when this model was built")
    dsn = settings.database.dsn.get_secret_value() or (card or {}).get("dsn", "")
    if not dsn:
        return Check(name, None, "this model brought none; one of your own is read while the appliance runs")
    with Database(dsn, size=2, timeout=3, name="edge-doctor").wait(patience=3) as database:
        found = Calibrations(database, fingerprint).current()
    measured = found.origin != "generic"
    detail = f"version {found.version}" if measured else "a generic curve: probabilities are only a cautious guess"
    return Check(name, measured, detail, "Run `edge calibrate --prior`.")


def _running(settings: Settings, card: dict[str, Any] | None) -> Check:
    name = "Running appliance"
    if card is None:
        return Check(name, None, f"none on {settings.data.dir}")
    advice = f"See the logs in {settings.data.dir / 'logs'}."
    try:
        answer = httpx.get(f"{card['web']}/readyz", timeout=5, trust_env=False)
    except httpx.HTTPError as error:
        return Check(name, False, f"{card['web']} does not answer: {error}", advice)
    if answer.status_code == 200:
        return Check(name, True, f"{card['web']} is ready, process {card.get('pid')}")
    return Check(name, False, f"{card['web']} is not ready: {answer.text[:300]}", advice)


def _card(settings: Settings) -> dict[str, Any] | None:
    """What the appliance on these data says about itself, while its process lives."""
    try:
        card = json.loads((settings.run_dir / "appliance.json").read_text("utf-8"))
        return card if Path(f"/proc/{int(card['pid'])}").exists() and "web" in card else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    return (done.stdout or done.stderr).strip().partition("\n")[0]
