"""Webhooks as the Standard Webhooks specification 1.0 describes them: HMAC-SHA256 over id, time and body."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from edge.contract.andon import EVENTS
from edge.db import Database, Row
from edge.errors import Rejected, Unavailable

#: Seconds each part of a delivery may take: to connect, to send, to be answered.
TIMEOUT = 5.0

#: A delivery is tried so often, after 5, 10, 20, … seconds up to an hour: some four and a half hours. Then it is dead.
ATTEMPTS = 14

#: Deliveries of one turn: of one target, and in all.
EACH, TURN = 4, 16

#: Seconds until a delivery whose sender died is taken up again.
LEASE = 60

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Target:
    """A webhook as it may be shown: of its address only where it leads, since the rest may be a secret."""

    name: str
    place: str
    events: tuple[str, ...]
    pending: int
    dead: int
    last_done: datetime | None
    last_error: str | None


def add(
    database: Database, name: str, url: str, *, events: Sequence[str] = (), internal: bool = False, plain: bool = False
) -> str:
    """Register a target. Returns its secret (`whsec_…`), which nobody can read again.

    Raises `Rejected` for a name that is taken or an address that is not allowed: it must be https, unless `plain`, and
    outside the plant's own network, unless `internal`.
    """
    if not _NAME.fullmatch(name):
        raise Rejected(
            "The name of a webhook is made of a-z, 0-9, dot, dash and underscore, and begins with a letter or number."
        )
    for event in events:
        if event not in EVENTS:
            raise Rejected(f"There is no event {event}. Known are {', '.join(EVENTS)}.")
    _allowed(url, internal=internal, plain=plain)
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    with database.transaction() as tx:
        row = {"name": name, "url": url, "secret": key, "events": list(events), "internal": internal, "plain": plain}
        if not tx.run("webhook_add", **row):
            raise Rejected(f"There is a webhook {name} already. Remove it first, or choose another name.")
    return f"whsec_{key}"


def remove(database: Database, name: str) -> None:
    """Forget a target and what was to be delivered to it. Raises `Rejected` when there is none."""
    with database.transaction() as tx:
        if not tx.run("webhook_remove", name=name):
            raise Rejected(f"There is no webhook {name}.")


def every(database: Database) -> list[Target]:
    with database.transaction() as tx:
        rows = tx.all("webhooks")
    return [Target(place=_place(row.pop("url")), events=tuple(row.pop("events")), **row) for row in rows]


def dead(database: Database, name: str | None = None, limit: int = 50) -> list[Row]:
    """What could not be delivered, latest first: name, outbound_id, at, record_id, event, attempts, last_error."""
    with database.transaction() as tx:
        return tx.all("delivery_dead", name=name, limit=limit)


def replay(database: Database, name: str | None = None) -> int:
    """Try the dead letters of one target, or of all, again. Returns how many there were."""
    with database.transaction() as tx:
        return tx.run("delivery_replay", name=name)


def test(database: Database, name: str) -> None:
    """Deliver the event `test` now. Raises `Rejected` when there is no such target, `Unavailable` when it fails."""
    with database.transaction() as tx:
        row = tx.one("webhook_get", name=name)
    if row is None:
        raise Rejected(f"There is no webhook {name}.")
    at = datetime.now(UTC)
    payload = {"id": 0, "event": "test", "at": at.isoformat(), "by": "appliance", "details": {}, "case": None}
    if problem := deliver(row, f"test-{at.timestamp():.0f}", payload):
        raise Unavailable(f"The webhook {name} was not delivered: {problem}")


class Sender:
    """Delivers what is due. One thread drives it by calling `step`; several processes share the work."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="webhook")

    def step(self) -> bool:
        """One turn. True if anything was delivered or tried. Raises `Unavailable` without the database."""
        with self._database.transaction() as tx:
            rows = tx.all("delivery_claim", each=EACH, limit=TURN, lease=LEASE)
        problems = self._pool.map(lambda row: deliver(row, f"andon-{row['outbound_id']}", row["payload"]), rows)
        for row, problem in zip(rows, problems, strict=True):
            which = {"webhook_id": row["webhook_id"], "outbound_id": row["outbound_id"]}
            with self._database.transaction() as tx:
                if problem is None:
                    tx.run("delivery_done", **which)
                else:
                    over = row["attempts"] >= ATTEMPTS
                    tx.run("delivery_failed", error=problem, dead=over, seconds=back_off(row["attempts"]), **which)
        return bool(rows)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def back_off(attempts: int) -> float:
    """Seconds until the next try after so many."""
    return float(min(3_600, 5 * 2 ** (attempts - 1)))


def deliver(target: Mapping[str, Any], message_id: str, payload: Mapping[str, Any]) -> str | None:
    """POST one event. None when the target took it (2xx), else why not, in words without address or secret."""
    try:
        _allowed(target["url"], internal=target["internal"], plain=target["plain"])
    except Rejected as error:
        return str(error)
    body = json.dumps(payload, ensure_ascii=False).encode()
    now = int(time.time())
    headers = {
        "content-type": "application/json",
        "user-agent": "andon-edge",
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": signature(target["secret"], message_id, now, body),
    }
    try:
        # A redirect could lead where the admin has not allowed it; the answer's body is nothing we need.
        with (
            httpx.Client(timeout=TIMEOUT, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", target["url"], content=body, headers=headers) as answer,
        ):
            status = answer.status_code
    except httpx.TimeoutException:
        return f"No answer within {TIMEOUT:.0f} seconds."
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"It cannot be reached ({type(error).__name__})."
    return None if 200 <= status < 300 else f"It answered {status}."


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """`v1,` and the HMAC-SHA256 of "id.timestamp.body" by the key `secret` (Base64), in Base64."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def _allowed(url: str, *, internal: bool, plain: bool) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Rejected("The address of a webhook must be of the form https://host/path.") from error
    if parts.scheme not in ("https", "http") or not host:
        raise Rejected("The address of a webhook must be of the form https://host/path.")
    if parts.scheme == "http" and not plain:
        raise Rejected("The address of a webhook must begin with https://, unless it is added with --plain.")
    if internal:
        return
    try:
        found = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Rejected(f"The name {host} is not known.") from error
    if not all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_global for entry in found):
        raise Rejected(f"{host} is in a private network. If that is meant, add the webhook with --internal.")


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
